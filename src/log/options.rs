//! How a log is kept, from what a service says of it.

use std::path::PathBuf;

use super::LogOptions;
use crate::model::{Logging, parse_bytes};

/// Docker's defaults for its driver `local`, and for what it keeps beside drivers that send.
const LOCAL: (u64, u32) = (20 << 20, 5);

impl LogOptions {
    /// Options for a log at `path`: `max-size` and `max-file` of the drivers `json-file` (the default) and `local`; `none`
    /// keeps nothing. Beside `syslog` and `journald` the options are `cache-max-size`, `cache-max-file` and `cache-disabled`.
    /// Other drivers are kept as `json-file`, which the user was told.
    pub fn new(path: PathBuf, logging: &Logging) -> Self {
        let option = |name: &str| logging.options.get(name).map(String::as_str);
        let (sends, [max_size, max_file]) = match logging.driver.as_deref() {
            Some("syslog" | "journald") => (true, ["cache-max-size", "cache-max-file"]),
            _ => (false, ["max-size", "max-file"]),
        };
        let size = option(max_size).and_then(|size| parse_bytes(size).ok());
        let size = size
            .and_then(|size| u64::try_from(size).ok())
            .filter(|size| *size > 0);
        let files = option(max_file).and_then(|count| count.parse().ok());
        let (default_size, default_files) = match logging.driver.as_deref() {
            Some("local" | "syslog" | "journald") => (Some(LOCAL.0), LOCAL.1),
            _ => (None, 1),
        };
        Self {
            path,
            max_size: size.or(default_size),
            max_files: files.unwrap_or(default_files).max(1),
            discard: logging.driver.as_deref() == Some("none")
                || sends && option("cache-disabled") == Some("true"),
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

    #[test]
    fn what_is_sent_elsewhere_is_kept_as_a_cache() {
        let kept = options("syslog", &[("cache-max-size", "1m"), ("max-size", "2m")]);
        assert_eq!((kept.max_size, kept.max_files), (Some(1 << 20), 5));
        assert!(!kept.discard);
        assert!(options("journald", &[("cache-disabled", "true")]).discard);
    }
}
