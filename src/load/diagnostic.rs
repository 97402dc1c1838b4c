//! What is wrong with a project, as data.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use indexmap::IndexMap;
use indexmap::map::Entry;
use serde::Serialize;

use super::source::{Reason, SourceMap};
use crate::model::Origin;
use crate::yaml::Span;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// A place that a diagnostic speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The file as the user named it; its text is in the [`SourceMap`].
    pub file: PathBuf,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// Bytes in the file.
    pub range: Range<usize>,
    /// What to say at the place; may be empty.
    pub text: String,
}

/// How the file of a diagnostic came to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// `included` or `extended`.
    pub verb: &'static str,
    pub origin: Origin,
}

/// Something wrong, or doubtful, with a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// One line in lower case, without a full stop.
    pub message: String,
    /// The first label is the place itself, others explain it. None where no file is at fault.
    pub labels: Vec<Label>,
    /// From the file of the first label back to a file that was given.
    pub chain: Vec<Link>,
    /// What would be right here, if that can be said.
    pub expected: Option<String>,
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// A warning about the value that was written at `origin`.
    pub fn warning_at(
        message: impl Into<String>,
        origin: Option<&Origin>,
        sources: &SourceMap,
    ) -> Self {
        let label = origin.and_then(|origin| {
            let source = sources.find(&origin.file)?;
            Some(Label {
                file: origin.file.clone(),
                line: origin.line,
                column: origin.column,
                range: source.word_at(origin.line, origin.column),
                text: String::new(),
            })
        });
        Self {
            severity: Severity::Warning,
            message: message.into(),
            labels: label.into_iter().collect(),
            chain: Vec::new(),
            expected: None,
            hints: Vec::new(),
        }
    }
}

/// One line: `compose.yaml:3:5: message`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(label) = self.labels.first() {
            let (file, line, column) = (label.file.display(), label.line, label.column);
            write!(f, "{file}:{line}:{column}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// A diagnostic in the making: places are still spans.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    severity: Severity,
    message: String,
    labels: Vec<(Span, String)>,
    expected: Option<String>,
    hints: Vec<String>,
}

impl Problem {
    pub(super) fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            labels: Vec::new(),
            expected: None,
            hints: Vec::new(),
        }
    }

    pub(super) fn warning(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message)
        }
    }

    /// Adds a place; the first is the one at fault.
    pub(super) fn at(self, span: Span) -> Self {
        self.label(span, "")
    }

    pub(super) fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        if span.is_known() {
            self.labels.push((span, text.into()));
        }
        self
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds `did you mean` if one of `candidates` is like `word`.
    pub(super) fn suggest<'c>(
        self,
        word: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> Self {
        match closest(word, candidates) {
            Some(candidate) => self.hint(format!("did you mean `{candidate}`?")),
            None => self,
        }
    }

    pub(super) fn place(&self) -> Span {
        self.labels.first().map_or(Span::NONE, |(span, _)| *span)
    }

    fn resolve(self, sources: &SourceMap) -> Diagnostic {
        let chain = chain(self.place(), sources);
        let labels = self
            .labels
            .into_iter()
            .filter_map(|(span, text)| {
                let (path, line, column) = sources.position(span)?;
                Some(Label {
                    file: path.to_owned(),
                    line,
                    column,
                    range: span.start as usize..span.end.max(span.start) as usize,
                    text,
                })
            })
            .collect();
        Diagnostic {
            severity: self.severity,
            message: self.message,
            labels,
            chain,
            expected: self.expected,
            hints: self.hints,
        }
    }
}

/// Problems that are told at once. Nobody reads more, and drawing them takes time.
const MAX_SHOWN: usize = 200;
/// Places that one of them has.
const MAX_PLACES: usize = 20;

/// Resolves problems to diagnostics in the order of their places. What is wrong in the same way in
/// several places is one diagnostic.
pub(super) fn resolve(mut problems: Vec<Problem>, sources: &SourceMap) -> Vec<Diagnostic> {
    problems.sort_by_key(Problem::place);
    let mut diagnostics: IndexMap<(Severity, String), Diagnostic> = IndexMap::new();
    let (count, severity) = (
        problems.len(),
        problems.first().map(|problem| problem.severity),
    );
    for (index, problem) in problems.into_iter().enumerate() {
        if diagnostics.len() == MAX_SHOWN {
            let message = format!("{} more are not shown", count - index);
            let rest = match severity {
                Some(Severity::Warning) => Problem::warning(message),
                _ => Problem::error(message),
            };
            let rest = rest.resolve(sources);
            diagnostics.insert((rest.severity, rest.message.clone()), rest);
            break;
        }
        let diagnostic = problem.resolve(sources);
        match diagnostics.entry((diagnostic.severity, diagnostic.message.clone())) {
            Entry::Vacant(entry) => {
                entry.insert(diagnostic);
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                for mut label in diagnostic.labels {
                    if known.labels.len() == MAX_PLACES {
                        break;
                    }
                    let is_known = known
                        .labels
                        .iter()
                        .any(|other| (&other.file, &other.range) == (&label.file, &label.range));
                    if !is_known {
                        if label.text.is_empty() {
                            "and here".clone_into(&mut label.text);
                        }
                        known.labels.push(label);
                    }
                }
            }
        }
    }
    diagnostics.into_values().collect()
}

fn chain(place: Span, sources: &SourceMap) -> Vec<Link> {
    let mut links = Vec::new();
    let mut place = place;
    // A cycle of files is an error of its own, but this must end in any case.
    while links.len() < 64 {
        let Some(source) = sources.get(place.file) else {
            break;
        };
        let (verb, from) = match source.reason {
            Reason::Given | Reason::Override => break,
            Reason::Include(from) => ("included", from),
            Reason::Extends(from) => ("extended", from),
        };
        let Some((path, line, column)) = sources.position(from) else {
            break;
        };
        links.push(Link {
            verb,
            origin: Origin {
                file: path.to_owned(),
                line,
                column,
            },
        });
        place = from;
    }
    links
}

/// Characters of a word for which others are proposed.
const MAX_MISTYPED: usize = 64;
/// Candidates that are looked at.
const MAX_CANDIDATES: usize = 1_000;

/// The candidate that is most like `word`, if one is like it at all.
pub(super) fn closest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let word = word.to_lowercase();
    let length = word.chars().count();
    // What is that long was not mistyped, and comparing takes time.
    if length > MAX_MISTYPED {
        return None;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= 4 * MAX_MISTYPED)
        .take(MAX_CANDIDATES)
        .map(|candidate| {
            let lower = candidate.to_lowercase();
            let distance = strsim::damerau_levenshtein(&word, &lower);
            // A word that only lacks an ending is likely meant, however long that is.
            let is_part = length >= 4 && (lower.starts_with(&word) || lower.ends_with(&word));
            let limit = if is_part {
                usize::MAX
            } else {
                (length / 3).max(1)
            };
            (distance, limit, candidate)
        })
        .filter(|(distance, limit, _)| distance <= limit)
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_meant_words_are_found() {
        let known = [
            "image",
            "environment",
            "published",
            "services",
            "ports",
            "dns",
        ];
        for (word, expected) in [
            ("imgae", Some("image")),
            ("enviroment", Some("environment")),
            ("env", None),
            ("publish", Some("published")),
            ("service", Some("services")),
            ("port", Some("ports")),
            ("DNS", Some("dns")),
            ("web", None),
            ("x", None),
        ] {
            assert_eq!(closest(word, known), expected, "{word}");
        }
    }
}
