//! A log of one's own: whole lines, appended and rotated as those of containers are, so that the same readers follow it.

use std::io;

use jiff::Timestamp;

use super::LogOptions;
use super::file::LogFile;
use super::record::encode;

/// Appends lines to a log that nobody else writes.
#[derive(Debug)]
pub struct LogWriter {
    file: LogFile,
}

impl LogWriter {
    /// The file is made with the first line; only its owner may read it.
    pub fn new(options: LogOptions) -> Self {
        Self {
            file: LogFile::new(options),
        }
    }

    /// Appends one line, which `text` has without its line feed.
    pub fn append(&mut self, text: &str, stream: &str, time: Timestamp) -> io::Result<()> {
        self.file.refresh()?;
        let mut record = Vec::new();
        encode(&mut record, format!("{text}\n").as_bytes(), stream, time);
        if self.file.is_full(0) {
            self.file.rotate()?;
        }
        self.file.append(&record).map_err(|(_, error)| error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_rotated_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.log");
        let options = LogOptions {
            path: path.clone(),
            max_size: Some(100),
            max_files: 2,
            discard: false,
        };
        let time: Timestamp = "2026-11-21T05:00:00Z".parse().unwrap();
        for number in 0..5 {
            // Each time as another process would.
            let mut writer = LogWriter::new(options.clone());
            writer.append(&number.to_string(), "s", time).unwrap();
        }
        let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
        let old = text(&folder.path().join("events.log.1"));
        assert!(
            old.ends_with(
                "{\"log\":\"3\\n\",\"stream\":\"s\",\"time\":\"2026-11-21T05:00:00Z\"}\n"
            )
        );
        assert_eq!(text(&path).lines().count(), 1);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
