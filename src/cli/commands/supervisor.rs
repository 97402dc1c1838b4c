//! `compose supervisor`: the process that owns a project. Started by other commands, not by people.

use std::process::ExitCode;

use crate::supervisor::process::{self, SupervisorArgs};
use crate::supervisor::worker;

pub(crate) fn run(arguments: &SupervisorArgs) -> ExitCode {
    process::run(arguments, worker::run)
}
