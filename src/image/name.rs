//! References to images as registries know them: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`, completed as Docker does.
//!
//! By hand, because `oci-spec` compiles a regular expression at the first use, which costs more than all else that a
//! command does when there is nothing to do. A test holds the two against each other.

use thiserror::Error;

/// Registry of names that have none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Another name of it.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Folder of Docker's own images.
const LIBRARY: &str = "library";
/// Bytes of a registry and repository together.
const LONGEST_NAME: usize = 255;
/// Bytes of a tag.
const LONGEST_TAG: usize = 128;

/// Why a text is no reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum InvalidName {
    #[error("the name is empty")]
    Empty,
    #[error("the repository must be in lower case")]
    UpperCase,
    #[error("the name is longer than {LONGEST_NAME} bytes")]
    TooLong,
    #[error("it is not of the form [REGISTRY/]REPOSITORY[:TAG][@DIGEST]")]
    Malformed,
    #[error("the digest is not of the form ALGORITHM:HEX")]
    Digest,
}

/// A completed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) registry: String,
    pub(super) repository: String,
    /// `latest` if neither tag nor digest was written.
    pub(super) tag: Option<String>,
    pub(super) digest: Option<String>,
}

impl Reference {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
            Some(_) => return Err(InvalidName::Digest),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(InvalidName::Malformed);
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(InvalidName::UpperCase);
        }
        if !path.split('/').all(is_component) || !is_host(registry) {
            return Err(InvalidName::Malformed);
        }
        let registry = if registry == LEGACY_REGISTRY {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{LIBRARY}/{path}")
        } else {
            path.to_owned()
        };
        if registry.len() + 1 + repository.len() > LONGEST_NAME {
            return Err(InvalidName::TooLong);
        }
        let tag = tag.or(if digest.is_none() {
            Some("latest")
        } else {
            None
        });
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(ToOwned::to_owned),
            digest: digest.map(ToOwned::to_owned),
        })
    }

    /// The whole reference, as containerd records it.
    pub(super) fn whole(&self) -> String {
        let mut whole = format!("{}/{}", self.registry, self.repository);
        if let Some(tag) = &self.tag {
            whole.push(':');
            whole.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            whole.push('@');
            whole.push_str(digest);
        }
        whole
    }
}

/// Whether the first part of a path names a registry rather than a folder of the default one.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// A host name, with a port or without.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    host.split('.').all(is_label) && port.is_none_or(is_number)
}

/// Lower-case words, parted by one dot, one or two underscores, or any number of dashes.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_in_words = |bytes: &[u8]| {
        bytes.first().is_some_and(|byte| is_word(*byte))
            && bytes.last().is_some_and(|byte| is_word(*byte))
    };
    ends_in_words(bytes)
        && bytes.split(|byte| is_word(*byte)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__")
                || separator.iter().all(|byte| *byte == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= LONGEST_TAG
        && text.bytes().next().is_some_and(is_word)
        && text
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let is_part = |part: &str| {
        part.bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let length = match algorithm {
        "sha256" => Some(64),
        "sha384" => Some(96),
        "sha512" => Some(128),
        _ => None,
    };
    algorithm.split(['+', '.', '-', '_']).all(is_part)
        && hex.len() >= 32
        && length.is_none_or(|length| hex.len() == length)
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Result<String, InvalidName> {
        Reference::parse(text).map(|reference| reference.whole())
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(whole(""), Err(InvalidName::Empty));
        assert_eq!(whole("Busybox"), Err(InvalidName::UpperCase));
        assert_eq!(whole("a@b"), Err(InvalidName::Digest));
        assert_eq!(whole("a//b"), Err(InvalidName::Malformed));
        assert_eq!(whole(&"a".repeat(300)), Err(InvalidName::TooLong));
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_specification_s_own_parser(
            text in "(([a-z]{1,3}[.:-]?[a-z0-9]{0,3}|localhost|index\\.docker\\.io)/)?[a-z0-9._/-]{1,8}(:[A-Za-z0-9_.-]{1,4})?(@sha256:[0-9a-f]{63,65})?",
        ) {
            let reference: Result<oci_spec::distribution::Reference, _> = text.parse();
            match (Reference::parse(&text), reference) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours.whole(), theirs.whole()),
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{:?} against {:?}", ours, theirs),
            }
        }
    }
}
