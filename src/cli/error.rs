//! The one place where errors become text and an exit code.

use std::io;
use std::process::ExitCode;

use serde_json::json;

use super::ui::{ProgressMode, Ui, paint};
use crate::reconcile::failure::Failure;
use crate::stack::StackError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    Success,
    Failure,
    /// `plan --detailed-exitcode`: there is something to do.
    Changes,
    /// The code of a container or of a process in one.
    Container(u8),
    /// By a signal from the user, or a declined question.
    Interrupted,
}

impl ExitStatus {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Changes => 2,
            Self::Container(code) => code,
            Self::Interrupted => 130,
        }
    }

    /// From the exit code of a container, which has at most eight bits.
    pub(crate) fn container(code: u32) -> Self {
        Self::Container(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

/// What to do as long as nothing is built here.
pub(crate) const BUILD_HINT: &str = "build the image with another tool and name it with `image`";

/// What sort of error it is decides how it is shown and the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The user, the files or the world are not as they should be.
    User,
    /// The command line is wrong.
    Usage,
    /// Whoever read the output has gone: ends quietly.
    BrokenPipe,
    /// The text is complete already (diagnostics of files, usage).
    Rendered,
    /// Nothing is left to be said: the user ended it.
    Interrupted,
    /// A command in a container could not be started: 126 or 127.
    Exec(u8),
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    pub kind: ErrorKind,
    pub failures: Vec<Failure>,
    pub hints: Vec<String>,
}

impl CommandError {
    fn new(kind: ErrorKind, failure: Failure) -> Self {
        Self {
            kind,
            failures: vec![failure],
            hints: Vec::new(),
        }
    }

    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::User, Failure::new("", message))
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, Failure::new("", message))
    }

    /// An option or a command that is known and cannot be honoured yet.
    pub(crate) fn unsupported(what: &str) -> Self {
        Self::usage(format!("`{what}` is not supported yet"))
    }

    /// `text` is shown as it is.
    pub(crate) fn rendered(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Rendered, Failure::new("", text))
    }

    pub(crate) fn interrupted() -> Self {
        Self {
            kind: ErrorKind::Interrupted,
            failures: Vec::new(),
            hints: Vec::new(),
        }
    }

    pub(crate) fn failed(failures: Vec<Failure>) -> Self {
        Self {
            kind: ErrorKind::User,
            failures,
            hints: Vec::new(),
        }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn hint_if(self, hint: Option<String>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    pub(crate) fn exit_status(&self) -> ExitStatus {
        match self.kind {
            ErrorKind::User | ErrorKind::Usage | ErrorKind::Rendered => ExitStatus::Failure,
            ErrorKind::BrokenPipe => ExitStatus::Success,
            ErrorKind::Interrupted => ExitStatus::Interrupted,
            ErrorKind::Exec(code) => ExitStatus::Container(code),
        }
    }

    /// Shows the error and returns how the command ended.
    pub(crate) fn report(&self, ui: &mut Ui) -> ExitStatus {
        // What was printed before comes first.
        ui.flush().ok();
        ui.talk(&self.shown(ui.progress == ProgressMode::Json, ui.talk_color));
        self.exit_status()
    }

    /// For programs if `json`, else for people.
    pub(crate) fn shown(&self, json: bool, color: bool) -> String {
        if json && self.kind != ErrorKind::Rendered {
            self.json()
        } else {
            self.text(color)
        }
    }

    /// For people.
    pub(crate) fn text(&self, color: bool) -> String {
        if matches!(self.kind, ErrorKind::BrokenPipe | ErrorKind::Interrupted) {
            return String::new();
        }
        if self.kind == ErrorKind::Rendered {
            return self
                .failures
                .iter()
                .map(|failure| failure.message.as_str())
                .collect();
        }
        let mut text = String::new();
        for failure in &self.failures {
            text.push_str(&paint(color, "1;31", "error:"));
            text.push(' ');
            text.push_str(&failure.headline());
            text.push('\n');
            for cause in &failure.causes {
                text.push_str("  caused by: ");
                text.push_str(cause);
                text.push('\n');
            }
            for line in failure.details.iter().flat_map(|detail| detail.lines()) {
                text.push_str(&paint(color, "2", "  | "));
                text.push_str(line);
                text.push('\n');
            }
        }
        for hint in self.all_hints() {
            text.push_str(&paint(color, "1;36", "hint:"));
            text.push(' ');
            text.push_str(hint);
            text.push('\n');
        }
        text
    }

    /// For programs: one object per line.
    fn json(&self) -> String {
        if matches!(self.kind, ErrorKind::BrokenPipe | ErrorKind::Interrupted) {
            return String::new();
        }
        let hints = self.all_hints();
        let mut text = String::new();
        for failure in &self.failures {
            let mut object = json!({"error": true, "message": failure.headline().trim_end()});
            if !failure.resource.is_empty() {
                object["resource"] = failure.resource.clone().into();
            }
            if !failure.causes.is_empty() {
                object["causes"] = failure.causes.clone().into();
            }
            if !failure.details.is_empty() {
                object["details"] = failure.details.clone().into();
            }
            if !hints.is_empty() {
                object["hints"] = hints.clone().into();
            }
            text.push_str(&object.to_string());
            text.push('\n');
        }
        text
    }

    /// Hints of the error and of its failures, each once.
    fn all_hints(&self) -> Vec<&str> {
        let mut hints: Vec<&str> = Vec::new();
        let of_failures = self.failures.iter().flat_map(|failure| &failure.hints);
        for hint in of_failures.chain(&self.hints) {
            if !hints.contains(&hint.as_str()) {
                hints.push(hint);
            }
        }
        hints
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self {
                kind: ErrorKind::BrokenPipe,
                failures: Vec::new(),
                hints: Vec::new(),
            }
        } else {
            Self::new(ErrorKind::User, Failure::from_error("", &error))
        }
    }
}

