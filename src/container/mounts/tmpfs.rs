//! Mounts in memory: `tmpfs` and volumes of that type.

use std::path::PathBuf;

use super::{PROPAGATIONS, clean_target};
use crate::container::ContainerError;
use crate::container::provision::MountRecord;
use crate::model::Mount;

/// A mount of type `tmpfs` in long form.
pub(super) fn tmpfs(mount: &Mount, target: PathBuf) -> Result<MountRecord, ContainerError> {
    let options = mount.tmpfs.clone().unwrap_or_default();
    let mut flags = default_tmpfs_options();
    if mount.read_only {
        flags.push("ro".into());
    }
    if let Some(size) = options.size.filter(|size| *size != 0) {
        if size < 0 {
            let reason = "it cannot be negative";
            return Err(ContainerError::invalid(
                "volumes.tmpfs.size",
                size.to_string(),
                reason,
            ));
        }
        flags.push(format!("size={size}"));
    }
    if let Some(mode) = options.mode.filter(|mode| *mode != 0) {
        flags.push(format!("mode={mode:o}"));
    }
    Ok(tmpfs_record(target, flags, mount.read_only))
}

fn default_tmpfs_options() -> Vec<String> {
    ["noexec", "nosuid", "nodev", "rprivate"]
        .map(Into::into)
        .into()
}

fn tmpfs_record(destination: PathBuf, options: Vec<String>, read_only: bool) -> MountRecord {
    MountRecord {
        kind: "tmpfs".into(),
        destination,
        read_only,
        spec_kind: "tmpfs".into(),
        options,
        ..MountRecord::default()
    }
}

/// Pairs of which the later one counts.
const OPPOSITES: [(&str, &str); 9] = [
    ("noexec", "exec"),
    ("nosuid", "suid"),
    ("nodev", "dev"),
    ("ro", "rw"),
    ("async", "sync"),
    ("noatime", "atime"),
    ("nodiratime", "diratime"),
    ("norelatime", "relatime"),
    ("nostrictatime", "strictatime"),
];

/// Reads an entry of `tmpfs`, as `/run:size=64m,exec`.
pub(super) fn tmpfs_entry(entry: &str) -> Result<MountRecord, ContainerError> {
    let (target, text) = entry.split_once(':').unwrap_or((entry, ""));
    let target = clean_target("tmpfs", target)?;
    let mut options = default_tmpfs_options();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let name = option.split_once('=').map_or(option, |(name, _)| name);
        let pair = OPPOSITES.iter().find(|(a, b)| *a == option || *b == option);
        let known = pair.is_some()
            || PROPAGATIONS.contains(&option)
            || (option.contains('=')
                && [
                    "size",
                    "mode",
                    "uid",
                    "gid",
                    "nr_inodes",
                    "nr_blocks",
                    "mpol",
                ]
                .contains(&name));
        if !known {
            let reason = format!("tmpfs has no option `{option}`");
            return Err(ContainerError::invalid("tmpfs", entry, reason));
        }
        options.retain(|other| {
            let same = other == option
                || other
                    .split_once('=')
                    .is_some_and(|(known, _)| known == name);
            let opposite = pair.is_some_and(|(a, b)| other == a || other == b);
            let propagation =
                PROPAGATIONS.contains(&option) && PROPAGATIONS.contains(&other.as_str());
            !same && !opposite && !propagation
        });
        options.push(option.into());
    }
    let read_only = options.iter().any(|option| option == "ro");
    Ok(tmpfs_record(target, options, read_only))
}
