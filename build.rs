//! Compiles the init binary that containers with `init: true` get. It must run in any image, so it is static and has no
//! dependency but the standard library.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/init/main.rs";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCE}");
    let output = PathBuf::from(env::var("OUT_DIR")?).join("docker-init");
    let mut compiler = Command::new(env::var("RUSTC")?);
    compiler.args([
        "--edition=2024",
        "--crate-name=docker_init",
        "--crate-type=bin",
    ]);
    compiler.args(["--target", &env::var("TARGET")?]);
    for option in [
        "target-feature=+crt-static",
        "opt-level=z",
        "panic=abort",
        "lto=fat",
        "codegen-units=1",
        "strip=symbols",
    ] {
        compiler.args(["-C", option]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        compiler.args(["-C", &format!("linker={linker}")]);
    }
    let status = compiler.arg("-o").arg(&output).arg(SOURCE).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{SOURCE} does not compile ({status})").into())
    }
}
