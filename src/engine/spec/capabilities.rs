//! Linux capabilities: their names, Docker's default set, and what `cap_add` and `cap_drop` make of it.

use super::SpecError;

/// Every capability, by its number in the kernel.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has unless it asks for something else.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The capabilities of a container. `available` are those that this host can give.
///
/// As in Docker: `ALL` added means all but the dropped ones, `ALL` dropped means only the added ones.
pub fn resolve(
    privileged: bool,
    add: &[String],
    drop: &[String],
    available: &[&'static str],
) -> Result<Vec<&'static str>, SpecError> {
    let add = parse("cap_add", add)?;
    let drop = parse("cap_drop", drop)?;
    if privileged {
        return Ok(available.to_vec());
    }
    let kept = |set: &[&'static str]| -> Vec<&'static str> {
        let kept = set.iter().copied();
        kept.filter(|name| !drop.names.contains(name)).collect()
    };
    if add.all {
        return Ok(kept(available));
    }
    let mut set = if drop.all { Vec::new() } else { kept(&DEFAULT) };
    for name in add.names {
        if !set.contains(&name) {
            set.push(name);
        }
    }
    Ok(set)
}

struct Names {
    all: bool,
    names: Vec<&'static str>,
}

fn parse(attribute: &'static str, values: &[String]) -> Result<Names, SpecError> {
    let mut parsed = Names {
        all: false,
        names: Vec::new(),
    };
    for value in values {
        let upper = value.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            parsed.all = true;
            continue;
        }
        let known = NAMES.iter().find(|name| name.get(4..) == Some(bare));
        let name = known
            .ok_or_else(|| SpecError::invalid(attribute, value, "there is no such capability"))?;
        parsed.names.push(name);
    }
    Ok(parsed)
}

/// Names of the bits of `mask`, as in `CapBnd` of `/proc/self/status`.
pub(super) fn from_mask(mask: u64) -> Vec<&'static str> {
    let bits = NAMES.iter().enumerate();
    bits.filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, name)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(privileged: bool, add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        resolve(privileged, &owned(add), &owned(drop), &NAMES).unwrap()
    }

    #[test]
    fn names_are_accepted_in_any_case_with_and_without_prefix() {
        let set = resolved(false, &["net_admin", "CAP_SYS_TIME"], &["Cap_Chown"]);
        assert!(set.contains(&"CAP_NET_ADMIN") && set.contains(&"CAP_SYS_TIME"));
        assert!(!set.contains(&"CAP_CHOWN"));
        assert_eq!(set.len(), 15);
    }

    #[test]
    fn all_can_be_added_and_dropped() {
        assert_eq!(resolved(false, &["CHOWN"], &["ALL"]), ["CAP_CHOWN"]);
        assert_eq!(resolved(false, &["ALL"], &["CHOWN"]).len(), 40);
        assert_eq!(resolved(false, &["ALL"], &["ALL"]).len(), 41);
        assert_eq!(resolved(true, &[], &["ALL"]).len(), 41);
    }

    #[test]
    fn a_capability_is_not_listed_twice() {
        assert_eq!(resolved(false, &["CHOWN", "CAP_CHOWN"], &[]).len(), 14);
    }

    #[test]
    fn an_unknown_capability_is_an_error_that_names_it() {
        let error = resolve(false, &["FOO".into()], &[], &NAMES).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cap_add: `FOO` is not valid: there is no such capability"
        );
    }

    #[test]
    fn a_mask_of_the_kernel_becomes_names() {
        let mut set = from_mask(0xa804_25fb);
        let mut default = DEFAULT.to_vec();
        set.sort_unstable();
        default.sort_unstable();
        assert_eq!(set, default);
    }
}
