//! Diagnostics as text: the line, a caret under the place, what would be right.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{
    Annotation, AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet,
};
use serde::Serialize;

use super::ui::paint;
use crate::load::{Diagnostic, Label, Severity, Source, SourceMap};

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub color: bool,
    /// Columns of the terminal.
    pub width: usize,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            color: false,
            width: 100,
        }
    }
}

/// Diagnostics that are drawn; the others get a line each, so that the first stay in sight.
const MOST_DRAWN: usize = 20;
/// Diagnostics that are told at all.
const MOST_TOLD: usize = 60;
/// Bytes of a source that are drawn whole. Drawing goes through all text that it is given.
const MOST_SHOWN: usize = 16 << 10;
/// Bytes on both sides of a place that are drawn of a longer text.
const AROUND: usize = 200;

/// Draws diagnostics one after the other, with an empty line between them and a newline at the end.
pub(crate) fn render<'d>(
    diagnostics: impl IntoIterator<Item = &'d Diagnostic>,
    sources: &SourceMap,
    style: Style,
) -> String {
    let mut out = String::new();
    let mut untold = 0_usize;
    for (index, diagnostic) in diagnostics.into_iter().enumerate() {
        match index {
            0 => {}
            1..=MOST_DRAWN => out.push('\n'),
            MOST_TOLD.. => {
                untold += 1;
                continue;
            }
            _ => {}
        }
        if index < MOST_DRAWN {
            out.push_str(&render_one(diagnostic, sources, style));
            out.push('\n');
        } else {
            out.push_str(&brief(diagnostic, style));
        }
    }
    if untold > 0 {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "… and {untold} more");
    }
    out
}

/// A diagnostic on one line.
fn brief(diagnostic: &Diagnostic, style: Style) -> String {
    let level = match diagnostic.severity {
        Severity::Error => paint(style.color, "1;31", "error:"),
        Severity::Warning => paint(style.color, "1;33", "warning:"),
    };
    let place = diagnostic.labels.first().map_or_else(String::new, |label| {
        format!("{}:{}:{}: ", label.file.display(), label.line, label.column)
    });
    format!("{level} {place}{}\n", visible(&diagnostic.message))
}

/// Diagnostics as data: a JSON object on a line for each. Beside the keys of [`Diagnostic`] there is
/// `error` or `warning` with `true`, as in every line that `--progress json` writes.
pub(crate) fn to_json_lines<'d>(diagnostics: impl IntoIterator<Item = &'d Diagnostic>) -> String {
    #[derive(Serialize)]
    struct Line<'d> {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        error: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        warning: bool,
        #[serde(flatten)]
        diagnostic: &'d Diagnostic,
    }
    diagnostics
        .into_iter()
        .filter_map(|diagnostic| {
            let line = Line {
                error: diagnostic.severity == Severity::Error,
                warning: diagnostic.severity == Severity::Warning,
                diagnostic,
            };
            // Only a path that is no text cannot be written.
            Some(serde_json::to_string(&line).ok()? + "\n")
        })
        .collect()
}

fn render_one(diagnostic: &Diagnostic, sources: &SourceMap, style: Style) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(visible(&diagnostic.message));
    let mut group = Group::with_title(title);
    group = group.elements(snippets(&diagnostic.labels, sources));
    for link in &diagnostic.chain {
        group = group.element(Level::NOTE.message(format!("{} from {}", link.verb, link.origin)));
    }
    if let Some(expected) = &diagnostic.expected {
        group = group.element(Level::NOTE.message(format!("expected {}", visible(expected))));
    }
    for hint in &diagnostic.hints {
        group = group.element(Level::HELP.message(visible(hint)));
    }
    let renderer = if style.color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    renderer
        .decor_style(DecorStyle::Ascii)
        .term_width(style.width.max(40))
        .render(&[group])
}

/// One snippet for each file, that of the first label first.
fn snippets<'s>(labels: &'s [Label], sources: &'s SourceMap) -> Vec<Element<'s>> {
    let mut files: Vec<&Path> = Vec::new();
    for label in labels {
        if !files.contains(&label.file.as_path()) {
            files.push(&label.file);
        }
    }
    let mut elements = Vec::new();
    for file in files {
        let Some(source) = sources.find(file) else {
            continue;
        };
        let path = file.display().to_string();
        let (lines, first_line) = lines_of(source, labels);
        if lines.len() <= MOST_SHOWN {
            let annotations = annotations(&source.text, &lines, file, labels);
            let snippet = Snippet::source(&source.text[lines])
                .path(path)
                .line_start(first_line);
            elements.push(snippet.annotations(annotations).into());
        } else if let Some(label) = labels.iter().find(|label| label.file == file) {
            // A part of a line does not know its column.
            let origin = Origin::path(path)
                .line(label.line as usize)
                .char_column(label.column as usize);
            let part = part_of_line(&source.text, label);
            let annotations = annotations(&source.text, &part, file, labels);
            let snippet = Snippet::source(&source.text[part]).line_start(label.line as usize);
            elements.push(origin.into());
            elements.push(snippet.annotations(annotations).into());
        }
    }
    elements
}

