//! State of one load: sources, what was found wrong, what was noticed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::diagnostic::{Problem, resolve};
use super::extends::Extends;
use super::options::{LoadError, LoadOptions};
use super::path::Path as NodePath;
use super::read::read;
use super::source::{Reason, SourceMap};
use super::trace::Trace;
use crate::yaml::{self, Document, FileId, Node, Span, Value};

/// Contents of configs and secrets that variables hold, by section and name. They are not in the tree,
/// so that nothing prints them.
pub(super) type Contents = HashMap<(&'static str, String), String>;

/// Bytes that files and variables may bring into one project.
const MAX_BYTES: usize = 256 << 20;
/// Values that `extends` may copy.
const MAX_COPIED: usize = 2_000_000;
/// Ports that ranges may stand for: all of TCP and UDP.
const MAX_PORTS: usize = 1 << 17;

/// What a load may still take, so that no input takes all memory.
#[derive(Debug)]
struct Budget {
    bytes: usize,
    copied: usize,
    ports: usize,
}

/// Something failed; what it was is in the session.
#[derive(Debug)]
pub(super) struct Failed;

pub(super) type Outcome<T> = Result<T, Failed>;

#[derive(Debug)]
pub(super) struct Session<'o> {
    pub(super) options: &'o LoadOptions,
    pub(super) sources: SourceMap,
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) extends: Extends,
    pub(super) contents: Contents,
    pub(super) no_file: bool,
    /// How often a file was included.
    pub(super) includes: usize,
    /// Every path whose content or existence the result depends on; absolute.
    pub(super) inputs: BTreeSet<PathBuf>,
    pub(super) trace: Trace,
    warned: HashSet<String>,
    /// Files of variables that were read.
    known: HashMap<PathBuf, FileId>,
    budget: Budget,
    /// Sections and resources of which something wrong was left out.
    broken: HashSet<(String, Option<String>)>,
    /// Files that were left out; none stands for one of which not even the text is known.
    left_out: Vec<Option<FileId>>,
    /// Values of which all has been said.
    told: HashSet<Span>,
}

impl<'o> Session<'o> {
    pub(super) fn new(options: &'o LoadOptions) -> Self {
        Self {
            options,
            sources: SourceMap::default(),
            errors: Vec::new(),
            warnings: Vec::new(),
            extends: Extends::default(),
            contents: Contents::default(),
            no_file: false,
            includes: 0,
            inputs: BTreeSet::new(),
            trace: Trace::new(options.trace),
            warned: HashSet::new(),
            known: HashMap::new(),
            budget: Budget {
                bytes: MAX_BYTES,
                copied: MAX_COPIED,
                ports: MAX_PORTS,
            },
            broken: HashSet::new(),
            left_out: Vec::new(),
            told: HashSet::new(),
        }
    }

    pub(super) fn error(&mut self, problem: Problem) {
        if !self.told.contains(&problem.place()) {
            self.errors.push(problem);
        }
    }

    /// Reports an error that makes a value useless: later phases have nothing to add.
    pub(super) fn last_error(&mut self, problem: Problem, value: Span) {
        self.error(problem);
        if value.is_known() {
            self.told.insert(value);
        }
    }

    /// Whether something is wrong with a value or one inside of it, of which all has been said.
    pub(super) fn is_useless(&self, node: &Node) -> bool {
        self.told.contains(&node.span)
            || match &node.value {
                Value::Sequence(items) => items.iter().any(|item| self.is_useless(item)),
                Value::Mapping(mapping) => mapping
                    .iter()
                    .any(|(_, entry)| self.is_useless(&entry.value)),
                _ => false,
            }
    }

    /// Notes that something at `path` was left out because it is wrong.
    pub(super) fn mark_broken(&mut self, path: &NodePath<'_>) {
        if let (Some(section), name) = path.resource() {
            self.broken
                .insert((section.to_owned(), name.map(str::to_owned)));
        }
    }

    /// Notes that a file was left out, with its text if that is known.
    pub(super) fn mark_left_out(&mut self, file: Option<FileId>) {
        self.left_out.push(file);
    }

