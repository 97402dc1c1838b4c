//! `include`: other Compose projects as part of this one.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::diagnostic::Problem;
use super::environment;
use super::files::{self, File, Scope};
use super::merge;
use super::path::Path as NodePath;
use super::paths::{clean, relative};
use super::schema::ROOT;
use super::session::{Failed, Outcome, Session};
use super::source::Reason;
use crate::yaml::{Mapping, Node, Span, Value};

/// One entry of `include`.
struct Include {
    files: Vec<(String, Span)>,
    project_directory: Option<(String, Span)>,
    env_files: Vec<(String, Span)>,
}

/// Loads what a document includes and imports it into the document, whose own values win.
pub(super) fn apply(
    session: &mut Session<'_>,
    document: &mut Node,
    resets: &[Vec<String>],
    path: &Path,
    scope: &Scope,
) {
    let Some(list) = document
        .as_mapping_mut()
        .and_then(|mapping| mapping.remove("include"))
    else {
        return;
    };
    for include in entries(session, &list) {
        match load(session, &include, path, scope) {
            Ok(imported) => import(session, document, imported, resets),
            Err(Failed) => session.mark_left_out(None),
        }
    }
}

fn entries(session: &mut Session<'_>, list: &Node) -> Vec<Include> {
    if list.is_null() {
        return Vec::new();
    }
    let Some(items) = list.as_sequence() else {
        let problem =
            Problem::error(format!("`include` must be a list, not {}", list.kind())).at(list.span);
        let problem = match list.as_str() {
            Some(text) => problem.hint(format!("write `include: [{text}]`")),
            None => problem,
        };
        session.error(problem);
        session.mark_left_out(None);
        return Vec::new();
    };
    items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| {
            let entry = entry(session, item, index);
            if entry.is_none() {
                session.mark_left_out(None);
            }
            entry
        })
        .collect()
}

fn entry(session: &mut Session<'_>, item: &Node, index: usize) -> Option<Include> {
    // What could not be interpolated names no file.
    if session.is_useless(item) {
        return None;
    }
    if let Some(text) = item.as_str() {
        return Some(Include {
            files: vec![(text.to_owned(), item.span)],
            project_directory: None,
            env_files: Vec::new(),
        });
    }
    let Some(mapping) = item.as_mapping() else {
        session.error(
            Problem::error(format!(
                "`include[{index}]` must be a string or a mapping, not {}",
                item.kind()
            ))
            .at(item.span),
        );
        return None;
    };
    let known = ["path", "env_file", "project_directory"];
    for (key, entry) in mapping.iter() {
        if !known.contains(&key) {
            session.error(
                Problem::error(format!("`{key}` is not an attribute of `include[{index}]`"))
                    .at(entry.key)
                    .suggest(key, known),
            );
        }
    }
    let files = texts(session, mapping.get("path"));
    if files.is_empty() {
        session.error(Problem::error(format!("`include[{index}]` lacks `path`")).at(item.span));
        return None;
    }
    Some(Include {
        files,
        project_directory: texts(session, mapping.get("project_directory"))
            .into_iter()
            .find(|(text, _)| !text.is_empty()),
        env_files: texts(session, mapping.get("env_file")),
    })
}

