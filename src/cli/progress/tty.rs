//! A list of resources and what happens to them, drawn over and over in place.

use std::fmt::Write as _;
use std::time::Instant;

use indexmap::IndexMap;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{DRY_RUN, Event, Phase};
use crate::cli::ui::paint;

const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// Columns of a bar.
const BAR: usize = 22;

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_LINE_REST: &str = "\x1b[K";

#[derive(Debug)]
struct Task {
    event: Event,
    since: Instant,
    until: Option<Instant>,
}

impl Task {
    /// Columns before the name: parts stand below their whole.
    fn indent(&self) -> usize {
        if self.event.parent.is_empty() { 0 } else { 2 }
    }

    /// How far it is, as `[=====>    ]`; empty where nothing is counted or all is done.
    fn bar(&self) -> String {
        let event = &self.event;
        if event.total == 0 || event.phase != Phase::Working || event.detail.is_empty() {
            return String::new();
        }
        let inside = BAR - 2;
        let percent = usize::try_from(event.percent()).unwrap_or(100);
        let filled = inside * percent / 100;
        let head = if filled < inside { ">" } else { "" };
        let body = format!("{}{head}", "=".repeat(filled));
        format!("[{body:inside$}]")
    }
}

/// The list and how much of it is on the screen.
#[derive(Debug)]
pub(super) struct TaskList {
    operation: &'static str,
    color: bool,
    tasks: IndexMap<String, Task>,
    /// Lines drawn, above the cursor.
    drawn: usize,
    frame: usize,
}

impl TaskList {
    pub(super) fn new(operation: &'static str, color: bool) -> Self {
        Self {
            operation,
            color,
            tasks: IndexMap::new(),
            drawn: 0,
            frame: 0,
        }
    }

    pub(super) fn update(&mut self, event: Event, now: Instant) {
        let until = (event.phase != Phase::Working).then_some(now);
        let key = event.key();
        let known = self.tasks.get(&key);
        let since = known.map_or(now, |task| task.since);
        let is_new = known.is_none();
        let task = Task {
            event,
            since,
            until,
        };
        // An event of a known resource keeps its place; a part comes after the other parts of the same whole.
        let parent = &task.event.parent;
        let place = self.tasks.iter().rposition(|(id, other)| {
            !parent.is_empty() && (id == parent || other.event.parent == *parent)
        });
        match place {
            Some(place) if is_new => {
                self.tasks.shift_insert(place + 1, key, task);
            }
            _ => {
                self.tasks.insert(key, task);
            }
        }
    }

    /// Escape codes that take the list off the screen.
    pub(super) fn clear(&mut self) -> String {
        let up = self.up();
        self.drawn = 0;
        if up.is_empty() { up } else { up + CLEAR_BELOW }
    }

    /// What was drawn last stays on the screen; later events begin a new list.
    pub(super) fn leave(&mut self) {
        self.drawn = 0;
        self.tasks.clear();
    }

    fn up(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r"),
        }
    }

    /// The list as of `now` for a screen of that size, with the codes that put it over the last one.
    pub(super) fn draw(
        &mut self,
        now: Instant,
        columns: usize,
        rows: usize,
        dry_run: bool,
    ) -> String {
        if self.tasks.is_empty() {
            return String::new();
        }
        self.frame = self.frame.wrapping_add(1);
        let wholes = || {
            let tasks = self.tasks.values();
            tasks.filter(|task| task.event.parent.is_empty())
        };
        let done = wholes().filter(|task| task.event.phase != Phase::Working);
        let mut lines = vec![format!(
            "[+] {} {}/{}",
            self.operation,
            done.count(),
            wholes().count()
        )];
        // Parts of what is done say nothing any more.
        let is_done = |id: &str| {
            let whole = self.tasks.get(id);
            whole.is_some_and(|task| task.event.phase != Phase::Working)
        };
        let tasks: Vec<&Task> = self
            .tasks
            .values()
            .filter(|task| task.event.parent.is_empty() || !is_done(&task.event.parent))
            .collect();
        // A list that is taller than the screen could not be drawn over.
        let room = rows.saturating_sub(2).max(1);
        let shown = if tasks.len() > room {
            room - 1
        } else {
            tasks.len()
        };
        let names = tasks
            .iter()
            .take(shown)
            .map(|task| task.indent() + task.event.id.width());
        let name_width = names.max().unwrap_or(0);
        for task in tasks.iter().take(shown) {
            lines.push(self.line(task, name_width, now, columns, dry_run));
        }
        if shown < tasks.len() {
            lines.push(format!(" ... {} more", tasks.len() - shown));
        }
        let mut frame = format!("{HIDE_CURSOR}{}", self.up());
        for line in &lines {
            frame.push_str(line);
            frame.push_str(CLEAR_LINE_REST);
            frame.push('\n');
        }
        frame.push_str(CLEAR_BELOW);
        frame.push_str(SHOW_CURSOR);
        self.drawn = lines.len();
        frame
    }

    fn line(
        &self,
        task: &Task,
        name_width: usize,
        now: Instant,
        columns: usize,
        dry_run: bool,
    ) -> String {
        let event = &task.event;
        let (sign, sign_style, status_style) = match event.phase {
            Phase::Working => (SPINNER[self.frame % SPINNER.len()], "33", ""),
            Phase::Done => ('✔', "32", "32"),
            Phase::Warning => ('!', "1;33", "1;33"),
            Phase::Error => ('✘', "1;31", "1;31"),
        };
        let elapsed = task.until.unwrap_or(now).duration_since(task.since);
        let timer = format!("{:.1}s", elapsed.as_secs_f64());
        let prefix = if dry_run { DRY_RUN } else { "" };
        let head = 3 + prefix.width();
        let fixed = head + 1 + event.status.width() + 1 + timer.width();
        let indent = " ".repeat(task.indent());
        let id = format!("{indent}{}", event.id);
        let name = cut(&id, columns.saturating_sub(fixed).max(10));
        let padding = name_width
            .min(columns.saturating_sub(fixed))
            .saturating_sub(name.width());
        let left = columns.saturating_sub(fixed + name.width() + padding + 1);
        let bar = task.bar();
        let detail = if !bar.is_empty() && left > BAR + 2 + event.detail.width() {
            format!(" {bar} {}", event.detail)
        } else if event.detail.is_empty() || left < 4 {
            String::new()
        } else {
            format!(
                " {}",
                cut(event.detail.lines().next().unwrap_or(""), left - 1)
            )
        };
        let gap = (columns + 1)
            .saturating_sub(fixed + name.width() + padding + detail.width())
            .max(1);
        let status = if status_style.is_empty() {
            event.status.clone()
        } else {
            paint(self.color, status_style, &event.status)
        };
        let mut line = String::new();
        let _ = write!(
            line,
            " {}{prefix} {name}{:padding$} {status}{detail}{:gap$}{}",
            paint(self.color, sign_style, &sign.to_string()),
            "",
            "",
            paint(self.color, "34", &timer),
        );
        line
    }
}

