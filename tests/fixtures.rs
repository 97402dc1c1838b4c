//! Golden cases of `compose config`: a folder of `compose-fixtures/` each.
//!
//! A folder holds files of a project, `arguments` if the command is not plain `config`, `environment`
//! if variables are set, and what is expected: `expected.yaml` on standard output (`expected.txt` if it is
//! no Compose file), `expected.err` on standard error. `UPDATE_FIXTURES=1` writes what comes out instead of comparing it.

use std::path::Path;
use std::process::Command;

type Outcome = datatest_stable::Result<()>;

fn check(file: &Path) -> Outcome {
    let folder = file
        .parent()
        .ok_or("a fixture has a folder")?
        .canonicalize()?;
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    let arguments = read("arguments").unwrap_or_else(|_| "config".to_owned());
    let environment = read("environment").unwrap_or_default();
    let output = Command::new(env!("CARGO_BIN_EXE_compose"))
        .args(arguments.split_whitespace())
        .current_dir(&folder)
        .env_clear()
        .env("HOME", "/home/user")
        .env("PWD", &folder)
        .envs(environment.lines().filter_map(|line| line.split_once('=')))
        .output()?;
    let directory = folder.to_string_lossy();
    let shown =
        |bytes: Vec<u8>| String::from_utf8(bytes).map(|text| text.replace(&*directory, "$DIR"));
    let stdout = shown(output.stdout)?;
    let stderr = shown(output.stderr)?;

    let data = ["expected.txt", "expected.yaml"]
        .into_iter()
        .find(|name| folder.join(name).exists());
    let expects_success = data.is_some();
    if output.status.success() != expects_success {
        return Err(format!("{}\n{stdout}{stderr}", output.status).into());
    }
    let data = data.unwrap_or("expected.yaml");
    for (name, found) in [(data, stdout), ("expected.err", stderr)] {
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            if !found.is_empty() {
                std::fs::write(folder.join(name), &found)?;
            }
            continue;
        }
        let expected = read(name).unwrap_or_default();
        if expected != found {
            return Err(format!("{name} differs; expected:\n{expected}\nfound:\n{found}").into());
        }
    }
    Ok(())
}

datatest_stable::harness! {
    { test = check, root = "compose-fixtures", pattern = r"expected\.(yaml|txt|err)$" },
}
