//! The `compose` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    containerd_compose::cli::run()
}