    /// Whether a resource that is missing may have been in a part that was left out.
    pub(super) fn may_be_defined(&self, section: &str, name: &str) -> bool {
        self.broken.contains(&(section.to_owned(), None))
            || self.left_out.iter().any(|file| {
                let source = file.and_then(|file| self.sources.get(file));
                source.is_none_or(|source| source.text.contains(name))
            })
    }

    /// Whether what a resource lacks may have been in a part that was left out.
    pub(super) fn is_broken(&self, section: &str, name: &str) -> bool {
        self.may_be_defined(section, name)
            || self
                .broken
                .contains(&(section.to_owned(), Some(name.to_owned())))
    }

    /// Reports an error that ends the phase.
    pub(super) fn fail<T>(&mut self, problem: Problem) -> Outcome<T> {
        self.errors.push(problem);
        Err(Failed)
    }

    pub(super) fn warn(&mut self, problem: Problem) {
        self.warnings.push(problem);
    }

    /// Says once that a variable is not set.
    pub(super) fn warn_unset(&mut self, name: &str, span: Span) {
        if self.warned.insert(name.to_owned()) {
            self.warn(
                Problem::warning(format!(
                    "the variable `{name}` is not set; it counts as an empty text"
                ))
                .at(span)
                .hint(format!(
                    "set it in the environment or in `.env`, or write `${{{name}:-}}` if it may be empty"
                )),
            );
        }
    }

    /// Ends a phase: fails if anything was found wrong.
    pub(super) fn checkpoint(&self) -> Outcome<()> {
        self.checkpoint_since(0)
    }

    /// As [`Self::checkpoint`], for what was found after `errors` errors.
    pub(super) fn checkpoint_since(&self, errors: usize) -> Outcome<()> {
        if self.errors.len() == errors {
            Ok(())
        } else {
            Err(Failed)
        }
    }

    /// Notes that the result depends on what is at `path`, or on nothing being there.
    pub(super) fn depend_on(&mut self, path: &Path) {
        self.inputs.insert(self.options.working_dir.join(path));
    }

    /// Reads a file; `display` is its name in messages.
    pub(super) fn read(
        &mut self,
        path: &Path,
        display: &Path,
        reason: Reason,
        asked_at: Span,
    ) -> Outcome<FileId> {
        self.depend_on(path);
        match read(path) {
            Ok(bytes) => self.add(bytes, display, reason, asked_at),
            Err(error) => {
                let mut problem = Problem::error(format!(
                    "cannot read `{}`: {}",
                    display.display(),
                    io_reason(&error)
                ))
                .at(asked_at);
                if error.kind() == std::io::ErrorKind::NotFound
                    && let Some(hint) = self.similar_file(path, asked_at)
                {
                    problem = problem.hint(hint);
                }
                self.fail(problem)
            }
        }
    }

    /// As [`Self::read`], for a file of variables: many services may name the same.
    pub(super) fn read_variables(&mut self, path: &Path, asked_at: Span) -> Outcome<FileId> {
        if let Some(file) = self.known.get(path).copied() {
            let length = self.sources.get(file).map_or(0, |source| source.text.len());
            self.spend_bytes(length, asked_at)?;
            return Ok(file);
        }
        let display = self.display(path);
        let file = self.read(path, &display, Reason::Given, asked_at)?;
        self.known.insert(path.to_owned(), file);
        Ok(file)
    }

    /// Counts what files and variables bring into the project.
    pub(super) fn spend_bytes(&mut self, bytes: usize, span: Span) -> Outcome<()> {
        Self::spend(&mut self.budget.bytes, bytes).or_else(|Failed| {
            let limit = format!("{} MiB of text", MAX_BYTES >> 20);
            self.too_large(&limit, span)
        })
    }

    /// Counts values that `extends` copies.
    pub(super) fn spend_copies(&mut self, values: usize, span: Span) -> Outcome<()> {
        Self::spend(&mut self.budget.copied, values).or_else(|Failed| {
            let limit = format!("{MAX_COPIED} values by `extends`");
            self.too_large(&limit, span)
        })
    }

