//! Seccomp profiles: Docker's default one or a file of the same form, resolved for one container.
//!
//! Most groups of the default profile depend on the container's capabilities, the architecture or the kernel, so that
//! the list that the kernel gets differs between containers.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Host, SpecError};

/// The profile of the Moby project; origin and licence are beside it.
const DEFAULT: &str = include_str!("seccomp/default.json");

const X32: &str = "SCMP_ARCH_X32";

/// What filters the system calls of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Seccomp {
    #[default]
    Default,
    Unconfined,
    /// Text of a profile, in Docker's or the OCI's form.
    Profile(String),
}

/// Docker's superset of the OCI form.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<Architecture>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Group>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

impl Seccomp {
    /// The OCI `linux.seccomp` of a container with `capabilities`; `None` if nothing is filtered.
    pub fn resolve(&self, capabilities: &[&str], host: &Host) -> Result<Option<Value>, SpecError> {
        let text = match self {
            Self::Default if !host.seccomp => return Ok(None),
            Self::Unconfined => return Ok(None),
            Self::Default => DEFAULT,
            Self::Profile(text) => text,
        };
        let profile: Profile =
            serde_json::from_str(text).map_err(|source| SpecError::Profile { source })?;
        profile.resolve(capabilities, host).map(Some)
    }
}

impl Profile {
    fn resolve(self, capabilities: &[&str], host: &Host) -> Result<Value, SpecError> {
        let mut syscalls = Vec::new();
        for group in self.syscalls.unwrap_or_default() {
            if !group.includes.admits(capabilities, host)?
                || group.excludes.hits(capabilities, host)?
            {
                continue;
            }
            let mut names = group.names.unwrap_or_default();
            names.extend(group.name);
            if names.is_empty() {
                continue;
            }
            let mut entry = json!({ "names": names, "action": group.action });
            if let Some(code) = group.errno_ret {
                entry["errnoRet"] = code.into();
            }
            if let Some(args) = group.args.filter(|args| !args.is_empty()) {
                entry["args"] = args.into();
            }
            syscalls.push(entry);
        }
        let mut architectures = self.architectures.unwrap_or_default();
        if let Some(map) = self.arch_map {
            let native = seccomp_architecture(host.architecture);
            for entry in map.into_iter().filter(|entry| entry.architecture == native) {
                architectures.push(entry.architecture);
                let others = entry.sub_architectures.unwrap_or_default().into_iter();
                // No program of an ABI can be started that the kernel lacks, and runc compiles the rules of each of them at
                // every start: those of x32 take it longer than all others. Its calls are then of a foreign architecture,
                // which is deadly.
                architectures.extend(others.filter(|other| host.x32 || other != X32));
            }
        }
        let mut seccomp = json!({ "defaultAction": self.default_action });
        if let Some(code) = self.default_errno_ret {
            seccomp["defaultErrnoRet"] = code.into();
        }
        if !architectures.is_empty() {
            seccomp["architectures"] = architectures.into();
        }
        if let Some(flags) = self.flags.filter(|flags| !flags.is_empty()) {
            seccomp["flags"] = flags.into();
        }
        if let Some(path) = self.listener_path {
            seccomp["listenerPath"] = path.into();
        }
        if let Some(metadata) = self.listener_metadata {
            seccomp["listenerMetadata"] = metadata.into();
        }
        seccomp["syscalls"] = syscalls.into();
        Ok(seccomp)
    }
}

impl Filter {
    /// Every condition that is named holds.
    fn admits(&self, capabilities: &[&str], host: &Host) -> Result<bool, SpecError> {
        let new_enough = match &self.min_kernel {
            Some(version) => host.kernel >= kernel_version(version)?,
            None => true,
        };
        let architecture = self.arches.is_empty()
            || self
                .arches
                .iter()
                .any(|arch| arch == go_architecture(host.architecture));
        let mut wanted = self.caps.iter();
        Ok(new_enough && architecture && wanted.all(|cap| capabilities.contains(&cap.as_str())))
    }

    /// At least one condition that is named holds.
    fn hits(&self, capabilities: &[&str], host: &Host) -> Result<bool, SpecError> {
        let new_enough = match &self.min_kernel {
            Some(version) => host.kernel >= kernel_version(version)?,
            None => false,
        };
        let mut arches = self.arches.iter();
        let architecture = arches.any(|arch| arch == go_architecture(host.architecture));
        let mut caps = self.caps.iter();
        let capability = caps.any(|cap| capabilities.contains(&cap.as_str()));
        Ok(new_enough || architecture || capability)
    }
}

