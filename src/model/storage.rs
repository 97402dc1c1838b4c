//! Mounts of a service: volumes, tmpfs, configs and secrets.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// One entry of `services.*.volumes` in long form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    #[serde(rename = "type")]
    pub kind: MountKind,
    /// Absolute path (bind), key of a top-level volume (volume), image (image), or none (anonymous, tmpfs).
    pub source: Option<String>,
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
    pub consistency: Option<String>,
    pub bind: Option<BindOptions>,
    pub volume: Option<VolumeOptions>,
    pub tmpfs: Option<TmpfsOptions>,
    pub image: Option<ImageOptions>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    #[default]
    Volume,
    Bind,
    Tmpfs,
    Image,
    Npipe,
    Cluster,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindOptions {
    pub propagation: Option<String>,
    /// Unset means true.
    pub create_host_path: Option<bool>,
    pub recursive: Option<String>,
    pub selinux: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    pub nocopy: bool,
    pub subpath: Option<String>,
    pub labels: IndexMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsOptions {
    /// Bytes.
    pub size: Option<i64>,
    pub mode: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageOptions {
    pub subpath: Option<String>,
}

/// A text that is no volume of a service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    #[error("a volume must not be empty")]
    Empty,
    #[error("`{0}` has an empty section between colons")]
    EmptySection(String),
    #[error("`{0}` has too many colons")]
    TooManyColons(String),
}

/// A volume in short form.
#[derive(Clone, Debug, PartialEq)]
pub struct ShortMount {
    pub mount: Mount,
    /// Options that mean nothing; the reference ignores them silently.
    pub unknown_options: Vec<String>,
}

/// Reads `[SOURCE:]TARGET[:OPTION,…]`. A source that starts with `.`, `/`, `~`, a drive letter or
/// `\\` is a path on the host, else it is a named volume.
pub fn parse_mount(text: &str) -> Result<ShortMount, MountError> {
    let anonymous = |target: &str| ShortMount {
        mount: Mount {
            target: target.to_owned(),
            ..Mount::default()
        },
        unknown_options: Vec::new(),
    };
    if text.is_empty() {
        return Err(MountError::Empty);
    }
    if text.chars().count() <= 2 {
        return Ok(anonymous(text));
    }
    let sections = sections(text);
    if sections.iter().any(|section| section.is_empty()) {
        return Err(MountError::EmptySection(text.to_owned()));
    }
    let (source, target, options) = match *sections.as_slice() {
        [target] => return Ok(anonymous_volume(anonymous(target))),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(MountError::TooManyColons(text.to_owned())),
    };
    let mut short = anonymous(target);
    short.mount.source = Some(source.to_owned());
    let mut nocopy = false;
    let mut bind = BindOptions::default();
    let mut has_bind = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => short.mount.read_only = true,
            "rw" => short.mount.read_only = false,
            "nocopy" => nocopy = true,
            "z" | "Z" => {
                bind.selinux = Some(option.to_owned());
                has_bind = true;
            }
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                bind.propagation = Some(option.to_owned());
                has_bind = true;
            }
            _ => short.unknown_options.push(option.to_owned()),
        }
    }
    let volume = VolumeOptions {
        nocopy,
        ..VolumeOptions::default()
    };
    if is_host_path(source) {
        short.mount.kind = MountKind::Bind;
        bind.create_host_path = Some(true);
        short.mount.bind = Some(bind);
        short.mount.volume = nocopy.then_some(volume);
    } else {
        short.mount.bind = has_bind.then_some(bind);
        short.mount.volume = Some(volume);
    }
    Ok(short)
}

fn anonymous_volume(mut short: ShortMount) -> ShortMount {
    short.mount.volume = Some(VolumeOptions::default());
    short
}

/// Splits at colons, except after a drive letter and inside `${…}`.
fn sections(text: &str) -> Vec<&str> {
    let mut sections = Vec::new();
    let mut start = 0;
    let mut depth = 0usize;
    for (at, character) in text.char_indices() {
        let section = &text[start..at];
        match character {
            '$' if text[at + 1..].starts_with('{') => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ':' if depth == 0 && !is_drive(section) => {
                sections.push(section);
                start = at + 1;
            }
            _ => {}
        }
    }
    sections.push(&text[start..]);
    sections
}

/// A single letter before a colon.
fn is_drive(section: &str) -> bool {
    let mut characters = section.chars();
    characters.next().is_some_and(char::is_alphabetic) && characters.next().is_none()
}

/// Whether the source of a short mount is a path on the host.
fn is_host_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~'])
        || source.starts_with("\\\\")
        || source
            .split_once(':')
            .is_some_and(|(drive, _)| is_drive(drive))
}

/// One entry of `services.*.configs` or `services.*.secrets`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileReference {
    /// Key of the top-level config or secret.
    pub source: String,
    /// Path in the container as written; none means the default place.
    pub target: Option<String>,
    pub uid: Option<String>,
    pub gid: Option<String>,
    pub mode: Option<u32>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_short_form_tells_paths_from_names() {
        for (text, kind, source, target) in [
            ("/data", MountKind::Volume, None, "/data"),
            ("db:/data", MountKind::Volume, Some("db"), "/data"),
            ("./db:/data:ro", MountKind::Bind, Some("./db"), "/data"),
            ("~/db:/data", MountKind::Bind, Some("~/db"), "/data"),
            ("C:\\db:/data", MountKind::Bind, Some("C:\\db"), "/data"),
            ("${A:-b}:/data", MountKind::Volume, Some("${A:-b}"), "/data"),
            ("a", MountKind::Volume, None, "a"),
        ] {
            let mount = parse_mount(text).unwrap().mount;
            assert_eq!(mount.kind, kind, "{text}");
            assert_eq!(mount.source.as_deref(), source, "{text}");
            assert_eq!(mount.target, target, "{text}");
        }
    }

    #[test]
    fn options_are_read_and_unknown_ones_named() {
        let short = parse_mount("./a:/b:ro,z,rshared,fast").unwrap();
        let bind = short.mount.bind.unwrap();
        assert!(short.mount.read_only);
        assert_eq!(bind.selinux.as_deref(), Some("z"));
        assert_eq!(bind.propagation.as_deref(), Some("rshared"));
        assert_eq!(short.unknown_options, ["fast"]);
    }

    #[test]
    fn malformed_volumes_are_errors() {
        for text in ["", ":/data", "/a::ro", "/a:/b:ro:x"] {
            assert!(parse_mount(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_grammar_panic(text in "\\PC*") {
            parse_mount(&text).ok();
        }
    }
}
