//! The texts that were read and how each came to be read.

use std::path::{Path, PathBuf};

use crate::model::Origin;
use crate::yaml::{FileId, Span};

/// Why a file was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was named or found.
    Given,
    /// It stands behind the first file and overrides it.
    Override,
    /// `include` at this place names it.
    Include(Span),
    /// `extends` at this place names it.
    Extends(Span),
}

/// A text and its name as the user knows it.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
    pub reason: Reason,
    /// Offsets at which lines start.
    lines: Vec<u32>,
    /// Whether every byte is a character, so that columns need no counting.
    is_ascii: bool,
}

impl Source {
    fn new(path: PathBuf, text: String, reason: Reason) -> Self {
        let newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0)
            .chain(newlines)
            .map(|at| u32::try_from(at).unwrap_or(u32::MAX))
            .collect();
        Self {
            is_ascii: text.is_ascii(),
            path,
            text,
            reason,
            lines,
        }
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub fn position(&self, at: u32) -> (u32, u32) {
        let line = self.lines.partition_point(|start| *start <= at).max(1);
        let start = self.lines[line - 1] as usize;
        let end = (at as usize).min(self.text.len());
        let before = self.text.get(start..end).unwrap_or_default();
        let column = if self.is_ascii {
            before.len()
        } else {
            before.chars().count()
        };
        (
            u32::try_from(line).unwrap_or(u32::MAX),
            u32::try_from(column + 1).unwrap_or(u32::MAX),
        )
    }
}

impl Source {
    /// Bytes of a line, counted from 1, without its end.
    pub fn line(&self, line: u32) -> std::ops::Range<usize> {
        let start_of = |line: usize| {
            let start = self.lines.get(line).copied();
            start.map_or(self.text.len(), |start| start as usize)
        };
        let index = line.saturating_sub(1) as usize;
        let (start, next) = (start_of(index), start_of(index + 1));
        start..start + self.text[start..next].trim_end_matches('\n').len()
    }

    /// Bytes of the word at a place, both counted from 1: a key, or a value up to the end of its line.
    pub fn word_at(&self, line: u32, column: u32) -> std::ops::Range<usize> {
        let start = self.lines.get(line.saturating_sub(1) as usize).copied();
        let rest = &self.text[(start.unwrap_or(0) as usize).min(self.text.len())..];
        let skipped = column.saturating_sub(1) as usize;
        let before: usize = rest.chars().take(skipped).map(char::len_utf8).sum();
        let word = &rest[before..];
        let length = word.find([':', '\n']).unwrap_or(word.len());
        let begin = self.text.len() - word.len();
        begin..begin + word[..length].trim_end().len()
    }
}

/// All sources of one load.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    sources: Vec<Source>,
}

impl SourceMap {
    /// Adds a text and gives it a number.
    pub fn add(&mut self, path: PathBuf, text: String, reason: Reason) -> FileId {
        let id = FileId(u32::try_from(self.sources.len()).unwrap_or(u32::MAX - 1));
        self.sources.push(Source::new(path, text, reason));
        id
    }

    pub fn get(&self, file: FileId) -> Option<&Source> {
        self.sources.get(file.0 as usize)
    }

    /// Whether a text has `name` as a word of its own.
    pub(super) fn mentions(&self, name: &str) -> bool {
        let is_part = |character: char| character == '_' || character.is_alphanumeric();
        let stands_alone = |text: &str, at: usize| {
            !text[..at].ends_with(is_part) && !text[at + name.len()..].starts_with(is_part)
        };
        self.sources.iter().any(|source| {
            let text = &source.text;
            text.match_indices(name)
                .any(|(at, _)| stands_alone(text, at))
        })
    }

    /// The source that was read under this name.
    pub fn find(&self, path: &Path) -> Option<&Source> {
        self.sources.iter().find(|source| source.path == path)
    }

    /// The place of the start of a span.
    pub fn origin(&self, span: Span) -> Option<Origin> {
        let (file, line, column) = self.position(span)?;
        Some(Origin {
            file: file.to_owned(),
            line,
            column,
        })
    }

    /// The first line of a span in few words, without control characters.
    pub fn excerpt(&self, span: Span) -> Option<String> {
        const LONGEST: usize = 60;
        let text = &self.get(span.file)?.text;
        let text = text.get(span.start as usize..span.end as usize)?;
        let line = text.lines().next().unwrap_or_default().trim();
        let is_cut = line.chars().count() > LONGEST || text.trim_end().contains('\n');
        let mut excerpt: String = line
            .chars()
            .filter(|character| !character.is_control())
            .take(LONGEST)
            .collect();
        if is_cut {
            excerpt.push('…');
        }
        Some(excerpt)
    }

    /// Path, line and column of the start of a span.
    pub fn position(&self, span: Span) -> Option<(&Path, u32, u32)> {
        let source = self.get(span.file)?;
        let (line, column) = source.position(span.start);
        Some((&source.path, line, column))
    }
}