impl From<StackError> for CommandError {
    fn from(error: StackError) -> Self {
        match error {
            StackError::Failed(failures) => Self::failed(failures),
            StackError::NotStarted { code, failures } => Self {
                kind: ErrorKind::Exec(u8::try_from(code).unwrap_or(1)),
                ..Self::failed(failures)
            },
            error => {
                let failure = Failure {
                    hints: error.hints(),
                    details: error.details().to_vec(),
                    ..Failure::from_error("", &error)
                };
                Self::new(ErrorKind::User, failure)
            }
        }
    }
}

/// The candidate that looks most like `name`, as a hint.
pub(crate) fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_causes_details_and_each_hint_once() {
        let failure = Failure {
            resource: "container shop-web-1".into(),
            message: "service `db` is unhealthy".into(),
            causes: vec!["probe exited with code 1".into()],
            hints: vec!["look at the log".into()],
            details: vec!["connection refused\nretrying".into()],
        };
        let error = CommandError::failed(vec![failure.clone(), failure]).hint("look at the log");
        insta::assert_snapshot!(error.text(false), @r"
        error: container shop-web-1: service `db` is unhealthy
          caused by: probe exited with code 1
          | connection refused
          | retrying
        error: container shop-web-1: service `db` is unhealthy
          caused by: probe exited with code 1
          | connection refused
          | retrying
        hint: look at the log
        ");
    }

    #[test]
    fn json_errors_have_docker_s_two_keys_first() {
        let error = CommandError::user("no such service: dv").hint("did you mean `db`?");
        assert_eq!(
            error.json(),
            "{\"error\":true,\"message\":\"no such service: dv\",\"hints\":[\"did you mean `db`?\"]}\n"
        );
    }

    #[test]
    fn a_broken_pipe_is_no_failure_and_says_nothing() {
        let error = CommandError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(error.exit_status(), ExitStatus::Success);
        assert_eq!(error.text(false), "");
    }

    #[test]
    fn only_near_names_are_suggested() {
        let names = ["database", "web", "worker"];
        assert_eq!(
            did_you_mean("databsae", names).unwrap(),
            "did you mean `database`?"
        );
        assert_eq!(did_you_mean("wbe", names).unwrap(), "did you mean `web`?");
        assert_eq!(did_you_mean("queue", names), None);
    }

    #[test]
    fn codes_of_containers_keep_their_low_eight_bits() {
        assert_eq!(ExitStatus::container(143).code(), 143);
        assert_eq!(ExitStatus::container(256).code(), 0);
    }
}
