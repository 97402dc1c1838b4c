//! Where text goes: data to standard output, talk to standard error; colour and width.

use std::io::{self, BufWriter, IsTerminal as _, Stderr, Stdout, Write};

use super::error::CommandError;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressMode {
    /// A list that is drawn over and over in place.
    Tty,
    /// One line per event.
    Plain,
    /// One JSON object per event, errors too.
    Json,
    Quiet,
}

/// `--ansi`, resolved against the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ansi {
    Never,
    Always,
    Auto,
}

impl Ansi {
    /// The flag, else `COMPOSE_ANSI`, else `auto`.
    pub(crate) fn resolve(
        flag: Option<&str>,
        variable: Option<&str>,
    ) -> Result<Self, CommandError> {
        match flag.or(variable.filter(|value| !value.is_empty())) {
            None | Some("auto") => Ok(Self::Auto),
            Some("never") => Ok(Self::Never),
            Some("always") => Ok(Self::Always),
            Some(other) => Err(
                CommandError::usage(format!("unsupported --ansi value `{other}`"))
                    .hint("it is one of never, always, auto"),
            ),
        }
    }
}

/// Chooses how progress is shown; `terminal`: standard error is one.
pub(crate) fn progress_mode(
    flag: Option<&str>,
    ansi: Ansi,
    terminal: bool,
) -> Result<ProgressMode, CommandError> {
    let automatic = if terminal && ansi != Ansi::Never {
        ProgressMode::Tty
    } else {
        ProgressMode::Plain
    };
    match flag {
        None | Some("" | "auto") => Ok(automatic),
        Some("tty") if ansi == Ansi::Never => Err(CommandError::usage(
            "can't use --progress tty while ANSI support is disabled",
        )),
        Some("tty") => Ok(ProgressMode::Tty),
        Some("plain") if ansi == Ansi::Always => Err(CommandError::usage(
            "can't use --progress plain while ANSI support is forced",
        )),
        Some("plain") => Ok(ProgressMode::Plain),
        Some("json") => Ok(ProgressMode::Json),
        Some("quiet" | "none") => Ok(ProgressMode::Quiet),
        Some(other) => Err(CommandError::usage(format!(
            "unsupported --progress value \"{other}\""
        ))
        .hint("it is one of auto, tty, plain, json, quiet")),
    }
}

/// The two streams of a command.
#[derive(Debug)]
pub(crate) struct Ui {
    out: BufWriter<Stdout>,
    err: Stderr,
    /// Standard output may have colour.
    pub color: bool,
    /// Standard error may have colour.
    pub talk_color: bool,
    pub progress: ProgressMode,
    pub dry_run: bool,
}

impl Ui {
    /// `no_color`: the user set `NO_COLOR`.
    pub(crate) fn new(ansi: Ansi, no_color: bool, progress: ProgressMode, dry_run: bool) -> Self {
        let colored = |terminal: bool| match ansi {
            Ansi::Always => !no_color,
            Ansi::Auto => terminal && !no_color,
            Ansi::Never => false,
        };
        Self {
            out: BufWriter::with_capacity(1 << 16, io::stdout()),
            err: io::stderr(),
            color: colored(io::stdout().is_terminal()),
            talk_color: colored(io::stderr().is_terminal()),
            progress,
            dry_run,
        }
    }

    /// For errors before the options are known.
    pub(crate) fn bare() -> Self {
        Self::new(Ansi::Auto, false, ProgressMode::Plain, false)
    }

    /// Writes data. It reaches the reader at [`Ui::flush`] at the latest.
    pub(crate) fn data(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    pub(crate) fn data_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes talk at once. Nobody can be told that it failed, and work does not stop for it.
    pub(crate) fn talk(&mut self, text: &str) {
        self.err.write_all(text.as_bytes()).ok();
    }

    /// As [`Ui::talk`], for text that a container wrote to its standard error.
    pub(crate) fn error_data(&mut self, text: &str) -> io::Result<()> {
        self.out.flush()?;
        self.err.write_all(text.as_bytes())
    }

    /// As [`Ui::error_data`], for bytes of any kind.
    pub(crate) fn error_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.flush()?;
        self.err.write_all(bytes)
    }

    /// Says in a line of its own what goes on.
    pub(crate) fn note(&mut self, text: &str) {
        let line = match self.progress {
            ProgressMode::Json => format!("{}\n", serde_json::json!({ "message": text })),
            ProgressMode::Quiet => return,
            _ => format!("{text}\n"),
        };
        self.talk(&line);
    }

    pub(crate) fn warn(&mut self, text: &str) {
        let line = match self.progress {
            ProgressMode::Json => {
                let message = serde_json::json!({"warning": true, "message": text});
                format!("{message}\n")
            }
            _ => format!("{} {text}\n", paint(self.talk_color, "1;33", "warning:")),
        };
        self.talk(&line);
    }
}

/// Wraps `text` in the escape codes of `style` (as `1;31`) if `on`.
pub(crate) fn paint(on: bool, style: &str, text: &str) -> String {
    if on {
        format!("\x1b[{style}m{text}\x1b[0m")
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_progress_follows_standard_error() {
        let mode = |flag, ansi, terminal| progress_mode(flag, ansi, terminal).unwrap();
        assert_eq!(mode(None, Ansi::Auto, true), ProgressMode::Tty);
        assert_eq!(mode(Some("auto"), Ansi::Auto, false), ProgressMode::Plain);
        assert_eq!(mode(None, Ansi::Never, true), ProgressMode::Plain);
        assert_eq!(mode(Some("none"), Ansi::Auto, true), ProgressMode::Quiet);
        assert_eq!(mode(Some("tty"), Ansi::Auto, false), ProgressMode::Tty);
    }

    #[test]
    fn contradictions_of_progress_and_ansi_are_refused() {
        assert!(progress_mode(Some("tty"), Ansi::Never, true).is_err());
        assert!(progress_mode(Some("plain"), Ansi::Always, true).is_err());
        assert!(progress_mode(Some("foo"), Ansi::Auto, true).is_err());
    }

    #[test]
    fn the_flag_wins_over_the_variable() {
        assert_eq!(
            Ansi::resolve(Some("never"), Some("always")).unwrap(),
            Ansi::Never
        );
        assert_eq!(Ansi::resolve(None, Some("always")).unwrap(), Ansi::Always);
        assert_eq!(Ansi::resolve(None, Some("")).unwrap(), Ansi::Auto);
        assert!(Ansi::resolve(Some("sometimes"), None).is_err());
    }
}
