//! Prints lines of logs.

use std::collections::BTreeMap;
use std::io;

use super::human;
use super::prefix::{Prefixes, short_name};
use super::ui::Ui;
use crate::log::Line;
use crate::stack::LogEntry;

/// Bytes of a line without an end that are kept until the end comes.
const LONGEST: usize = 1 << 20;

/// How lines are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogStyle {
    pub color: bool,
    pub prefix: bool,
    pub timestamps: bool,
    /// What a container wrote to its standard error goes to ours.
    pub apart: bool,
}

/// Puts parts of lines together and prints them with the name of their container.
#[derive(Debug)]
pub(crate) struct LogPrinter {
    project: String,
    style: LogStyle,
    prefixes: Prefixes,
    /// Beginnings of lines, by container and stream.
    begun: BTreeMap<(String, String), Line>,
}

impl LogPrinter {
    pub(crate) fn new(project: &str, style: LogStyle) -> Self {
        Self {
            project: project.into(),
            style,
            prefixes: Prefixes::new(style.color, style.prefix),
            begun: BTreeMap::new(),
        }
    }

    /// Makes containers known, so that all lines are aligned from the first.
    pub(crate) fn register<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            self.prefixes.register(short_name(&self.project, name));
        }
    }

    pub(crate) fn entry(&mut self, ui: &mut Ui, entry: LogEntry) -> io::Result<()> {
        match entry {
            LogEntry::Line { name, line } => self.line(ui, name, line),
            LogEntry::Trouble { name, text } => {
                ui.flush()?;
                ui.warn(&format!("container {name}: {text}"));
                Ok(())
            }
        }
    }

    fn line(&mut self, ui: &mut Ui, name: String, line: Line) -> io::Result<()> {
        let whole = line.log.ends_with('\n');
        if whole && self.begun.is_empty() {
            return self.print(ui, &name, &line);
        }
        let key = (name, line.stream.clone());
        let line = match self.begun.remove(&key) {
            Some(mut begun) => {
                begun.log.push_str(&line.log);
                begun
            }
            None => line,
        };
        if whole || line.log.len() > LONGEST {
            self.print(ui, &key.0, &line)
        } else {
            self.begun.insert(key, line);
            Ok(())
        }
    }

    fn print(&mut self, ui: &mut Ui, name: &str, line: &Line) -> io::Result<()> {
        let name = short_name(&self.project, name);
        let text = if self.style.timestamps {
            format!("{} {}", human::precise(line.time), line.log)
        } else {
            line.log.clone()
        };
        let text = self.prefixes.lines(name, &text);
        if self.style.apart && line.stream == "stderr" {
            ui.error_data(&text)
        } else {
            ui.data(&text)
        }
    }

    /// Prints what is left of lines of `container` (all if `None`) that never ended.
    pub(crate) fn flush(&mut self, ui: &mut Ui, container: Option<&str>) -> io::Result<()> {
        let left: Vec<(String, String)> = self
            .begun
            .keys()
            .filter(|(name, _)| container.is_none_or(|container| container == name))
            .cloned()
            .collect();
        for key in left {
            if let Some(line) = self.begun.remove(&key) {
                self.print(ui, &key.0, &line)?;
            }
        }
        ui.flush()
    }

    /// `web-1 exited with code 0`.
    pub(crate) fn status(&mut self, ui: &mut Ui, name: &str, message: &str) -> io::Result<()> {
        self.flush(ui, Some(name))?;
        let text = self
            .prefixes
            .status(short_name(&self.project, name), message);
        ui.data(&text)?;
        ui.flush()
    }
}