fn kernel_version(text: &str) -> Result<(u32, u32), SpecError> {
    super::host::parse_kernel(text)
        .ok_or_else(|| SpecError::invalid("security_opt", text, "`minKernel` is not a version"))
}

/// The name that profiles use in `arches`.
fn go_architecture(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The name that libseccomp uses.
fn seccomp_architecture(architecture: &str) -> &'static str {
    match architecture {
        "x86_64" => "SCMP_ARCH_X86_64",
        "x86" => "SCMP_ARCH_X86",
        "aarch64" => "SCMP_ARCH_AARCH64",
        "arm" => "SCMP_ARCH_ARM",
        "s390x" => "SCMP_ARCH_S390X",
        "powerpc64" => "SCMP_ARCH_PPC64LE",
        "riscv64" => "SCMP_ARCH_RISCV64",
        "mips64" => "SCMP_ARCH_MIPS64",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(seccomp: &Value) -> Vec<&str> {
        let groups = seccomp["syscalls"].as_array().unwrap().iter();
        groups
            .flat_map(|group| group["names"].as_array().unwrap())
            .filter_map(Value::as_str)
            .collect()
    }

    fn resolved(capabilities: &[&str]) -> Value {
        Seccomp::Default
            .resolve(capabilities, &Host::example())
            .unwrap()
            .unwrap()
    }

    #[test]
    fn the_default_profile_depends_on_the_capabilities() {
        let plain = resolved(&["CAP_CHOWN"]);
        assert!(!names(&plain).contains(&"mount"));
        assert!(names(&plain).contains(&"clone3"));
        let admin = resolved(&["CAP_SYS_ADMIN"]);
        assert!(names(&admin).contains(&"mount"));
        let clone3 = |seccomp: &Value| {
            let groups = seccomp["syscalls"].as_array().unwrap().clone();
            groups
                .into_iter()
                .find(|group| {
                    group["names"]
                        .as_array()
                        .unwrap()
                        .contains(&"clone3".into())
                })
                .unwrap()
        };
        assert_eq!(clone3(&plain)["errnoRet"], 38);
        assert_eq!(clone3(&admin)["action"], "SCMP_ACT_ALLOW");
    }

    #[test]
    fn the_default_profile_has_as_many_groups_as_docker_gives() {
        let seccomp = resolved(&["CAP_CHOWN", "CAP_SYS_CHROOT"]);
        assert_eq!(seccomp["syscalls"].as_array().unwrap().len(), 13);
        assert_eq!(seccomp["defaultErrnoRet"], 1);
        assert_eq!(
            seccomp["architectures"],
            json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
        );
    }

    #[test]
    fn an_abi_that_the_kernel_lacks_needs_no_rules() {
        let host = Host {
            x32: false,
            ..Host::example()
        };
        let seccomp = Seccomp::Default.resolve(&[], &host).unwrap().unwrap();
        let expected = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
        assert_eq!(seccomp["architectures"], expected);
    }

    #[test]
    fn the_default_profile_depends_on_kernel_and_architecture() {
        let mut host = Host::example();
        host.kernel = (4, 7);
        let old = Seccomp::Default.resolve(&[], &host).unwrap().unwrap();
        assert!(!names(&old).contains(&"ptrace"));
        host.kernel = (4, 8);
        host.architecture = "aarch64";
        let arm = Seccomp::Default.resolve(&[], &host).unwrap().unwrap();
        assert!(names(&arm).contains(&"ptrace") && !names(&arm).contains(&"arch_prctl"));
        assert_eq!(
            arm["architectures"],
            json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])
        );
    }

    #[test]
    fn a_profile_in_the_oci_form_is_taken_as_it_is() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
            "syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO","args":[]}]}"#;
        let seccomp = Seccomp::Profile(text.into())
            .resolve(&[], &Host::example())
            .unwrap();
        assert_eq!(
            seccomp,
            Some(json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86"],
                "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }],
            }))
        );
    }

    #[test]
    fn a_damaged_profile_is_an_error() {
        for text in ["", "[]", "{}", r#"{"defaultAction":1}"#] {
            let profile = Seccomp::Profile(text.into());
            assert!(profile.resolve(&[], &Host::example()).is_err(), "{text}");
        }
        let text = r#"{"defaultAction":"a","syscalls":[
            {"names":["a"],"action":"b","includes":{"minKernel":"x"}}]}"#;
        assert!(
            Seccomp::Profile(text.into())
                .resolve(&[], &Host::example())
                .is_err()
        );
    }
}
