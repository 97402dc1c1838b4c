//! `extends`: a service that starts from another.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::canonical;
use super::diagnostic::Problem;
use super::dotenv::Variables;
use super::files::Scope;
use super::include::{is_remote, remote};
use super::interpolate;
use super::merge;
use super::path::Path as NodePath;
use super::paths::{self, clean, relative};
use super::schema::{ROOT, SERVICE};
use super::session::{Failed, Outcome, Session};
use super::source::Reason;
use super::unique;
use crate::yaml::{Document, FileId, Mapping, Node, Span, Value};

/// Services from which one service may come.
const MAX_DEPTH: usize = 100;

/// What is known of `extends` in one load.
#[derive(Debug, Default)]
pub(super) struct Extends {
    /// Files that services extend from, each read once for the files of a directory: paths in it are
    /// put right against that.
    bases: HashMap<(PathBuf, PathBuf), Base>,
    /// Files of `bases` with which something is wrong, which is said once.
    unusable: HashSet<(PathBuf, PathBuf)>,
    /// Services whose `extends` is wrong, which is said once.
    failed: HashSet<(PathBuf, String)>,
}

/// A file that services extend from.
#[derive(Debug)]
struct Base {
    services: Mapping,
    resets: Vec<Vec<String>>,
    /// What its variables were replaced from.
    environment: Rc<Variables>,
}

/// A service on the way from an extending service to its base.
struct Visit {
    file: PathBuf,
    service: String,
    span: Span,
}

/// Replaces every service that extends another by the merge of both.
pub(super) fn apply(
    session: &mut Session<'_>,
    document: &mut Node,
    resets: &[Vec<String>],
    path: &Path,
    scope: &Scope,
) {
    // The check of the schema reports a section of another kind.
    let Some(services) = document.get_mut("services").and_then(Node::as_mapping_mut) else {
        return;
    };
    let names: Vec<String> = services
        .iter()
        .filter(|(_, entry)| entry.value.get("extends").is_some())
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in names {
        // Each service is tried, so that all that is wrong is found.
        let mut visits = Vec::new();
        let outcome = resolve(session, &name, services, resets, path, scope, &mut visits);
        if outcome.is_err() {
            let failed = visits.into_iter().map(|visit| (visit.file, visit.service));
            session.extends.failed.extend(failed);
            session.mark_broken(&NodePath::ROOT.key("services").key(&name));
            if let Some(service) = services.get_mut(&name).and_then(Node::as_mapping_mut) {
                service.remove("extends");
            }
        }
    }
}

/// Resolves `extends` of the service `name`, which `file` defines.
fn resolve(
    session: &mut Session<'_>,
    name: &str,
    services: &mut Mapping,
    resets: &[Vec<String>],
    file: &Path,
    scope: &Scope,
    visits: &mut Vec<Visit>,
) -> Outcome<()> {
    let Some(extends) = services
        .get(name)
        .and_then(|service| service.get("extends"))
    else {
        return Ok(());
    };
    if session
        .extends
        .failed
        .contains(&(file.to_owned(), name.to_owned()))
    {
        return Err(Failed);
    }
    // What could not be interpolated names neither file nor service.
    if session.is_useless(extends) {
        return Err(Failed);
    }
    let span = extends.span;
    let (base_name, base_span) = match (extends.as_str(), extends.get("service")) {
        (Some(text), _) => (text.to_owned(), span),
        (None, Some(service)) if service.as_str().is_some() => (
            service.as_str().unwrap_or_default().to_owned(),
            service.span,
        ),
        _ => {
            return session.fail(
                Problem::error(format!("`services.{name}.extends` lacks `service`")).at(span),
            );
        }
    };
    let base_file = extends
        .get("file")
        .and_then(|file| Some((file.as_str()?.to_owned(), file.span)));
    if visits.len() >= MAX_DEPTH {
        let message = format!("services extend each other more than {MAX_DEPTH} deep");
        return session.fail(Problem::error(message).at(span));
    }
    visits.push(Visit {
        file: file.to_owned(),
        service: name.to_owned(),
        span,
    });

    let base = match base_file {
        None => {
            check_cycle(session, visits, file, &base_name, base_span)?;
            if !services.contains(&base_name) {
                let problem = Problem::error(format!(
                    "`{name}` extends the service `{base_name}`, which is not defined"
                ))
                .at(base_span)
                .suggest(&base_name, services.keys());
                return session.fail(problem);
            }
            resolve(session, &base_name, services, resets, file, scope, visits)?;
            services.get(&base_name).cloned()
        }
        Some((text, file_span)) => {
            let expanded = paths::expand_home(&text, &session.options.environment);
            let base_path = clean(&scope.directory.join(expanded));
            check_cycle(session, visits, &base_path, &base_name, base_span)?;
            let key = (base_path.clone(), scope.directory.clone());
            if session.extends.unusable.contains(&key) {
                return Err(Failed);
            }
            let known = session.extends.bases.remove(&key);
            let known = known.filter(|base| Rc::ptr_eq(&base.environment, &scope.environment));
            let mut base = match known {
                Some(base) => base,
                None => read(session, &text, file_span, &base_path, scope)?,
            };
            let outcome = if base.services.contains(&base_name) {
                let resets = std::mem::take(&mut base.resets);
                let outcome = resolve(
                    session,
                    &base_name,
                    &mut base.services,
                    &resets,
                    &base_path,
                    scope,
                    visits,
                );
                base.resets = resets;
                outcome
            } else {
                let problem = Problem::error(format!(
                    "`{name}` extends the service `{base_name}`, which `{text}` does not define"
                ))
                .at(base_span)
                .suggest(&base_name, base.services.keys());
                session.fail(problem)
            };
            let service = base.services.get(&base_name).cloned();
            session.extends.bases.insert(key, base);
            outcome?;
            service
        }
    };
    visits.pop();

    let Some(service) = services.get_mut(name) else {
        return Ok(());
    };
    let Some(mut base) = base.filter(|base| !base.is_null()) else {
        return Ok(());
    };
    session.spend_copies(base.count(), span)?;
    let mut over = std::mem::take(service);
    merge::reset_below(&mut base, &mut over, &["services", name], resets);
    if let Some(mapping) = over.as_mapping_mut() {
        mapping.remove("extends");
    }
    let span = over.span;
    let path = NodePath::ROOT;
    let path = path.key("services");
    merge::merge(session, &mut base, over, Some(&SERVICE), &path.key(name));
    if let Some(mapping) = base.as_mapping_mut() {
        mapping.remove("extends");
    }
    base.span = span;
    *service = base;
    Ok(())
}

