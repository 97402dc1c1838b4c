//! Which files make up a project.

use std::path::{Path, PathBuf};

use super::diagnostic::Problem;
use super::dotenv::Variables;
use super::include::{is_remote, remote};
use super::paths::clean;
use super::session::{Outcome, Session};

const NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];
const OVERRIDES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// The file of standard input.
pub(super) const STDIN: &str = "-";

/// The directory that relative paths start from, given the files known so far.
pub(super) fn directory(session: &Session<'_>, files: &[PathBuf]) -> PathBuf {
    let base = &session.options.working_dir;
    if let Some(directory) = &session.options.project_directory {
        return clean(&base.join(directory));
    }
    files
        .iter()
        .find(|file| file.as_os_str() != STDIN)
        .and_then(|file| clean(&base.join(file)).parent().map(Path::to_owned))
        .unwrap_or_else(|| base.clone())
}

/// Files named by `-f`, else by `COMPOSE_FILE`, else found here or in a directory above; absolute.
pub(super) fn files(session: &mut Session<'_>, environment: &Variables) -> Outcome<Vec<PathBuf>> {
    let base = session.options.working_dir.clone();
    let absolute = |file: &Path| {
        if file.as_os_str() == STDIN {
            file.to_owned()
        } else {
            clean(&base.join(file))
        }
    };
    for file in &session.options.files {
        let text = file.to_string_lossy();
        if is_remote(&text) && !base.join(file).exists() {
            return session.fail(remote(&text).hint("fetch it first, then give the local copy"));
        }
    }
    if !session.options.files.is_empty() {
        return Ok(session
            .options
            .files
            .iter()
            .map(|file| absolute(file))
            .collect());
    }
    if let Some(list) = environment.get("COMPOSE_FILE") {
        let separator = environment
            .get("COMPOSE_PATH_SEPARATOR")
            .filter(|separator| !separator.is_empty())
            .map_or(":", String::as_str);
        let files: Vec<PathBuf> = list
            .split(separator)
            .map(|file| absolute(Path::new(file)))
            .collect();
        for file in &files {
            if file.as_os_str() != STDIN && !file.exists() {
                session.depend_on(file);
                let display = session.display(file);
                return session.fail(
                    Problem::error(format!("cannot read `{}`: no such file", display.display()))
                        .hint("COMPOSE_FILE names it"),
                );
            }
        }
        return Ok(files);
    }
    let start = directory(session, &[]);
    for directory in start.ancestors() {
        let found = existing(session, directory, &NAMES);
        let Some(first) = found.first() else { continue };
        warn_several(session, &found, "files");
        let mut files = vec![first.clone()];
        let overrides = existing(session, directory, &OVERRIDES);
        warn_several(session, &overrides, "override files");
        files.extend(overrides.into_iter().next());
        return Ok(files);
    }
    session.no_file = true;
    let mut problem = Problem::error(format!(
        "no Compose file in `{}` or a directory above it",
        start.display()
    ))
    .expected(format!("one of {}", NAMES.join(", ")))
    .hint("name the file with `-f`");
    if let Some(close) = misnamed(&start) {
        problem = problem.hint(format!("there is a file `{close}` here"));
    }
    session.fail(problem)
}

fn existing(session: &mut Session<'_>, directory: &Path, names: &[&str]) -> Vec<PathBuf> {
    names
        .iter()
        .map(|name| directory.join(name))
        .filter(|path| {
            session.depend_on(path);
            path.exists()
        })
        .collect()
}

fn warn_several(session: &mut Session<'_>, found: &[PathBuf], what: &str) {
    let [first, _, ..] = found else { return };
    let names: Vec<String> = found
        .iter()
        .map(|path| format!("`{}`", session.display(path).display()))
        .collect();
    let message = format!(
        "there are several Compose {what}, {}; using `{}`",
        names.join(", "),
        session.display(first).display()
    );
    session.warn(Problem::warning(message));
}

/// A file whose name is nearly right.
fn misnamed(directory: &Path) -> Option<String> {
    let names: Vec<String> = std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            let extension = Path::new(name).extension();
            extension.is_some_and(|extension| extension == "yml" || extension == "yaml")
        })
        .collect();
    NAMES.iter().find_map(|wanted| {
        super::diagnostic::closest(wanted, names.iter().map(String::as_str)).map(str::to_owned)
    })
}
