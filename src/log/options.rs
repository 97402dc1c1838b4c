//! How a log is kept, from what a service says of it.

use std::path::PathBuf;

use super::LogOptions;
use crate::model::{Logging, parse_bytes};

/// Docker's defaults for its driver `local`.
const LOCAL: (u64, u32) = (20 << 20, 5);

impl LogOptions {
    /// Options for a log at `path`: `max-size` and `max-file` of the drivers `json-file` (the default) and `local`; `none`
    /// keeps nothing. Other drivers are kept as `json-file`, which the user was told.
    pub fn new(path: PathBuf, logging: &Logging) -> Self {
        let option = |name: &str| logging.options.get(name).map(String::as_str);
        let size = option("max-size").and_then(|size| parse_bytes(size).ok());
        let size = size
            .and_then(|size| u64::try_from(size).ok())
            .filter(|size| *size > 0);
        let files = option("max-file").and_then(|count| count.parse().ok());
        let (default_size, default_files) = match logging.driver.as_deref() {
            Some("local") => (Some(LOCAL.0), LOCAL.1),
            _ => (None, 1),
        };
        Self {
            path,
            max_size: size.or(default_size),
            max_files: files.unwrap_or(default_files).max(1),
            discard: logging.driver.as_deref() == Some("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(driver: &str, options: &[(&str, &str)]) -> LogOptions {
        let pairs = options
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        let logging = Logging {
            driver: Some(driver.into()),
            options: pairs.collect(),
        };
        LogOptions::new("log".into(), &logging)
    }

    #[test]
    fn a_json_file_grows_unless_it_has_a_maximum() {
        assert_eq!(options("json-file", &[]).max_size, None);
        let rotated = options("json-file", &[("max-size", "10m"), ("max-file", "3")]);
        assert_eq!((rotated.max_size, rotated.max_files), (Some(10 << 20), 3));
    }

    #[test]
    fn local_is_rotated_and_none_is_dropped() {
        assert_eq!(options("local", &[]).max_size, Some(20 << 20));
        assert!(options("none", &[]).discard);
    }
}
