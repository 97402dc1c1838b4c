//! Lines as syslog has them, in the three formats of Docker's driver.

use jiff::Zoned;

use super::{Message, hostname, severity};

/// Facilities by number.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];
const DAEMON: u8 = 3;

/// Reads a name or a number; nothing is `daemon`.
pub(super) fn facility(text: &str) -> Option<u8> {
    if text.is_empty() {
        return Some(DAEMON);
    }
    if let Ok(number) = text.parse::<u8>() {
        return (usize::from(number) < FACILITIES.len()).then_some(number);
    }
    let index = FACILITIES.iter().position(|name| *name == text)?;
    u8::try_from(index).ok()
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// As programs write to the syslog of their own host.
    Plain,
    Rfc3164,
    Rfc5424,
    /// With microseconds.
    Rfc5424Micro,
}

impl Format {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::Plain),
            "rfc3164" => Some(Self::Rfc3164),
            "rfc5424" => Some(Self::Rfc5424),
            "rfc5424micro" => Some(Self::Rfc5424Micro),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Encoder {
    facility: u8,
    format: Format,
    tag: String,
    hostname: String,
}

impl Encoder {
    pub(super) fn new(facility: u8, format: Format, tag: String) -> Self {
        Self {
            facility,
            format,
            tag,
            hostname: hostname(),
        }
    }

    /// Empty lines are left out.
    pub(super) fn encode(&self, message: &Message<'_>, now: &Zoned) -> Option<Vec<u8>> {
        if message.text.is_empty() {
            return None;
        }
        let priority = self.facility * 8 + severity(message.origin);
        let (tag, hostname, process) = (&self.tag, &self.hostname, std::process::id());
        let head = match self.format {
            Format::Plain => {
                let time = now.strftime("%b %e %H:%M:%S");
                format!("<{priority}>{time} {tag}[{process}]: ")
            }
            Format::Rfc3164 => {
                let time = now.strftime("%b %e %H:%M:%S");
                format!("<{priority}>{time} {hostname} {tag}[{process}]: ")
            }
            Format::Rfc5424 => {
                let time = now.strftime("%Y-%m-%dT%H:%M:%S%:z");
                format!("<{priority}>1 {time} {hostname} {tag} {process} {tag} - ")
            }
            Format::Rfc5424Micro => {
                let time = now.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z");
                format!("<{priority}>1 {time} {hostname} {tag} {process} {tag} - ")
            }
        };
        let mut packet = head.into_bytes();
        packet.extend_from_slice(message.text);
        packet.push(b'\n');
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::{TimeZone, offset};

    use super::super::Origin;
    use super::*;

    #[test]
    fn facilities_have_names_and_numbers() {
        let parsed = ["", "daemon", "local7", "0", "23"].map(facility);
        assert_eq!(parsed, [Some(3), Some(3), Some(23), Some(0), Some(23)]);
        assert_eq!(["24", "-1", "kitchen"].map(facility), [None, None, None]);
    }

    #[test]
    fn each_format_is_dockers() {
        let time: jiff::Timestamp = "2026-11-05T05:06:07.123456789Z".parse().unwrap();
        let now = time.to_zoned(TimeZone::fixed(offset(1)));
        let line = |format: &str, origin| {
            let format = Format::parse(format).unwrap();
            let mut encoder = Encoder::new(DAEMON, format, "web".into());
            encoder.hostname = "host".into();
            let message = Message {
                origin,
                text: b"hello",
                is_partial: false,
            };
            let line = encoder.encode(&message, &now).unwrap();
            let process = format!("{}", std::process::id());
            String::from_utf8(line).unwrap().replace(&process, "PID")
        };
        assert_eq!(
            line("", Origin::Stdout),
            "<30>Nov  5 06:06:07 web[PID]: hello\n"
        );
        assert_eq!(
            line("rfc3164", Origin::Stderr),
            "<27>Nov  5 06:06:07 host web[PID]: hello\n"
        );
        assert_eq!(
            line("rfc5424", Origin::Stdout),
            "<30>1 2026-11-05T06:06:07+01:00 host web PID web - hello\n"
        );
        assert_eq!(
            line("rfc5424micro", Origin::Stdout),
            "<30>1 2026-11-05T06:06:07.123456+01:00 host web PID web - hello\n"
        );
    }
}