/// A text or a list of texts.
fn texts(session: &mut Session<'_>, node: Option<&Node>) -> Vec<(String, Span)> {
    let Some(node) = node else { return Vec::new() };
    let items = match &node.value {
        Value::Sequence(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        match item.as_str() {
            Some(text) => texts.push((text.to_owned(), item.span)),
            None => session.error(
                Problem::error(format!("expected a path, not {}", item.kind())).at(item.span),
            ),
        }
    }
    texts
}

/// Files of which each includes the next.
const MAX_DEPTH: usize = 50;
/// Files that are included in all: a few files that include each other in many ways make many.
const MAX_INCLUDES: usize = 1_000;

/// Whether a path names something on another machine.
pub(super) fn is_remote(path: &str) -> bool {
    path.starts_with("oci://")
        || path.starts_with("git@")
        || path.starts_with("github.com/")
        || path.contains("://")
}

/// The error for a file on another machine.
pub(super) fn remote(path: &str) -> Problem {
    let what = if path.starts_with("oci://") {
        "an artifact in a registry"
    } else {
        "not a local file"
    };
    Problem::error(format!("`{path}` is {what}, and only local files are read"))
}

fn load(session: &mut Session<'_>, include: &Include, from: &Path, scope: &Scope) -> Outcome<Node> {
    if scope.included.len() >= MAX_DEPTH {
        let message = format!("files include each other more than {MAX_DEPTH} deep");
        return session.fail(Problem::error(message).at(include.files[0].1));
    }
    session.includes += 1;
    if session.includes > MAX_INCLUDES {
        let message = format!("more than {MAX_INCLUDES} files are included");
        return session.fail(Problem::error(message).at(include.files[0].1));
    }
    let mut included = scope.included.clone();
    included.push((from.to_owned(), Span::NONE));
    let (main, main_span) = &include.files[0];
    let main_path = clean(&scope.directory.join(main));
    check_cycle(session, &included, &main_path, *main_span)?;

    // Relative paths of the included files are put right twice: against their directory as this
    // file sees it, later against the directory of this file.
    let (directory, prefix) = match &include.project_directory {
        None => {
            let directory = main_path.parent().unwrap_or(&main_path).to_owned();
            let prefix = relative(&scope.directory, &directory);
            (directory, prefix)
        }
        Some((directory, _)) if Path::new(directory).is_absolute() => {
            (PathBuf::from(directory), PathBuf::from(directory))
        }
        Some((directory, span)) => {
            let absolute = clean(&scope.directory.join(directory));
            let mut prefix = relative(&scope.directory, &absolute);
            if !absolute.is_dir() {
                // The reference takes the parent without a word.
                session.warn(
                    Problem::warning(format!(
                        "the project directory `{directory}` does not exist; relative paths start from its parent"
                    ))
                    .at(*span),
                );
                prefix = prefix.parent().unwrap_or(&prefix).to_owned();
            }
            (absolute, prefix)
        }
    };

    let mut variables = (*scope.environment).clone();
    let env_files = env_files(session, include, &directory, scope)?;
    environment::add_files(session, &mut variables, &env_files)?;

    let mut files = Vec::with_capacity(include.files.len());
    for (file, span) in &include.files {
        if is_remote(file) {
            return session.fail(
                remote(file)
                    .at(*span)
                    .hint("fetch it first, then include the local copy"),
            );
        }
        let path = clean(&scope.directory.join(file));
        let display = session.display(&path);
        let Ok(id) = session.read(&path, &display, Reason::Include(*span), *span) else {
            session.mark_left_out(None);
            continue;
        };
        match session.parse(id) {
            Ok(documents) => files.push(File { path, documents }),
            Err(Failed) => session.mark_left_out(Some(id)),
        }
    }
    let scope = Scope {
        directory,
        prefix,
        environment: Rc::new(variables),
        included,
        resolve_paths: true,
    };
    Ok(files::load(session, files, &scope))
}

fn check_cycle(
    session: &mut Session<'_>,
    included: &[(PathBuf, Span)],
    path: &Path,
    span: Span,
) -> Outcome<()> {
    let Some(start) = included.iter().position(|(file, _)| file == path) else {
        return Ok(());
    };
    let chain: Vec<String> = included[start..]
        .iter()
        .map(|(file, _)| file.as_path())
        .chain([path])
        .map(|file| session.display(file).display().to_string())
        .collect();
    session
        .fail(Problem::error(format!("files include each other: {}", chain.join(" -> "))).at(span))
}

/// The files of variables of an include, each with the place that names it.
fn env_files(
    session: &mut Session<'_>,
    include: &Include,
    directory: &Path,
    scope: &Scope,
) -> Outcome<Vec<(PathBuf, Span)>> {
    if include.env_files.is_empty() {
        let default = directory.join(".env");
        session.depend_on(&default);
        return Ok(if default.is_file() {
            vec![(default, Span::NONE)]
        } else {
            Vec::new()
        });
    }
    let mut files = Vec::new();
    for (file, span) in &include.env_files {
        if file == "/dev/null" {
            continue;
        }
        let path = clean(&scope.directory.join(file));
        session.depend_on(&path);
        if !path.exists() {
            let display = session.display(&path);
            return session.fail(
                Problem::error(format!("there is no env file `{}`", display.display())).at(*span),
            );
        }
        files.push((path, *span));
    }
    Ok(files)
}

/// Adds the resources of an included project. Where both define one, the includer's values win;
/// the same definition from two sides is no conflict.
fn import(session: &mut Session<'_>, document: &mut Node, imported: Node, resets: &[Vec<String>]) {
    let Value::Mapping(sections) = imported.value else {
        return;
    };
    for (section, entry) in sections {
        if !matches!(
            section.as_str(),
            "services" | "volumes" | "networks" | "secrets" | "configs" | "models"
        ) {
            continue;
        }
        let Value::Mapping(resources) = entry.value.value else {
            continue;
        };
        let Some(mapping) = document.as_mapping_mut() else {
            return;
        };
        let target = mapping.get_or_insert(&section, || Node::mapping(Mapping::new(), Span::NONE));
        if target.is_null() {
            *target = Node::mapping(Mapping::new(), target.span);
        }
        // The check of the schema reports a section of another kind.
        let Some(target) = target.as_mapping_mut() else {
            continue;
        };
        let path = NodePath::ROOT.key(&section);
        let schema = ROOT.child(&section);
        for (name, mut entry) in resources {
            let Some(own) = target.get_mut(&name) else {
                target.insert(name, entry);
                continue;
            };
            if *own == entry.value {
                continue;
            }
            merge::reset_below(&mut entry.value, own, &[&section, &name], resets);
            let over = std::mem::replace(own, entry.value);
            let schema = schema.and_then(|schema| schema.child(&name));
            merge::merge(session, own, over, schema, &path.key(&name));
        }
    }
}
