//! Patterns of `.dockerignore`, which are not those of `.gitignore`: each is rooted, and the last that matches decides.

use std::path::{Component, Path};

use regex::Regex;

/// What nobody wants to have synchronized: the store of git, and files that editors make for a moment.
pub(super) const ALWAYS: [&str; 14] = [
    "**/.git",
    "**/.idea",
    "**/*___jb_tmp___",
    "**/*___jb_old___",
    "**/*~",
    "**/.*.swp",
    "**/.*.swx",
    "**/.*.swo",
    "**/4913",
    "**/.#*",
    "**/#*#",
    "**/.*.kate-swp",
    "**/.*.sb-????????-??????",
    "**/.DS_Store",
];

/// One pattern.
#[derive(Clone, Debug)]
struct Rule {
    regex: Regex,
    /// The parts of the pattern, if it makes exceptions from those before it.
    exception: Option<Vec<String>>,
}

/// Patterns in their order. Paths are relative to the folder that the patterns belong to.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    rules: Vec<Rule>,
}

impl Patterns {
    /// Patterns as they are written; a wrong one is an error that names it.
    pub(super) fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut rules = Vec::new();
        for pattern in patterns {
            let pattern = pattern.trim();
            let (text, is_exception) = match pattern.strip_prefix('!') {
                Some(rest) => (rest.trim(), true),
                None => (pattern, false),
            };
            let parts = clean(text);
            if parts.is_empty() {
                continue;
            }
            let regex = Regex::new(&translate(&parts.join("/")))
                .map_err(|_| format!("`{pattern}` is not a pattern"))?;
            rules.push(Rule {
                regex,
                exception: is_exception.then_some(parts),
            });
        }
        Ok(Self { rules })
    }

    /// The patterns of a `.dockerignore`.
    pub(super) fn of_file(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::new(text.lines().filter(|line| !line.starts_with('#')))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether `path` or a folder that it is in matches.
    pub(super) fn matches(&self, path: &Path) -> bool {
        let Some(text) = path.to_str() else {
            return false;
        };
        let last = self.rules.iter().rfind(|rule| rule.regex.is_match(text));
        last.is_some_and(|rule| rule.exception.is_none())
    }

    /// Whether everything below the folder `path` matches, so that nobody needs to look into it.
    pub(super) fn matches_all_of(&self, path: &Path) -> bool {
        let mut exceptions = self.rules.iter().filter_map(|rule| rule.exception.as_ref());
        self.matches(path) && !exceptions.any(|parts| may_be_below(parts, path))
    }
}

/// Whether something below the folder `path` may match a pattern of these parts.
fn may_be_below(parts: &[String], path: &Path) -> bool {
    let mut parts = parts.iter();
    for folder in path.components() {
        match parts.next() {
            None => return false,
            Some(part) if part.contains(['*', '?', '[', '\\']) => return true,
            Some(part) if Component::Normal(part.as_ref()) != folder => return false,
            Some(_) => {}
        }
    }
    true
}

/// The parts of a pattern, without those that say nothing.
fn clean(pattern: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

/// A regular expression for a pattern and all that is below what it matches.
fn translate(pattern: &str) -> String {
    let mut regex = String::from("^");
    let mut rest = pattern;
    while let Some(character) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**/") {
            regex.push_str("(?:.*/)?");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("**") {
            regex.push_str(".*");
            rest = after;
        } else {
            let mut after = &rest[character.len_utf8()..];
            match character {
                '*' => regex.push_str("[^/]*"),
                '?' => regex.push_str("[^/]"),
                '[' => {
                    // As in Go: no slash in a class, `^` negates, the rest means the same.
                    regex.push('[');
                    if let Some(negated) = after.strip_prefix('^') {
                        regex.push('^');
                        after = negated;
                    }
                    let end = after.find(']').unwrap_or(after.len());
                    let class = &after[..end];
                    regex.push_str(&class.replace('[', "\\[").replace("&&", "&\\&"));
                    after = &after[end..];
                    if let Some(closed) = after.strip_prefix(']') {
                        regex.push(']');
                        after = closed;
                    }
                }
                '\\' => {
                    let escaped = after.chars().next().unwrap_or('\\');
                    regex.push_str(&regex::escape(&escaped.to_string()));
                    after = after.get(escaped.len_utf8()..).unwrap_or_default();
                }
                other => regex.push_str(&regex::escape(&other.to_string())),
            }
            rest = after;
        }
    }
    regex.push_str("(?:/.*)?$");
    regex
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(patterns: &[&str], path: &str) -> bool {
        Patterns::new(patterns.iter().copied())
            .unwrap()
            .matches(Path::new(path))
    }

    #[test]
    fn patterns_are_rooted_and_cover_what_is_below() {
        for (pattern, path, expected) in [
            ("foo", "foo", true),
            ("foo", "foo/a/b", true),
            ("foo", "a/foo", false),
            ("foo/", "foo/a", true),
            ("/foo", "foo", true),
            ("./foo", "foo", true),
            ("*.md", "x.md", true),
            ("*.md", "docs/x.md", false),
            ("**/*.md", "x.md", true),
            ("**/*.md", "docs/a/x.md", true),
            ("docs/**", "docs/x", true),
            ("docs/**/x", "docs/x", true),
            ("docs/**/x", "docs/a/b/x", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("{a,b}", "a", false),
            ("{a,b}", "{a,b}", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(matches(&[pattern], path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let patterns = ["*.md", "!README.md", "docs", "!docs/keep"];
        assert!(matches(&patterns, "x.md"));
        assert!(!matches(&patterns, "README.md"));
        assert!(matches(&patterns, "docs/x"));
        assert!(!matches(&patterns, "docs/keep/x"));
        assert!(matches(&["!README.md", "*.md"], "README.md"));
    }

    #[test]
    fn a_folder_is_left_out_as_a_whole_unless_there_may_be_an_exception_in_it() {
        let patterns = Patterns::new(["node_modules", "docs", "!docs/keep"]).unwrap();
        assert!(patterns.matches_all_of(Path::new("node_modules")));
        assert!(patterns.matches_all_of(Path::new("node_modules/a")));
        assert!(!patterns.matches_all_of(Path::new("docs")));
        assert!(patterns.matches_all_of(Path::new("docs/other")));
        assert!(!patterns.matches_all_of(Path::new("src")));
        let anywhere = Patterns::new(["vendor", "!**/*.go"]).unwrap();
        assert!(!anywhere.matches_all_of(Path::new("vendor")));
    }

    #[test]
    fn files_of_editors_and_git_are_left_out() {
        for path in [".git/HEAD", "a/.git", "a/b.txt~", ".main.c.swp", "a/.#x"] {
            assert!(matches(&ALWAYS, path), "{path}");
        }
        for path in [".gitignore", "a.txt", "swp"] {
            assert!(!matches(&ALWAYS, path), "{path}");
        }
    }

    #[test]
    fn comments_and_empty_lines_of_a_file_say_nothing() {
        let patterns = Patterns::of_file("\u{feff}# all\n\n  target  \n").unwrap();
        assert!(patterns.matches(Path::new("target/debug")));
        assert!(!patterns.matches(Path::new("# all")));
    }

    proptest! {
        #[test]
        fn no_pattern_makes_it_panic(pattern in "\\PC*", path in "\\PC*") {
            if let Ok(patterns) = Patterns::new([pattern.as_str()]) {
                patterns.matches(Path::new(&path));
                patterns.matches_all_of(Path::new(&path));
            }
        }
    }
}
