//! The name of a project.

use std::path::Path;

use super::diagnostic::Problem;
use super::dotenv::Variables;
use super::interpolate;
use super::session::{Outcome, Session};
use crate::yaml::{Document, Node, Span};

/// The name that a text makes: lower case letters, digits, `-` and `_`, starting with a letter or digit.
pub(super) fn normalize(text: &str) -> String {
    text.to_lowercase()
        .chars()
        .filter(|character| {
            character.is_ascii_lowercase()
                || character.is_ascii_digit()
                || matches!(character, '_' | '-')
        })
        .collect::<String>()
        .trim_start_matches(['_', '-'])
        .to_owned()
}

/// Whether `name` may be the name of a project.
pub fn is_project_name(name: &str) -> bool {
    !name.is_empty() && normalize(name) == name
}

/// The name that `-p` or `COMPOSE_PROJECT_NAME` gives, which must be normal already.
pub(super) fn given(session: &mut Session<'_>, environment: &Variables) -> Outcome<Option<String>> {
    let option = session
        .options
        .project_name
        .clone()
        .filter(|name| !name.is_empty());
    let (name, origin) = match option {
        Some(name) => (name, "`--project-name`"),
        None => match environment.get("COMPOSE_PROJECT_NAME") {
            Some(name) if !name.is_empty() => (name.clone(), "COMPOSE_PROJECT_NAME"),
            _ => return Ok(None),
        },
    };
    let normal = normalize(&name);
    if normal == name {
        return Ok(Some(name));
    }
    let mut problem = Problem::error(format!("`{name}` from {origin} is not a project name"))
        .expected(
            "lower case letters, digits, hyphens and underscores, starting with a letter or digit",
        );
    if !normal.is_empty() {
        problem = problem.hint(format!("`{normal}` would do"));
    }
    session.fail(problem)
}

/// The name that the files give, else that of the directory.
pub(super) fn from_files(
    session: &mut Session<'_>,
    documents: &[Vec<Document>],
    directory: &Path,
    environment: &Variables,
) -> Outcome<String> {
    let last = documents
        .iter()
        .flatten()
        .filter_map(|document| document.root.get("name"))
        .rfind(|name| name.as_str().is_some_and(|text| !text.is_empty()));
    if let Some(node) = last {
        let text = name_text(session, node, environment)?;
        let name = if session.options.normalize {
            normalize(&text)
        } else {
            text
        };
        return nonempty(session, name, node.span);
    }
    let base = directory
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    if let Ok(real) = directory.canonicalize()
        && real
            .file_name()
            .is_some_and(|name| name.to_string_lossy() != base)
    {
        session.warn(
            Problem::warning(format!(
                "the project directory is a symbolic link; the project is called `{}` after it",
                normalize(&base)
            ))
            .hint("set `name:` in the file to be independent of the directory"),
        );
    }
    nonempty(session, normalize(&base), Span::NONE)
}

fn name_text(session: &mut Session<'_>, node: &Node, environment: &Variables) -> Outcome<String> {
    let text = node.as_str().unwrap_or_default();
    if !session.options.interpolate {
        return Ok(text.to_owned());
    }
    interpolate::text(session, text, node.span, "name", environment)
}

fn nonempty(session: &mut Session<'_>, name: String, span: Span) -> Outcome<String> {
    if name.is_empty() {
        return session.fail(
            Problem::error("the project name must not be empty")
                .at(span)
                .hint("set `name:` in the file or give `-p`"),
        );
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_normal() {
        for (text, name) in [
            ("MyProject", "myproject"),
            ("my project!", "myproject"),
            ("__a-b_c", "a-b_c"),
            ("...", ""),
        ] {
            assert_eq!(normalize(text), name);
        }
    }
}
