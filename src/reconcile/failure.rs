//! What went wrong, for whoever asked.

use serde::{Deserialize, Serialize};

/// One thing that failed, as data: it goes from the supervisor to commands, and to programs as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// As `container shop-db-1`; empty if the request as a whole failed.
    pub resource: String,
    pub message: String,
    /// Outermost first.
    pub causes: Vec<String>,
    pub hints: Vec<String>,
    /// Last lines of a log or the output of a probe.
    pub details: Vec<String>,
}

impl Failure {
    /// A failure of `resource` without causes, hints or details.
    pub fn new(resource: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            resource: resource.into(),
            message: message.into(),
            ..Self::default()
        }
    }

    /// What failed, in one line.
    pub fn headline(&self) -> String {
        if self.resource.is_empty() || self.message.contains(&self.resource) {
            self.message.clone()
        } else {
            format!("{}: {}", self.resource, self.message)
        }
    }

    /// All that is known of it, in several lines.
    pub fn report(&self) -> String {
        let mut lines = vec![self.headline()];
        lines.extend(
            self.causes
                .iter()
                .map(|cause| format!("  caused by: {cause}")),
        );
        let details = self.details.iter().flat_map(|detail| detail.lines());
        lines.extend(details.map(|line| format!("  | {line}")));
        lines.extend(self.hints.iter().map(|hint| format!("hint: {hint}")));
        lines.join("\n")
    }

    /// A failure of `resource` with the whole chain of `error`.
    pub fn from_error(
        resource: impl Into<String>,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let causes = std::iter::successors(error.source(), |error| error.source());
        Self {
            causes: causes.map(ToString::to_string).collect(),
            ..Self::new(resource, error.to_string())
        }
    }
}
