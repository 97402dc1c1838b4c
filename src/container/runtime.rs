//! The OCI runtime of a container: which one, and what it has to be told in its own way.

use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::ContainerError;
use crate::engine::spec::filter;
use crate::model::{Project, Service};
use crate::state::{StateRoot, create_private_dir, write_atomic};

const RUNC_SHIM: &str = "io.containerd.runc.v2";
/// Where crun looks for the program of a seccomp profile.
const PROGRAM: &str = "run.oci.seccomp_bpf_data";

/// What the service asks for, else the project.
fn name<'a>(service: &'a Service, project: &'a Project) -> Option<&'a str> {
    let own = service.runtime.as_deref().filter(|name| !name.is_empty());
    own.or(project.runtime.as_deref().filter(|name| !name.is_empty()))
}

/// The shim that containerd starts.
pub(super) fn shim(service: &Service, project: &Project) -> String {
    match name(service, project) {
        Some(name) if name.starts_with("io.containerd.") => name.into(),
        _ => RUNC_SHIM.into(),
    }
}

/// The program that runc's shim calls; empty for runc.
pub(super) fn binary(service: &Service, project: &Project) -> Result<String, ContainerError> {
    let found = |name: &str| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).any(|folder| folder.join(name).is_file())
    };
    match name(service, project) {
        None => Ok(if found("runc") || !found("crun") {
            ""
        } else {
            "crun"
        }
        .into()),
        Some(name) if name.starts_with("io.containerd.") => Ok(String::new()),
        Some(path) if path.starts_with('/') && Path::new(path).is_file() => Ok(path.into()),
        Some(name) if !name.contains('/') && found(name) => Ok(name.into()),
        Some(name) => Err(ContainerError::invalid(
            "runtime",
            name,
            "there is no such program on PATH; a shim is named as `io.containerd.NAME.vN`",
        )),
    }
}

/// Gives crun the program of the spec's seccomp profile in place of the profile, which it would compile at every start. Where
/// that cannot be done the profile stays, and crun compiles it.
pub(super) fn compile_filter(state: &StateRoot, binary: &str, spec: &mut Value) {
    let crun = Path::new(binary)
        .file_name()
        .is_some_and(|name| name == "crun");
    let Some(profile) = spec.pointer("/linux/seccomp").filter(|_| crun) else {
        return;
    };
    let Some(program) = compiled(state, profile) else {
        return;
    };
    let program = BASE64.encode(&program);
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("seccomp");
    }
    spec["annotations"][PROGRAM] = program.into();
}

/// The program of a profile: compiled once for each boot and version of the compiler.
fn compiled(state: &StateRoot, profile: &Value) -> Option<Vec<u8>> {
    let compiler = filter::compiler()?;
    let key = Sha256::digest(format!("{compiler}\n{profile}"));
    let folder = state.run().join("seccomp");
    let path = folder.join(HEXLOWER.encode(&key));
    match std::fs::read(&path) {
        Ok(program) if !program.is_empty() => return Some(program),
        _ => {}
    }
    match filter::compile(profile) {
        Ok(Some(program)) => {
            let kept = create_private_dir(&folder).and_then(|()| write_atomic(&path, &program));
            if let Err(error) = kept {
                tracing::warn!(%error, "cannot keep the program of a seccomp profile");
            }
            Some(program)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(%error, "cannot compile a seccomp profile, so crun does");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(name: &str) -> Service {
        Service {
            runtime: Some(name.into()),
            ..Service::default()
        }
    }

    #[test]
    fn a_runtime_is_a_program_or_a_shim() {
        let project = Project::default();
        assert_eq!(shim(&Service::default(), &project), RUNC_SHIM);
        let kata = named("io.containerd.kata.v2");
        assert_eq!(shim(&kata, &project), "io.containerd.kata.v2");
        assert_eq!(binary(&kata, &project).unwrap(), "");
        let error = binary(&named("no-such-runtime"), &project).unwrap_err();
        assert!(error.to_string().contains("`no-such-runtime`"));
        assert_eq!(binary(&named("sh"), &project).unwrap(), "sh");
    }

    #[test]
    fn the_project_names_the_runtime_of_services_that_do_not() {
        let project = Project {
            runtime: Some("sh".into()),
            ..Project::default()
        };
        assert_eq!(binary(&Service::default(), &project).unwrap(), "sh");
        assert_eq!(binary(&named("ls"), &project).unwrap(), "ls");
    }

    #[test]
    fn only_crun_gets_a_program_and_only_for_a_profile() {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW" }],
        });
        let spec = json!({ "linux": { "seccomp": profile } });
        for binary in ["", "runc", "/usr/bin/runc"] {
            let mut same = spec.clone();
            compile_filter(&state, binary, &mut same);
            assert_eq!(same, spec);
        }
        let mut none = json!({ "linux": {} });
        compile_filter(&state, "crun", &mut none);
        assert_eq!(none, json!({ "linux": {} }));
        if filter::compiler().is_none() {
            return;
        }
        let mut changed = spec.clone();
        compile_filter(&state, "/opt/bin/crun", &mut changed);
        assert!(changed.pointer("/linux/seccomp").is_none());
        let first = changed["annotations"][PROGRAM].clone();
        assert!(first.as_str().is_some_and(|text| text.len() > 40));
        // The second one comes from the file.
        let kept = std::fs::read_dir(state.run().join("seccomp")).unwrap();
        let kept: Vec<_> = kept.flatten().collect();
        assert_eq!(kept.len(), 1);
        std::fs::write(kept[0].path(), "kept").unwrap();
        let mut changed = spec;
        compile_filter(&state, "crun", &mut changed);
        assert_eq!(changed["annotations"][PROGRAM], "a2VwdA==");
    }
}
