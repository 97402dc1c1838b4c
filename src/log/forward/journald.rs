//! Lines as entries of systemd's journal, in its native protocol, with Docker's fields.

use std::path::Path;

use regex::Regex;

use super::wire::Address;
use super::{About, Message, severity, short};

const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) fn address() -> Address {
    Address::Unixgram(SOCKET.into())
}

pub(super) fn is_there() -> bool {
    Path::new(SOCKET).exists()
}

/// Labels and variables that become fields.
#[derive(Clone, Debug, Default)]
pub(super) struct Extra {
    pub(super) labels: Names,
    pub(super) variables: Names,
}

/// Names that were chosen, by themselves or by an expression.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    list: Vec<String>,
    pattern: Option<Regex>,
}

impl Names {
    /// `list`: parted by commas. An empty `pattern` chooses nothing.
    pub(super) fn new(list: &str, pattern: &str) -> Result<Self, regex::Error> {
        let names = list.split(',').filter(|name| !name.is_empty());
        let pattern = (!pattern.is_empty()).then(|| Regex::new(pattern));
        Ok(Self {
            list: names.map(str::to_owned).collect(),
            pattern: pattern.transpose()?,
        })
    }

    fn have(&self, name: &str) -> bool {
        self.list.iter().any(|listed| listed == name)
            || self
                .pattern
                .as_ref()
                .is_some_and(|pattern| pattern.is_match(name))
    }
}

#[derive(Debug)]
pub(super) struct Encoder {
    /// Fields that all entries have.
    common: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(about: &About, tag: String, extra: &Extra) -> Self {
        let own = [
            ("CONTAINER_ID", short(&about.id)),
            ("CONTAINER_ID_FULL", about.id.clone()),
            ("CONTAINER_NAME", about.name.clone()),
            ("CONTAINER_TAG", tag.clone()),
            ("IMAGE_NAME", about.image.clone()),
            ("SYSLOG_IDENTIFIER", tag),
        ];
        let mut common = Vec::new();
        for (name, value) in own {
            field(&mut common, name, value.as_bytes());
        }
        let labels = about.labels.iter();
        let labels = labels
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| extra.labels.have(name));
        let variables = about.environment.iter();
        let variables = variables
            .filter_map(|pair| pair.split_once('='))
            .filter(|(name, _)| extra.variables.have(name));
        for (name, value) in labels.chain(variables) {
            let name = field_name(name);
            if !name.is_empty() {
                field(&mut common, &name, value.as_bytes());
            }
        }
        Self { common }
    }

    pub(super) fn encode(&self, message: &Message<'_>) -> Vec<u8> {
        let mut entry = self.common.clone();
        let priority = severity(message.origin).to_string();
        field(&mut entry, "PRIORITY", priority.as_bytes());
        let time = jiff::Timestamp::now().to_string();
        field(&mut entry, "SYSLOG_TIMESTAMP", time.as_bytes());
        if message.is_partial {
            field(&mut entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        field(&mut entry, "MESSAGE", message.text);
        entry
    }
}

/// Capitals, digits and underscores, of which none comes first.
fn field_name(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|character| match character.to_ascii_uppercase() {
            allowed if allowed.is_ascii_alphanumeric() => allowed,
            _ => '_',
        })
        .collect();
    name.trim_start_matches('_').to_owned()
}

fn field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::Origin;
    use super::*;

    #[test]
    fn an_entry_has_dockers_fields_and_what_was_asked_for() {
        let about = About {
            id: "0123456789abcdef".into(),
            name: "shop-web-1".into(),
            image: "nginx:1".into(),
            labels: [("my.tier", "front"), ("other", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            environment: vec!["_MODE=a\nb".into(), "OTHER=1".into()],
            ..About::default()
        };
        let extra = Extra {
            labels: Names::new("my.tier,none", "").unwrap(),
            variables: Names::new("", "^_M").unwrap(),
        };
        let encoder = Encoder::new(&about, "the tag".into(), &extra);
        let message = Message {
            origin: Origin::Stderr,
            text: b"oh \xff",
            is_partial: true,
        };
        let entry = encoder.encode(&message);
        let expected = [
            &b"CONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef\n"[..],
            b"CONTAINER_NAME=shop-web-1\nCONTAINER_TAG=the tag\nIMAGE_NAME=nginx:1\n",
            b"SYSLOG_IDENTIFIER=the tag\nMY_TIER=front\nMODE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=3\n",
        ]
        .concat();
        assert_eq!(entry[..expected.len()], expected);
        assert!(entry.ends_with(b"\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=oh \xff\n"));
    }
}
