//! From the documents of several files to one canonical tree.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::diagnostic::Problem;
use super::dotenv::Variables;
use super::path::Path as NodePath;
use super::schema::ROOT;
use super::session::{Failed, Outcome, Session};
use super::{canonical, extends, include, interpolate, merge, paths, semantic, unique, validate};
use crate::yaml::{Document, Mapping, Node, Span, Value};

/// A file whose documents were read.
#[derive(Debug)]
pub(super) struct File {
    /// Absolute, or `-`.
    pub(super) path: PathBuf,
    pub(super) documents: Vec<Document>,
}

/// What a group of files is loaded with.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// Directory that `include` and `extends` start from; absolute.
    pub(super) directory: PathBuf,
    /// What is put before relative paths: the directory as the including file sees it, or the
    /// directory itself.
    pub(super) prefix: PathBuf,
    pub(super) environment: Rc<Variables>,
    /// Files that lead here by `include`.
    pub(super) included: Vec<(PathBuf, Span)>,
    /// Whether relative paths are resolved against `prefix`.
    pub(super) resolve_paths: bool,
}

/// Merges files and brings the result into canonical form, with defaults and paths.
pub(super) fn load(session: &mut Session<'_>, files: Vec<File>, scope: &Scope) -> Node {
    let mut root = Node::mapping(Mapping::new(), Span::NONE);
    for file in files {
        for document in file.documents {
            add(session, &mut root, document, &file.path, scope);
        }
    }
    semantic::defaults(&mut root);
    if session.options.check_schema {
        semantic::check(session, &root);
    }
    if scope.resolve_paths {
        paths::resolve(session, &mut root, &scope.prefix);
    }
    resolve_environment(session, &mut root, &scope.environment);
    root
}

/// Merges one document into the tree.
fn add(session: &mut Session<'_>, root: &mut Node, document: Document, path: &Path, scope: &Scope) {
    let Document {
        root: mut added,
        resets,
    } = document;
    if expect_mapping(session, &added).is_err() {
        return;
    }
    if session.options.interpolate {
        interpolate::document(session, &mut added, &scope.environment);
    }
    include::apply(session, &mut added, &resets, path, scope);
    merge::reset(root, &mut added, &resets);
    extends::apply(session, &mut added, &resets, path, scope);
    merge::merge(session, root, added, Some(&ROOT), &NodePath::ROOT);
    unique::enforce(root, Some(&ROOT));
    if session.options.check_schema {
        validate::document(session, root);
    }
    if let Some(mapping) = root.as_mapping_mut()
        && let Some(version) = mapping.remove("version")
    {
        session.warn(
            Problem::warning("`version` is obsolete and ignored")
                .at(version.span)
                .hint("remove the line"),
        );
    }
    canonical::document(session, root);
    unique::enforce(root, Some(&ROOT));
}

pub(super) fn expect_mapping(session: &mut Session<'_>, node: &Node) -> Outcome<()> {
    if node.as_mapping().is_some() {
        return Ok(());
    }
    session.error(
        Problem::error(format!(
            "a Compose file is a mapping, but this is {}",
            node.kind()
        ))
        .at(node.span)
        .expected("sections such as `services:`"),
    );
    Err(Failed)
}

/// Takes bare variables of services, and the contents of configs and secrets, from the environment.
fn resolve_environment(session: &mut Session<'_>, root: &mut Node, environment: &Variables) {
    if let Some(services) = root.get_mut("services").and_then(Node::as_mapping_mut) {
        for (_, entry) in services.iter_mut() {
            let Some(items) = entry
                .value
                .get_mut("environment")
                .and_then(Node::as_sequence_mut)
            else {
                continue;
            };
            for item in items {
                if let Value::String(text) = &mut item.value
                    && let Some(value) = environment.get(text.as_str())
                {
                    *text = format!("{text}={value}");
                }
            }
        }
    }
    for section in ["secrets", "configs"] {
        for (name, entry) in root.entries(section) {
            if let Some(variable) = entry.value.text("environment")
                && let Some(value) = environment.get(variable)
            {
                session
                    .contents
                    .insert((section, name.to_owned()), value.clone());
            }
        }
    }
}
