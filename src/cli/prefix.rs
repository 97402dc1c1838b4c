//! Lines of logs with the name of their container before them.

use indexmap::IndexMap;

use super::ui::paint;

/// Colours in the order in which containers get them.
const RAINBOW: [&str; 10] = [
    "36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1",
];

/// Gives each container its colour, and all the same width.
#[derive(Debug)]
pub(crate) struct Prefixes {
    color: bool,
    /// Without, lines are printed bare.
    shown: bool,
    width: usize,
    /// Colour by container.
    known: IndexMap<String, &'static str>,
}

impl Prefixes {
    pub(crate) fn new(color: bool, shown: bool) -> Self {
        Self {
            color,
            shown,
            width: 0,
            known: IndexMap::new(),
        }
    }

    /// Makes `name` known, so that lines of others are aligned to it from now on.
    pub(crate) fn register(&mut self, name: &str) {
        self.width = self.width.max(name.chars().count());
        if !self.known.contains_key(name) {
            let color = RAINBOW[self.known.len() % RAINBOW.len()];
            self.known.insert(name.into(), color);
        }
    }

    /// `text`, which may be several lines, each behind `web-1  | ` and ended by a line feed.
    pub(crate) fn lines(&mut self, name: &str, text: &str) -> String {
        self.register(name);
        let prefix = if self.shown {
            let padded = format!("{name:<width$} | ", width = self.width + 1);
            paint(self.color, self.known[name], &padded)
        } else {
            String::new()
        };
        let mut out = String::with_capacity(text.len() + prefix.len() + 1);
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            out.push_str(&prefix);
            out.push_str(line);
            out.push('\n');
        }
        out
    }

    /// A line about the container itself, in its colour: `web-1 exited with code 0`.
    pub(crate) fn status(&mut self, name: &str, message: &str) -> String {
        self.register(name);
        let text = format!("{name} {message}");
        let start = if self.color { "\r\x1b[K" } else { "" };
        format!("{start}{}\n", paint(self.color, self.known[name], &text))
    }
}

/// Name of a container without that of its project, if it has the usual form.
pub(crate) fn short_name<'a>(project: &str, name: &'a str) -> &'a str {
    name.strip_prefix(project)
        .and_then(|rest| rest.strip_prefix(['-', '_']))
        .filter(|rest| !rest.is_empty())
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_padded_to_the_longest_name_known() {
        let mut prefixes = Prefixes::new(false, true);
        assert_eq!(
            prefixes.lines("web-1", "a\nb\n"),
            "web-1  | a\nweb-1  | b\n"
        );
        prefixes.register("once-1");
        assert_eq!(prefixes.lines("web-1", "c"), "web-1   | c\n");
        assert_eq!(prefixes.lines("once-1", "\n"), "once-1  | \n");
    }

    #[test]
    fn colours_are_given_in_docker_s_order_and_start_again() {
        let mut prefixes = Prefixes::new(true, true);
        assert_eq!(
            prefixes.lines("web-1", "x\n"),
            "\x1b[36mweb-1  | \x1b[0mx\n"
        );
        assert_eq!(prefixes.lines("db-1", "x\n"), "\x1b[33mdb-1   | \x1b[0mx\n");
        assert_eq!(
            prefixes.status("web-1", "exited with code 3"),
            "\r\x1b[K\x1b[36mweb-1 exited with code 3\x1b[0m\n"
        );
        for number in 0..8 {
            prefixes.register(&number.to_string());
        }
        assert!(prefixes.lines("n", "x").starts_with("\x1b[36mn"));
    }

    #[test]
    fn without_prefixes_only_the_text_is_left() {
        let mut prefixes = Prefixes::new(true, false);
        assert_eq!(prefixes.lines("web-1", "x\n"), "x\n");
    }

    #[test]
    fn a_custom_name_stays_whole() {
        assert_eq!(short_name("shop", "shop-web-1"), "web-1");
        assert_eq!(short_name("shop", "shop_web_1"), "web_1");
        assert_eq!(short_name("shop", "shopping-cart"), "shopping-cart");
        assert_eq!(short_name("shop", "shop-"), "shop-");
    }
}
