//! The path of a value while the tree is walked.

use std::fmt;

/// A step from a value to one inside it.
#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

/// A path as a chain of steps on the stack; it is put into words only for a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path<'p> {
    parent: Option<&'p Self>,
    step: Step<'p>,
}

impl<'p> Path<'p> {
    pub(super) const ROOT: Path<'static> = Path {
        parent: None,
        step: Step::Root,
    };

    pub(super) fn key<'c>(&'c self, key: &'c str) -> Path<'c> {
        Path {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    pub(super) fn index(&self, index: usize) -> Path<'_> {
        Path {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// The first two keys: a section and the name of a resource in it.
    pub(super) fn resource(&self) -> (Option<&'p str>, Option<&'p str>) {
        let (section, name) = self.parent.map_or((None, None), Self::resource);
        match (self.step, section, name) {
            (Step::Key(key), None, None) => (Some(key), None),
            (Step::Key(key), Some(section), None) => (Some(section), Some(key)),
            _ => (section, name),
        }
    }

    /// The last key.
    pub(super) fn name(&self) -> &'p str {
        match self.step {
            Step::Key(key) => key,
            Step::Root | Step::Index(_) => "",
        }
    }
}

/// As in `services.web.ports[0]`.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) => {
                let is_first = self
                    .parent
                    .is_none_or(|parent| matches!(parent.step, Step::Root));
                write!(f, "{}{key}", if is_first { "" } else { "." })
            }
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}
