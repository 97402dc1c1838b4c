//! Device nodes and the device rules of the cgroup.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::SpecError;

/// A device node in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub path: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// One line of the device cgroup. `None` in `major` or `minor` means any; kind `a` means every device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    pub allow: bool,
    pub kind: char,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Some of `r`, `w`, `m`.
    pub access: String,
}

/// Docker's, major and minor: null, zero, full, random, urandom, tty, console. The runtime adds pseudo terminals and mknod.
/// Docker's last line, that denies fuse, is left out: everything is denied before these, and crun takes no denial after that
/// where it drives systemd.
const ALLOWED: [(u32, u32); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)];

/// Folders and files of `/dev` that a privileged container has its own of.
const SKIPPED: [&str; 8] = [
    "pts",
    "shm",
    "fd",
    "mqueue",
    "console",
    ".lxc",
    ".lxd-mounts",
    ".udev",
];

impl Device {
    fn from_host(host: &Path, path: PathBuf) -> io::Result<Option<Self>> {
        let metadata = std::fs::metadata(host)?;
        let kind = match metadata.file_type() {
            kind if kind.is_char_device() => 'c',
            kind if kind.is_block_device() => 'b',
            _ => return Ok(None),
        };
        Ok(Some(Self {
            path,
            kind,
            major: rustix::fs::major(metadata.rdev()),
            minor: rustix::fs::minor(metadata.rdev()),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        }))
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "path": self.path,
            "type": self.kind,
            "major": self.major,
            "minor": self.minor,
            "fileMode": self.mode,
            "uid": self.uid,
            "gid": self.gid,
        })
    }

    /// The rule that lets the container use it.
    pub fn rule(&self, access: &str) -> DeviceRule {
        DeviceRule {
            allow: true,
            kind: self.kind,
            major: Some(self.major),
            minor: Some(self.minor),
            access: access.into(),
        }
    }
}

/// The device at `source`, or all devices below it if it is a folder, as they appear at `target` in the container.
pub fn from_host(source: &Path, target: &Path) -> Result<Vec<Device>, SpecError> {
    let failed = |source_error: io::Error| SpecError::Device {
        path: source.into(),
        source: source_error,
    };
    let real = std::fs::canonicalize(source).map_err(failed)?;
    if let Some(device) = Device::from_host(&real, target.into()).map_err(failed)? {
        return Ok(vec![device]);
    }
    let mut devices = Vec::new();
    if real.is_dir() {
        collect(&real, target, &mut devices).map_err(failed)?;
    }
    if devices.is_empty() {
        return Err(failed(io::Error::other("not a device")));
    }
    Ok(devices)
}

/// Every device of the host, for a privileged container.
pub fn all() -> Result<Vec<Device>, SpecError> {
    let root = Path::new("/dev");
    let mut devices = Vec::new();
    collect(root, root, &mut devices).map_err(|source| SpecError::Device {
        path: root.into(),
        source,
    })?;
    Ok(devices)
}

fn collect(folder: &Path, target: &Path, devices: &mut Vec<Device>) -> io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        let (path, target) = (entry.path(), target.join(&name));
        let found = match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&path, &target, devices),
            // A link leads to a device that is listed itself.
            Ok(kind) if kind.is_symlink() => Ok(()),
            _ => Device::from_host(&path, target).map(|device| devices.extend(device)),
        };
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Checks the permissions of a device mapping.
pub fn parse_access(attribute: &'static str, value: &str) -> Result<String, SpecError> {
    let bytes = value.as_bytes();
    let known = bytes.iter().all(|byte| b"rwm".contains(byte));
    let twice = (1..bytes.len()).any(|at| bytes[at..].contains(&bytes[at - 1]));
    if value.is_empty() || !known || twice {
        return Err(SpecError::invalid(
            attribute,
            value,
            "permissions are some of `r`, `w` and `m`",
        ));
    }
    Ok(value.into())
}