    /// Counts ports that ranges stand for.
    pub(super) fn spend_ports(&mut self, ports: usize, span: Span) -> Outcome<()> {
        Self::spend(&mut self.budget.ports, ports).or_else(|Failed| {
            let limit = format!("{MAX_PORTS} ports");
            self.too_large(&limit, span)
        })
    }

    fn spend(budget: &mut usize, amount: usize) -> Outcome<()> {
        *budget = budget.checked_sub(amount).ok_or(Failed)?;
        Ok(())
    }

    fn too_large(&mut self, limit: &str, span: Span) -> Outcome<()> {
        self.fail(Problem::error(format!("the project takes more than {limit}")).at(span))
    }

    /// Adds a text that is at hand.
    pub(super) fn add(
        &mut self,
        bytes: Vec<u8>,
        display: &Path,
        reason: Reason,
        asked_at: Span,
    ) -> Outcome<FileId> {
        self.spend_bytes(bytes.len(), asked_at)?;
        match String::from_utf8(bytes) {
            Ok(text) => {
                // Some editors on Windows put a mark before the text.
                let text = text
                    .strip_prefix('\u{feff}')
                    .map(str::to_owned)
                    .unwrap_or(text);
                Ok(self.sources.add(display.to_owned(), text, reason))
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let before = String::from_utf8_lossy(&error.as_bytes()[..at]);
                let line = before.split('\n').count();
                self.fail(
                    Problem::error(format!(
                        "`{}` is not UTF-8 text: line {line} has other bytes",
                        display.display()
                    ))
                    .at(asked_at),
                )
            }
        }
    }

    /// Parses a file that was read.
    pub(super) fn parse(&mut self, file: FileId) -> Outcome<Vec<Document>> {
        let text = self
            .sources
            .get(file)
            .map_or("", |source| source.text.as_str());
        match yaml::parse(text, file) {
            Ok(documents) => Ok(documents),
            Err(errors) => {
                for error in errors {
                    let mut problem = Problem::error(error.message).at(error.span);
                    if let Some((span, text)) = error.related {
                        problem = problem.label(span, text);
                    }
                    if let Some(hint) = error.hint {
                        problem = problem.hint(hint);
                    }
                    self.errors.push(problem);
                }
                Err(Failed)
            }
        }
    }

    /// The name of a path in messages: relative to the working directory where that is shorter.
    pub(super) fn display(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.options.working_dir)
            .ok()
            .filter(|relative| !relative.as_os_str().is_empty())
            .unwrap_or(path)
            .to_owned()
    }

    pub(super) fn into_error(self) -> LoadError {
        LoadError {
            diagnostics: resolve(self.errors, &self.sources),
            warnings: resolve(self.warnings, &self.sources),
            sources: self.sources,
            no_file: self.no_file,
            inputs: self.inputs,
        }
    }
}

/// An input or output error in few words.
pub(super) fn io_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

impl Session<'_> {
    /// A hint at a file beside `path` whose name is like it, other than the file that asks.
    fn similar_file(&self, path: &Path, asked_at: Span) -> Option<String> {
        let wanted = path.file_name()?.to_str()?;
        let asking = self.sources.get(asked_at.file);
        let asking = asking.and_then(|source| source.path.file_name());
        let names: Vec<String> = std::fs::read_dir(path.parent()?)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|name| asking != Some(name.as_os_str()))
            .filter_map(|name| name.into_string().ok())
            .collect();
        let name = super::diagnostic::closest(wanted, names.iter().map(String::as_str))?;
        Some(format!("there is a file `{name}` in that directory"))
    }

    /// The part of a span where its text has `needle`, or all of it.
    pub(super) fn sub_span(&self, span: Span, needle: &str) -> Span {
        let found = self.sources.get(span.file).and_then(|source| {
            let text = source.text.get(span.start as usize..span.end as usize)?;
            text.find(needle)
        });
        match (found, u32::try_from(needle.len())) {
            (Some(at), Ok(length)) if length > 0 => {
                let start = span.start + u32::try_from(at).unwrap_or_default();
                Span {
                    start,
                    end: start + length,
                    ..span
                }
            }
            _ => span,
        }
    }
}
