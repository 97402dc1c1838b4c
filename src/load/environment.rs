//! Variables for interpolation: the process environment over files of variables.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::diagnostic::Problem;
use super::dotenv::{self, DotenvErrorKind, Variables};
use super::session::{Outcome, Session};
use super::source::Source;
use super::template::TemplateError;
use crate::yaml::{FileId, Span};

/// Whether the value of a variable means yes, as Docker has it; all else means no.
pub fn means_yes(value: &str) -> bool {
    matches!(
        value.to_lowercase().as_str(),
        "1" | "t" | "true" | "y" | "yes" | "on"
    )
}

/// The process environment with `PWD`.
pub(super) fn of_process(session: &Session<'_>) -> Variables {
    let mut environment = session.options.environment.clone();
    if !environment.contains_key("PWD") {
        environment.insert(
            "PWD".to_owned(),
            session.options.working_dir.display().to_string(),
        );
    }
    environment
}

/// The files of variables that are asked for, or the `.env` of `directory`.
pub(super) fn files(
    session: &mut Session<'_>,
    environment: &Variables,
    directory: &Path,
) -> Outcome<Vec<(PathBuf, Span)>> {
    let given: Vec<PathBuf> = if session.options.env_files.is_empty() {
        // One in a file of variables would come too late.
        let list = session.options.environment.get("COMPOSE_ENV_FILES");
        list.into_iter()
            .flat_map(|files| files.split(','))
            .filter(|file| !file.is_empty())
            .map(PathBuf::from)
            .collect()
    } else {
        session.options.env_files.clone()
    };
    if !given.is_empty() {
        return Ok(given
            .iter()
            .map(|file| {
                let expanded = super::paths::expand_home(
                    &file.to_string_lossy(),
                    &session.options.environment,
                );
                (session.options.working_dir.join(expanded), Span::NONE)
            })
            .collect());
    }
    if let Some(value) = environment.get("COMPOSE_DISABLE_ENV_FILE") {
        match parse_flag(value) {
            Some(true) => return Ok(Vec::new()),
            Some(false) => {}
            None => {
                return session.fail(
                    Problem::error(format!(
                        "COMPOSE_DISABLE_ENV_FILE is `{value}`, which is no boolean"
                    ))
                    .expected("`true` or `false`"),
                );
            }
        }
    }
    let default = directory.join(".env");
    session.depend_on(&default);
    Ok(if default.is_file() {
        vec![(default, Span::NONE)]
    } else {
        Vec::new()
    })
}

/// Forgets what a `.env` that disables itself says, but for what it says to Compose.
pub(super) fn drop_disabled(session: &Session<'_>, environment: &mut Variables) {
    let process = &session.options.environment;
    let is_given =
        !session.options.env_files.is_empty() || process.contains_key("COMPOSE_ENV_FILES");
    let is_disabled = environment
        .get("COMPOSE_DISABLE_ENV_FILE")
        .and_then(|value| parse_flag(value))
        .unwrap_or_default();
    if is_disabled && !is_given {
        environment.retain(|name, _| {
            name.starts_with("COMPOSE_") || name == "PWD" || process.contains_key(name)
        });
    }
}

/// Go's idea of a boolean in text.
pub(super) fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Adds the variables of files; what is set already stays. A later file wins over an earlier one. Each
/// file comes with the place that names it.
pub(super) fn add_files(
    session: &mut Session<'_>,
    environment: &mut Variables,
    files: &[(PathBuf, Span)],
) -> Outcome<()> {
    let mut variables = Variables::new();
    let mut places = HashMap::new();
    for (file, asked_at) in files {
        if file.is_dir() {
            let display = session.display(file);
            return session.fail(
                Problem::error(format!(
                    "the env file `{}` is a directory",
                    display.display()
                ))
                .at(*asked_at),
            );
        }
        let id = session.read_variables(file, *asked_at)?;
        let set = parse_file(session, id, &mut variables, None, &|name| {
            environment.get(name).map(String::as_str)
        })?;
        places.extend(set);
    }
    for (name, value) in variables {
        if environment.contains_key(&name) {
            continue;
        }
        if let Some(place) = places.remove(&name) {
            session.trace.set(&name, &value, place);
        }
        environment.insert(name, value);
    }
    Ok(())
}

/// Parses a file of variables that was read into `variables`; returns where it sets them.
pub(super) fn parse_file<'v>(
    session: &mut Session<'_>,
    file: FileId,
    variables: &mut Variables,
    format: Option<&str>,
    lookup: &dyn Fn(&str) -> Option<&'v str>,
) -> Outcome<HashMap<String, Span>> {
    let Some(source) = session.sources.get(file) else {
        return Ok(HashMap::new());
    };
    let mut unset = Vec::new();
    let result = if format == Some("raw") {
        dotenv::parse_raw(&source.text, variables, lookup)
    } else {
        dotenv::parse(&source.text, variables, lookup, &mut |name, line| {
            unset.push((name.to_owned(), line_span(source, file, line)));
        })
    };
    let result = match result {
        Ok(lines) => Ok(lines
            .into_iter()
            .map(|(name, line)| (name, line_span(source, file, line)))
            .collect()),
        Err(error) => {
            let span = line_span(source, file, error.line);
            let problem = Problem::error(error.to_string()).at(span);
            Err(match error.kind {
                DotenvErrorKind::Unclosed => problem.hint("close the quote"),
                DotenvErrorKind::Template(TemplateError::TooLong) => problem,
                DotenvErrorKind::Template(_) => {
                    problem.hint("write `$$` for a dollar sign, or put the value in single quotes")
                }
                _ => problem,
            })
        }
    };
    for (name, span) in unset {
        session.warn_unset(&name, span);
    }
    result.or_else(|problem| session.fail(problem))
}

/// The text of a line, without the white space around it.
fn line_span(source: &Source, file: FileId, line: u32) -> Span {
    let range = source.line(line);
    let content = &source.text[range.clone()];
    let start = range.end - content.trim_start().len();
    let end = start + content.trim().len();
    Span {
        file,
        start: u32::try_from(start).unwrap_or(u32::MAX),
        end: u32::try_from(end).unwrap_or(u32::MAX),
    }
}