/// Reads an entry of `device_cgroup_rules`, as `c 1:* rmw`.
pub fn parse_rule(text: &str) -> Result<DeviceRule, SpecError> {
    let attribute = "device_cgroup_rules";
    let invalid = || SpecError::invalid(attribute, text, "the form is `TYPE MAJOR:MINOR ACCESS`");
    let mut fields = text.split_ascii_whitespace();
    let kind = match fields.next() {
        Some("a") => 'a',
        Some("b") => 'b',
        Some("c") => 'c',
        _ => return Err(invalid()),
    };
    let (major, minor) = fields
        .next()
        .and_then(|pair| pair.split_once(':'))
        .ok_or_else(invalid)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse().map(Some).map_err(|_| invalid()),
    };
    let rule = DeviceRule {
        allow: true,
        kind,
        major: number(major)?,
        minor: number(minor)?,
        access: parse_access(attribute, fields.next().ok_or_else(invalid)?)
            .map_err(|_| invalid())?,
    };
    if fields.next().is_some() {
        return Err(invalid());
    }
    Ok(rule)
}

/// `linux.resources.devices`.
pub(super) fn rules_json(privileged: bool, rules: &[DeviceRule]) -> Value {
    if privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let mut list = vec![json!({ "allow": false, "access": "rwm" })];
    for (major, minor) in ALLOWED {
        list.push(json!({
            "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm",
        }));
    }
    for rule in rules {
        let mut entry = json!({ "allow": rule.allow, "type": rule.kind });
        if let Some(major) = rule.major {
            entry["major"] = major.into();
        }
        if let Some(minor) = rule.minor {
            entry["minor"] = minor.into();
        }
        entry["access"] = rule.access.clone().into();
        list.push(entry);
    }
    list.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rule_is_read_with_wildcards() {
        let rule = parse_rule("c 1:* rmw").unwrap();
        assert_eq!(
            (rule.kind, rule.major, rule.minor, rule.access.as_str()),
            ('c', Some(1), None, "rmw")
        );
        assert_eq!(parse_rule("a *:* m").unwrap().kind, 'a');
    }

    #[test]
    fn a_malformed_rule_is_an_error() {
        for text in [
            "",
            "foo",
            "c 1 r",
            "d 1:1 r",
            "c 1:1",
            "c 1:1 x",
            "c 1:1 r r",
            "c -1:1 r",
        ] {
            assert!(parse_rule(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_first_rule_denies() {
        let rules = rules_json(false, &[parse_rule("c 1:* rmw").unwrap()]);
        let allow: Vec<_> = rules
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| &rule["allow"])
            .collect();
        assert_eq!(allow[0], false);
        assert!(allow[1..].iter().all(|allow| **allow == true), "{rules}");
    }

    #[test]
    fn permissions_name_each_access_once() {
        assert!(parse_access("devices", "rw").is_ok());
        for text in ["", "rr", "rwx", "rwr"] {
            assert!(parse_access("devices", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_device_of_the_host_keeps_its_numbers() {
        let devices = from_host(Path::new("/dev/null"), Path::new("/dev/nothing")).unwrap();
        assert_eq!(devices.len(), 1);
        let device = &devices[0];
        assert_eq!((device.kind, device.major, device.minor), ('c', 1, 3));
        assert_eq!(device.path, Path::new("/dev/nothing"));
        assert_eq!(device.rule("r").access, "r");
    }

    #[test]
    fn a_missing_or_plain_file_is_no_device() {
        assert!(from_host(Path::new("/dev/nosuch"), Path::new("/x")).is_err());
        assert!(from_host(Path::new("/proc/version"), Path::new("/x")).is_err());
    }

    #[test]
    fn a_privileged_container_has_every_device_but_its_own() {
        let devices = all().unwrap();
        assert!(
            devices
                .iter()
                .any(|device| device.path == Path::new("/dev/null"))
        );
        assert!(
            !devices
                .iter()
                .any(|device| device.path.starts_with("/dev/pts"))
        );
    }

    proptest! {
        #[test]
        fn no_rule_makes_it_panic(text in ".*") {
            let _any = parse_rule(&text);
        }
    }
}