fn check_cycle(
    session: &mut Session<'_>,
    visits: &[Visit],
    file: &Path,
    service: &str,
    span: Span,
) -> Outcome<()> {
    let Some(start) = visits
        .iter()
        .position(|visit| visit.file == file && visit.service == service)
    else {
        return Ok(());
    };
    let mut names: Vec<String> = visits[start..]
        .iter()
        .map(|visit| visit.service.clone())
        .collect();
    names.push(service.to_owned());
    let mut problem = Problem::error(format!(
        "services extend each other: {}",
        names.join(" -> ")
    ))
    .at(span);
    for visit in &visits[start..] {
        if visit.span != span {
            problem = problem.label(visit.span, format!("`{}` extends", visit.service));
        }
    }
    session.fail(problem)
}

/// Reads a file of base services: interpolated and in long form, but neither checked nor complete.
fn read(
    session: &mut Session<'_>,
    text: &str,
    span: Span,
    path: &Path,
    scope: &Scope,
) -> Outcome<Base> {
    if is_remote(text) {
        return session.fail(
            remote(text)
                .at(span)
                .hint("fetch it first, then extend from the local copy"),
        );
    }
    let display = session.display(path);
    let id = session.read(path, &display, Reason::Extends(span), span)?;
    let base = base(session, id, span, path, scope);
    if base.is_err() {
        let key = (path.to_owned(), scope.directory.clone());
        session.extends.unusable.insert(key);
    }
    base
}

/// What services can extend of a file whose text was read.
fn base(
    session: &mut Session<'_>,
    file: FileId,
    span: Span,
    path: &Path,
    scope: &Scope,
) -> Outcome<Base> {
    let documents = session.parse(file)?;
    let errors = session.errors.len();
    let mut root = Node::mapping(Mapping::new(), Span::NONE);
    let mut marks = Vec::new();
    for document in documents {
        let Document {
            root: mut added,
            resets,
        } = document;
        super::files::expect_mapping(session, &added)?;
        if session.options.interpolate {
            interpolate::document(session, &mut added, &scope.environment);
            session.checkpoint_since(errors)?;
        }
        merge::reset(&mut root, &mut added, &resets);
        merge::merge(session, &mut root, added, Some(&ROOT), &NodePath::ROOT);
        unique::enforce(&mut root, Some(&ROOT));
        canonical::document(session, &mut root);
        session.checkpoint_since(errors)?;
        unique::enforce(&mut root, Some(&ROOT));
        marks = resets;
    }
    let directory = path.parent().unwrap_or(path);
    let prefix = relative(&scope.directory, directory);
    paths::resolve(session, &mut root, &prefix);
    session.checkpoint_since(errors)?;
    let services = root
        .as_mapping_mut()
        .and_then(|mapping| mapping.remove("services"));
    if let Some(Value::Mapping(services)) = services.map(|services| services.value) {
        return Ok(Base {
            services,
            resets: marks,
            environment: Rc::clone(&scope.environment),
        });
    }
    let display = session.display(path);
    let message = format!("`{}` defines no services to extend", display.display());
    session.fail(Problem::error(message).at(span))
}