/// `text` in at most `width` columns, with `...` where something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.into();
    }
    let mut out = String::new();
    let mut used = 3;
    for character in text.chars() {
        used += character.width().unwrap_or(0);
        if used > width {
            break;
        }
        out.push(character);
    }
    out + "..."
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn event(id: &str, status: &str, detail: &str, phase: Phase) -> Event {
        Event {
            id: id.into(),
            status: status.into(),
            detail: detail.into(),
            phase,
            ..Event::default()
        }
    }

    fn visible(frame: &str) -> String {
        let codes = regex::Regex::new("\x1b\\[[?0-9;]*[a-zA-Z]").unwrap();
        codes.replace_all(frame, "").into_owned()
    }

    #[test]
    fn a_list_shows_names_states_and_times_in_columns() {
        let start = Instant::now();
        let mut list = TaskList::new("up", true);
        list.update(
            event("Network shop_default", "Created", "", Phase::Done),
            start,
        );
        list.update(
            event("Container shop-db-1", "Waiting", "", Phase::Working),
            start,
        );
        list.update(
            event("Container shop-web-1", "Error", "no space", Phase::Error),
            start,
        );
        let frame = list.draw(start + Duration::from_millis(1250), 60, 24, false);
        insta::assert_snapshot!(visible(&frame), @r"
        [+] up 2/3
         ✔ Network shop_default Created                         0.0s
         ⠙ Container shop-db-1  Waiting                         1.2s
         ✘ Container shop-web-1 Error no space                  0.0s
        ");
    }

    #[test]
    fn layers_stand_below_their_image_with_a_bar_until_it_is_there() {
        let start = Instant::now();
        let mut list = TaskList::new("pull", false);
        let image = |status: &str, phase| event("Image a", status, "", phase);
        let layer = |id: &str, current| Event {
            parent: "Image a".into(),
            current,
            total: 2_000_000,
            ..event(id, "Downloading", "1MB/2MB", Phase::Working)
        };
        list.update(image("Pulling", Phase::Working), start);
        list.update(event("Image b", "Pulling", "", Phase::Working), start);
        list.update(layer("17897edf7588", 1_000_000), start);
        list.update(layer("a6b7c8d9e0f1", 2_000_000), start);
        insta::assert_snapshot!(visible(&list.draw(start, 80, 24, false)), @r"
        [+] pull 0/2
         ⠙ Image a        Pulling                                                   0.0s
         ⠙   17897edf7588 Downloading [==========>         ] 1MB/2MB                0.0s
         ⠙   a6b7c8d9e0f1 Downloading [====================] 1MB/2MB                0.0s
         ⠙ Image b        Pulling                                                   0.0s
        ");
        list.update(image("Pulled", Phase::Done), start);
        insta::assert_snapshot!(visible(&list.draw(start, 60, 24, false)), @r"
        [+] pull 1/2
         ✔ Image a Pulled                                       0.0s
         ⠹ Image b Pulling                                      0.0s
        ");
    }

    #[test]
    fn a_second_frame_is_drawn_over_the_first() {
        let start = Instant::now();
        let mut list = TaskList::new("up", false);
        list.update(event("Container a", "Creating", "", Phase::Working), start);
        assert!(!list.draw(start, 80, 24, false).contains("A\r"));
        assert!(list.draw(start, 80, 24, false).contains("\x1b[2A\r"));
        assert_eq!(list.clear(), "\x1b[2A\r\x1b[J");
        assert!(!list.draw(start, 80, 24, false).contains("A\r"));
    }

    #[test]
    fn a_list_never_outgrows_the_screen() {
        let start = Instant::now();
        let mut list = TaskList::new("up", false);
        for number in 0..50 {
            list.update(
                event(&format!("Container {number}"), "Created", "", Phase::Done),
                start,
            );
        }
        let frame = visible(&list.draw(start, 80, 10, false));
        assert_eq!(frame.lines().count(), 9);
        assert!(frame.ends_with(" ... 43 more\n"));
    }

    proptest! {
        #[test]
        fn a_line_fits_the_screen(
            id in "[a-zé名]{0,60}", detail in "[a-z名 ]{0,60}", columns in 30usize..120,
        ) {
            let start = Instant::now();
            let mut list = TaskList::new("up", true);
            list.update(event(&id, "Recreated", &detail, Phase::Done), start);
            for line in visible(&list.draw(start, columns, 24, false)).lines() {
                prop_assert!(line.width() <= columns, "{line:?} {}", line.width());
            }
        }
    }
}
