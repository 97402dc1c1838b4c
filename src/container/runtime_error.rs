//! What containerd, its shim and the OCI runtime say of a failed start, made readable.

use super::ContainerError;
use crate::engine::EngineError;

/// Layers that put their name before the reason.
const PREFIXES: [&str; 9] = [
    "failed to create task for container: ",
    "failed to create shim task: ",
    "failed to start task: ",
    "OCI runtime create failed: ",
    "OCI runtime start failed: ",
    "runc create failed: ",
    "unable to start container process: ",
    "error during container init: ",
    "cannot start a stopped process: ",
];

/// Sorts a failed create or start: the fault of the command, of the container's set-up, or of containerd.
pub(super) fn classify(error: EngineError) -> ContainerError {
    let EngineError::Call { message, .. } = &error else {
        return error.into();
    };
    match reason(message) {
        Some(reason) => ContainerError::Start {
            code: exit_code(&reason),
            message: reason,
        },
        None => error.into(),
    }
}

/// The innermost reason; `None` if the message is not the OCI runtime's.
fn reason(message: &str) -> Option<String> {
    if !message.contains("OCI runtime") && !message.contains("runc") && !message.contains("crun") {
        return None;
    }
    let mut reason = message.trim();
    'strip: loop {
        for prefix in PREFIXES {
            if let Some(rest) = reason.strip_prefix(prefix) {
                reason = rest;
                continue 'strip;
            }
        }
        break;
    }
    // Both runtimes end with the place that was asked for their log: noise for users.
    let reason = reason.strip_suffix(": unknown").unwrap_or(reason);
    Some(shorten_crun(reason.trim_start_matches("crun: ")))
}

/// crun names an executable in its own way; the words of runc are those that users know.
fn shorten_crun(reason: &str) -> String {
    if let Some(rest) = reason.strip_prefix("executable file `")
        && let Some((name, _)) = rest.split_once("` not found in $PATH")
    {
        return format!("exec: \"{name}\": executable file not found in $PATH");
    }
    if let Some(rest) = reason.strip_prefix("open executable: ") {
        return format!("exec: {}", rest.to_lowercase());
    }
    reason.to_owned()
}

fn exit_code(reason: &str) -> u8 {
    let executable = reason.contains("exec: ") || reason.contains("exec ");
    let has = |text: &str| reason.contains(text);
    if !executable {
        128
    } else if has("executable file not found") || has("no such file or directory") {
        127
    } else if [
        "permission denied",
        "operation not permitted",
        "is a directory",
        "exec format error",
    ]
    .iter()
    .any(|text| has(text))
    {
        126
    } else {
        128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(message: &str) -> (u8, String) {
        let error = classify(EngineError::Call {
            operation: "create task `x`".into(),
            message: message.into(),
            code: tonic::Code::Unknown,
        });
        (error.exit_code(), error.to_string())
    }

    #[test]
    fn the_reason_of_runc_is_kept_and_its_layers_go() {
        assert_eq!(
            classified(
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container \
                 process: exec: \"nosuch\": executable file not found in $PATH: unknown"
            ),
            (
                127,
                "exec: \"nosuch\": executable file not found in $PATH".into()
            )
        );
        assert_eq!(
            classified(
                "OCI runtime create failed: runc create failed: unable to start container process: error during \
                 container init: exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown"
            ),
            (
                127,
                "exec: \"/nosuch\": stat /nosuch: no such file or directory".into()
            )
        );
        assert_eq!(
            classified("failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/etc\": permission denied: unknown").0,
            126
        );
    }

    #[test]
    fn a_fault_of_the_set_up_is_128() {
        assert_eq!(
            classified(
                "OCI runtime create failed: runc create failed: sysctl \"foo\" is not in a separate kernel namespace: unknown"
            ),
            (
                128,
                "sysctl \"foo\" is not in a separate kernel namespace".into()
            )
        );
    }

    #[test]
    fn crun_is_understood_too() {
        assert_eq!(
            classified(
                "failed to create shim task: OCI runtime create failed: executable file `nosuch` not found in $PATH: No such file or directory: unknown"
            ),
            (
                127,
                "exec: \"nosuch\": executable file not found in $PATH".into()
            )
        );
    }

    #[test]
    fn a_fault_of_containerd_stays_one() {
        assert_eq!(
            classified("snapshot x does not exist"),
            (
                125,
                "cannot create task `x`: snapshot x does not exist".into()
            )
        );
    }
}
