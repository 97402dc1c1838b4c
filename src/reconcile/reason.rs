//! Reasons in words.

use std::fmt;

use serde_json::Value;

use super::plan::Reason;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::Changed { path, old, new } => match (old, new) {
                (Some(old), Some(new)) => write!(f, "{path}: {} → {}", text(old), text(new)),
                (None, Some(new)) => write!(f, "{path}: added {}", text(new)),
                (Some(old), None) => write!(f, "{path}: removed {}", text(old)),
                (None, None) => write!(f, "{path} changed"),
            },
            Self::Requested { by } => write!(f, "asked for by `{by}`"),
            Self::Follows { resource } => write!(f, "follows {resource}"),
            Self::NotRunning {
                exit_code: Some(code),
            } => write!(f, "exited ({code})"),
            Self::NotRunning { exit_code: None } => f.write_str("is not running"),
            Self::Stopping => f.write_str("is being stopped"),
            Self::Surplus => f.write_str("more replicas than wanted"),
            Self::Orphan => f.write_str("its service is not in the file"),
            Self::NotWanted => f.write_str("not wanted any more"),
            Self::Interrupted => f.write_str("an earlier command was interrupted"),
        }
    }
}

/// A value as people write it: text without quotes.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
