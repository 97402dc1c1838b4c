//! Relative paths become absolute.

use std::path::{Path, PathBuf};

use super::diagnostic::Problem;
use super::dotenv::Variables;
use super::path::Path as NodePath;
use super::schema::{PathRule, ROOT, Schema};
use super::session::Session;
use crate::yaml::{Node, Value};

/// A path without `.`, `..` and repeated slashes, decided by the text alone.
pub(super) fn clean(path: &Path) -> PathBuf {
    PathBuf::from(clean_text(&path.to_string_lossy()))
}

/// As [`clean`], for text.
pub(super) fn clean_text(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// The path that leads from one absolute directory to another.
pub(super) fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to) = (clean(from), clean(to));
    let mut from = from.components().peekable();
    let mut to = to.components().peekable();
    while from.peek().is_some() && from.peek() == to.peek() {
        from.next();
        to.next();
    }
    let path: PathBuf = from
        .map(|_| std::path::Component::ParentDir)
        .chain(to)
        .collect();
    if path.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        path
    }
}

/// Replaces a leading `~` by the home directory.
pub(super) fn expand_home(path: &str, environment: &Variables) -> String {
    match (path.strip_prefix('~'), environment.get("HOME")) {
        (Some(rest), Some(home)) if !home.is_empty() => clean_text(&format!("{home}/{rest}")),
        _ => path.to_owned(),
    }
}

/// Resolves every path in a canonical tree against `base`, which may itself be relative.
pub(super) fn resolve(session: &mut Session<'_>, root: &mut Node, base: &Path) {
    let environment = &session.options.environment;
    let convert_windows = environment
        .get("COMPOSE_CONVERT_WINDOWS_PATHS")
        .and_then(|value| super::environment::parse_flag(value))
        .unwrap_or_default();
    let resolver = Resolver {
        base: &base.to_string_lossy(),
        environment,
        convert_windows,
    };
    for section in ["services", "volumes", "configs", "secrets"] {
        let schema = ROOT.child(section);
        if let (Some(schema), Some(node)) = (schema, root.get_mut(section)) {
            resolver.walk(session, node, schema, &NodePath::ROOT.key(section));
        }
    }
}

struct Resolver<'a> {
    base: &'a str,
    environment: &'a Variables,
    /// Whether `C:\x` becomes `/c/x` in volumes.
    convert_windows: bool,
}

impl Resolver<'_> {
    fn walk(
        &self,
        session: &mut Session<'_>,
        node: &mut Node,
        schema: &'static Schema,
        path: &NodePath<'_>,
    ) {
        match schema.path {
            PathRule::Mount => return self.mount(session, node, path),
            PathRule::Device => return self.device(node),
            _ => {}
        }
        match &mut node.value {
            Value::String(text) => match schema.path {
                PathRule::Plain => *text = self.plain(text),
                PathRule::Portable => *text = self.portable(text),
                PathRule::Context => *text = self.context(text),
                PathRule::Real => *text = real(&self.plain(text)),
                PathRule::No | PathRule::Mount | PathRule::Device => {}
            },
            Value::Sequence(items) => {
                if let Some(schema) = schema.items {
                    for (index, item) in items.iter_mut().enumerate() {
                        self.walk(session, item, schema, &path.index(index));
                    }
                }
            }
            Value::Mapping(mapping) => {
                for (key, entry) in mapping.iter_mut() {
                    if let Some(schema) = schema.child(key) {
                        self.walk(session, &mut entry.value, schema, &path.key(key));
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Unsigned(_) | Value::Float(_) => {
            }
        }
    }

    fn plain(&self, text: &str) -> String {
        let text = expand_home(text, self.environment);
        if text.starts_with('/') || text.is_empty() {
            return text;
        }
        self.join(&text)
    }

    fn portable(&self, text: &str) -> String {
        let text = expand_home(text, self.environment);
        if text.starts_with('/') || is_windows_absolute(&text) {
            return text;
        }
        self.join(&text)
    }

    fn context(&self, text: &str) -> String {
        let is_elsewhere = text.contains("://")
            || text.starts_with("service:")
            || text.starts_with("github.com/")
            || text.starts_with("git@");
        if is_elsewhere {
            return text.to_owned();
        }
        self.plain(text)
    }

    fn join(&self, text: &str) -> String {
        if self.base.is_empty() {
            return clean_text(text);
        }
        clean_text(&format!("{}/{text}", self.base))
    }

    fn mount(&self, session: &mut Session<'_>, node: &mut Node, path: &NodePath<'_>) {
        if node.text("type") != Some("bind") {
            return;
        }
        let span = node.span;
        match node.get_mut("source").map(|source| &mut source.value) {
            Some(Value::String(source)) => {
                *source = self.portable(source);
                if self.convert_windows
                    && let [drive, b':', ..] = source.as_bytes()
                {
                    let drive = char::from(*drive).to_ascii_lowercase();
                    *source = format!("/{drive}{}", source[2..].replace('\\', "/"));
                }
            }
            Some(_) => {}
            None => session.error(
                Problem::error(format!("`{path}` is a bind mount without `source`")).at(span),
            ),
        }
    }

    fn device(&self, node: &mut Node) {
        if node.text("driver") != Some("local") {
            return;
        }
        let Some(options) = node.get_mut("driver_opts") else {
            return;
        };
        if options.text("o") != Some("bind") {
            return;
        }
        if let Some(Value::String(device)) = options.get_mut("device").map(|node| &mut node.value) {
            *device = self.portable(device);
        }
    }
}

/// The path with symbolic links followed as far as it exists.
fn real(path: &str) -> String {
    let path = Path::new(path);
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if let Ok(found) = ancestor.canonicalize() {
            let mut found = found;
            found.extend(missing.iter().rev());
            return found.to_string_lossy().into_owned();
        }
        match ancestor.file_name() {
            Some(name) => missing.push(name),
            None => break,
        }
    }
    path.to_string_lossy().into_owned()
}

/// Whether a path is absolute on Windows: a drive with a slash, or two slashes and a host.
fn is_windows_absolute(path: &str) -> bool {
    let is_slash = |byte: u8| matches!(byte, b'/' | b'\\');
    match path.as_bytes() {
        [_, b':', slash, ..] => is_slash(*slash),
        [first, second, ..] => is_slash(*first) && is_slash(*second),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_text() {
        for (path, expected) in [
            ("", "."),
            (".", "."),
            ("./a/../b//c/", "b/c"),
            ("/a/../../b", "/b"),
            ("../a", "../a"),
            ("a/../../b", "../b"),
            ("/", "/"),
        ] {
            assert_eq!(clean_text(path), expected, "{path:?}");
        }
    }

    #[test]
    fn directories_are_related_by_their_text() {
        for (from, to, expected) in [
            ("/a/b", "/a/b", "."),
            ("/a", "/a/b/c", "b/c"),
            ("/a/b", "/a/c", "../c"),
        ] {
            assert_eq!(
                relative(Path::new(from), Path::new(to)),
                PathBuf::from(expected)
            );
        }
    }
}
