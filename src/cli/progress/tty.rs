//! A list of resources and what happens to them, drawn over and over in place.

use std::fmt::Write as _;
use std::time::Instant;

use indexmap::IndexMap;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{DRY_RUN, Event, Phase};
use crate::cli::ui::paint;

const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

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
        let since = self.tasks.get(&event.id).map_or(now, |task| task.since);
        let task = Task {
            event,
            since,
            until,
        };
        // An event of a known resource keeps its place.
        self.tasks.insert(task.event.id.clone(), task);
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
        let done = self
            .tasks
            .values()
            .filter(|task| task.event.phase != Phase::Working);
        let mut lines = vec![format!(
            "[+] {} {}/{}",
            self.operation,
            done.count(),
            self.tasks.len()
        )];
        // A list that is taller than the screen could not be drawn over.
        let room = rows.saturating_sub(2).max(1);
        let shown = if self.tasks.len() > room {
            room - 1
        } else {
            self.tasks.len()
        };
        let names = self.tasks.keys().take(shown).map(|id| id.width());
        let name_width = names.max().unwrap_or(0);
        for task in self.tasks.values().take(shown) {
            lines.push(self.line(task, name_width, now, columns, dry_run));
        }
        if shown < self.tasks.len() {
            lines.push(format!(" ... {} more", self.tasks.len() - shown));
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
        let name = cut(&event.id, columns.saturating_sub(fixed).max(10));
        let padding = name_width
            .min(columns.saturating_sub(fixed))
            .saturating_sub(name.width());
        let left = columns.saturating_sub(fixed + name.width() + padding + 1);
        let detail = if event.detail.is_empty() || left < 4 {
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
