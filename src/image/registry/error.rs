//! Why a registry did not give what was asked of it, and what the user may do about it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// A registry could not be asked, or refused. `host` is the registry or mirror that was asked last.
#[derive(Debug, Error)]
pub enum RegistryError {
    #[error("{}: {message}", path.display())]
    Settings { path: PathBuf, message: String },
    #[error("credential helper `{helper}` failed: {message}")]
    Helper { helper: String, message: String },
    #[error("the name `{host}` cannot be resolved")]
    UnknownHost { host: String },
    #[error("`{host}` refuses connections")]
    Refused { host: String },
    #[error("the certificate of `{host}` is not accepted: {reason}")]
    Certificate {
        host: String,
        reason: String,
        /// It may well be good, but nobody here knows who signed it.
        unknown_issuer: bool,
    },
    #[error("`{host}` does not answer in time")]
    Timeout { host: String },
    #[error("the connection to `{host}` failed")]
    Connection {
        host: String,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    #[error("`{host}` wants credentials for `{repository}`{}", and_words(message))]
    Unauthorized {
        host: String,
        repository: String,
        /// Credentials were found and not accepted.
        refused: bool,
        message: String,
    },
    #[error("`{host}` denies access to `{repository}`{}", and_words(message))]
    Denied {
        host: String,
        repository: String,
        refused: bool,
        message: String,
    },
    #[error("`{host}` has no {what}{}", and_words(message))]
    NotFound {
        host: String,
        what: String,
        message: String,
    },
    #[error(
        "`{host}` answers that there are too many requests{}",
        and_words(message)
    )]
    TooManyRequests {
        host: String,
        /// What it asks to wait.
        wait: Option<Duration>,
        message: String,
    },
    #[error("`{host}` answers with status {status}{}", and_words(message))]
    Status {
        host: String,
        status: u16,
        message: String,
    },
    #[error("`{host}` sent an answer that makes no sense: {reason}")]
    Nonsense { host: String, reason: String },
    #[error("`{host}` sent something else than {digest}")]
    WrongContent { host: String, digest: String },
    #[error("`{host}` closes the connection again and again; {done} of {size} bytes are here")]
    Cut { host: String, done: u64, size: u64 },
    #[error("{last}")]
    AfterMirrors {
        last: Box<Self>,
        /// What went wrong with the mirrors before.
        mirrors: Vec<String>,
    },
}

fn and_words(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

impl RegistryError {
    /// Sorts a failure of the transport.
    pub(super) fn from_transport(host: &str, error: reqwest::Error) -> Self {
        let host = host.to_owned();
        let mut current: Option<&(dyn StdError + 'static)> = Some(&error);
        let mut resolving = false;
        while let Some(cause) = current {
            if let Some(found) = cause.downcast_ref::<io::Error>() {
                if let Some(tls) = tls_error(found) {
                    return Self::from_tls(host, tls);
                }
                if found.kind() == io::ErrorKind::ConnectionRefused {
                    return Self::Refused { host };
                }
                if found.kind() == io::ErrorKind::TimedOut {
                    return Self::Timeout { host };
                }
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::from_tls(host, tls);
            }
            resolving |= cause.to_string().contains("dns error");
            current = cause.source();
        }
        if resolving {
            return Self::UnknownHost { host };
        }
        if error.is_timeout() {
            return Self::Timeout { host };
        }
        Self::Connection {
            host,
            // The address may carry a token in its query.
            source: innermost(&error.without_url()).into(),
        }
    }

    fn from_tls(host: String, error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(reason) => Self::Certificate {
                host,
                reason: certificate_words(reason),
                unknown_issuer: matches!(reason, rustls::CertificateError::UnknownIssuer),
            },
            rustls::Error::InvalidMessage(_) => Self::Nonsense {
                host,
                reason: "it does not speak TLS".into(),
            },
            other => Self::Connection {
                host,
                source: other.to_string().into(),
            },
        }
    }

    /// Whether the same may well succeed a moment later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Connection { .. })
    }

    /// Whether the host as such cannot be used.
    pub(super) fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::UnknownHost { .. }
                | Self::Refused { .. }
                | Self::Certificate { .. }
                | Self::Timeout { .. }
                | Self::Connection { .. }
        )
    }

    /// Whether the registry says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::AfterMirrors { last, .. } => last.is_not_found(),
            _ => false,
        }
    }

    /// What the user may do about it; often empty.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::UnknownHost { host } => vec![format!(
                "is `{host}` spelled well, and does this machine reach a name server?"
            )],
            Self::Certificate {
                host,
                unknown_issuer: true,
                ..
            } => vec![format!(
                "if the registry has its own authority, name it in \
                 `/etc/containerd/certs.d/{host}/hosts.toml`: `ca = \"/path/to/ca.crt\"`"
            )],
            Self::Nonsense { host, reason } if reason.contains("TLS") => vec![format!(
                "for a registry without TLS write `server = \"http://{host}\"` to \
                 `/etc/containerd/certs.d/{host}/hosts.toml`"
            )],
            Self::Unauthorized { host, refused, .. } | Self::Denied { host, refused, .. } => {
                vec![login_hint(host, *refused)]
            }
            Self::NotFound { what, .. } if what.starts_with("manifest") => {
                vec!["are name and tag spelled well, and was the image pushed?".into()]
            }
            Self::TooManyRequests { host, wait, .. } => {
                let when = wait.map_or_else(
                    || "later".to_owned(),
                    |wait| format!("in {} seconds", wait.as_secs()),
                );
                vec![format!(
                    "try again {when}; with an account the limit is often higher (`docker login {host}`)"
                )]
            }
            Self::Cut { .. } => vec!["the next attempt goes on where this one ended".into()],
            Self::AfterMirrors { last, mirrors } => {
                let mut hints = last.hints();
                hints.extend(
                    mirrors
                        .iter()
                        .map(|failure| format!("before that: {failure}")),
                );
                hints
            }
            _ => Vec::new(),
        }
    }
}

fn login_hint(host: &str, refused: bool) -> String {
    let host = match host {
        super::hosts::DOCKER_HOST => "",
        host => host,
    };
    let login = format!("docker login {host}");
    let login = login.trim_end();
    if refused {
        format!("the credentials found for it are not accepted; `{login}` renews them")
    } else {
        format!(
            "`{login}` stores credentials, in `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`"
        )
    }
}

fn certificate_words(error: &rustls::CertificateError) -> String {
    use rustls::CertificateError as Reason;
    match error {
        Reason::UnknownIssuer => "it is signed by an unknown authority".into(),
        Reason::Expired | Reason::ExpiredContext { .. } => "it has expired".into(),
        Reason::NotValidYet | Reason::NotValidYetContext { .. } => "it is not valid yet".into(),
        Reason::NotValidForName | Reason::NotValidForNameContext { .. } => {
            "it is for another name".into()
        }
        other => other.to_string(),
    }
}

/// What rustls says travels inside of I/O errors, which do not show it as their source.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    match inner.downcast_ref::<io::Error>() {
        Some(error) => tls_error(error),
        None => inner.downcast_ref(),
    }
}

/// The last cause, as those above it only say where it happened.
fn innermost(error: &dyn StdError) -> String {
    let mut current = error;
    while let Some(next) = current.source() {
        current = next;
    }
    current.to_string()
}
