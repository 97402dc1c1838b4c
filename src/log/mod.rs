//! Container logs: from FIFOs to Docker's json-file lines, and from those lines to readers.

mod file;
pub mod forward;
mod journal;
mod options;
pub mod pump;
pub mod reader;
mod record;
mod recorder;
mod source;
pub mod streams;
pub mod tap;
mod writer;

pub use self::record::Origin;

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use writer::LogWriter;

/// One line of a log as Docker writes it: `{"log":"text\n","stream":"stdout","time":"…"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// With its line feed; without one if the line was cut or the stream ended.
    pub log: String,
    pub stream: String,
    pub time: Timestamp,
}

/// Name of the log in a container's folder (`state.container(id)`); rotated files are `<name>.1`, `.2` …
pub fn file_name(id: &str) -> String {
    format!("{id}-json.log")
}

/// How a log is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct LogOptions {
    pub path: PathBuf,
    /// Bytes at which a file is rotated; none: never.
    pub max_size: Option<u64>,
    /// Files kept, the current one included.
    pub max_files: u32,
    /// `none`: the output is read and dropped.
    pub discard: bool,
}