/// The labels of a file that lie in the part of it that is shown.
fn annotations<'s>(
    text: &str,
    shown: &std::ops::Range<usize>,
    file: &Path,
    labels: &'s [Label],
) -> Vec<Annotation<'s>> {
    let mut annotations = Vec::new();
    for (index, label) in labels.iter().enumerate() {
        let range = shown_range(text, label);
        if label.file != file || range.start < shown.start || range.start > shown.end {
            continue;
        }
        let kind = if index == 0 {
            AnnotationKind::Primary
        } else {
            AnnotationKind::Context
        };
        let end = range.end.min(shown.end);
        let annotation = kind.span(range.start - shown.start..end - shown.start);
        annotations.push(if label.text.is_empty() {
            annotation
        } else {
            annotation.label(visible(&label.text))
        });
    }
    annotations
}

/// What is around a label on its line.
fn part_of_line(text: &str, label: &Label) -> std::ops::Range<usize> {
    let range = shown_range(text, label);
    let start = floor(text, range.start.saturating_sub(AROUND));
    let end = floor(text, range.end.min(range.start + AROUND) + AROUND);
    let before = text[start..range.start].rfind('\n');
    let after = text[range.start..end].find('\n');
    let start = before.map_or(start, |newline| start + newline + 1);
    start..after.map_or(end, |newline| range.start + newline)
}

/// From the line of the first label in a source to that of the last, and the number of the first line.
fn lines_of(source: &Source, labels: &[Label]) -> (std::ops::Range<usize>, usize) {
    let ranges = labels
        .iter()
        .filter(|label| label.file == source.path)
        .map(|label| shown_range(&source.text, label));
    let (start, end) = ranges.fold((source.text.len(), 0), |(start, end), range| {
        (start.min(range.start), end.max(range.end))
    });
    let start = source.text[..start]
        .rfind('\n')
        .map_or(0, |newline| newline + 1);
    let rest = &source.text[end.max(start)..];
    let end = end.max(start) + rest.find('\n').unwrap_or(rest.len());
    let (line, _) = source.position(u32::try_from(start).unwrap_or(u32::MAX));
    (start..end, line as usize)
}

/// The range of a label, cut to its first line: a caret under a whole service helps nobody.
fn shown_range(text: &str, label: &Label) -> std::ops::Range<usize> {
    let start = floor(text, label.range.start);
    let end = floor(text, label.range.end).max(start);
    let first_line = text[start..end]
        .find('\n')
        .map_or(end, |newline| start + newline);
    let shown = text[start..first_line].trim_end().len();
    start..start + shown
}

/// The nearest boundary of a character at or before a byte.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A text without characters that would move the cursor.
fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars()
            .flat_map(|character| {
                let escaped = character.is_control().then(|| character.escape_default());
                let kept = escaped.is_none().then_some(character);
                escaped.into_iter().flatten().chain(kept)
            })
            .collect::<String>()
            .into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Reason;

    fn diagnostic(text: &str, range: std::ops::Range<usize>) -> (Diagnostic, SourceMap) {
        let mut sources = SourceMap::default();
        sources.add("compose.yaml".into(), text.to_owned(), Reason::Given);
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            message: "not \u{1b}[31mred".to_owned(),
            labels: vec![Label {
                file: "compose.yaml".into(),
                line: 1,
                column: 1,
                range,
                text: String::new(),
            }],
            chain: Vec::new(),
            expected: None,
            hints: Vec::new(),
        };
        (diagnostic, sources)
    }

    #[test]
    fn a_long_range_is_marked_on_its_first_line() {
        let (diagnostic, sources) = diagnostic("é: 1\nb: 2\n", 4..10);
        insta::assert_snapshot!(render([&diagnostic], &sources, Style::default()), @r"
        error: not \u{1b}[31mred
         --> compose.yaml:1:4
          |
        1 | é: 1
          |    ^
        ");
    }

    #[test]
    fn of_a_very_long_line_only_a_part_is_drawn() {
        let (before, after) = ("é, ".repeat(MOST_SHOWN), ", x".repeat(MOST_SHOWN));
        let text = format!("a: [{before}wrong{after}]\nb: 1\n");
        let start = text.find("wrong").unwrap();
        let (mut diagnostic, sources) = diagnostic(&text, start..start + 5);
        diagnostic.labels[0].column = 49_157;
        insta::assert_snapshot!(render([&diagnostic], &sources, Style::default()), @r"
        error: not \u{1b}[31mred
         --> compose.yaml:1:49157
          |
         ::: 
        1 | ...é, é, é, é, é, é, é, é, é, é, é, é, é, é, wrong, x, x, x, x, x, x, x, x, x, x, x, x, x, x,...
          |                                              ^^^^^
        ");
    }

    #[test]
    fn no_range_makes_drawing_panic() {
        let text = "é: 1\n\n";
        for start in 0..10 {
            for end in 0..10 {
                let (diagnostic, sources) = diagnostic(text, start..end);
                assert!(!render([&diagnostic], &sources, Style::default()).is_empty());
            }
        }
        let (diagnostic, sources) = diagnostic("", 0..0);
        assert!(!render([&diagnostic], &sources, Style::default()).is_empty());
    }
}
