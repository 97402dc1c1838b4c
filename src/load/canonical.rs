//! Short forms become long ones.

use super::diagnostic::Problem;
use super::merge::{default_dependency, names_to_mapping};
use super::path::Path;
use super::session::Session;
use crate::model::{Mount, MountError, MountKind, Port, PortError, parse_mount, parse_ports};
use crate::yaml::{Entry, Mapping, Node, Span, Value};

/// Rewrites a checked document in long form. Without interpolation, texts that cannot be read because
/// of the variables in them stay as they are.
pub(super) fn document(session: &mut Session<'_>, root: &mut Node) {
    let path = Path::ROOT.key("services");
    if let Some(services) = root.get_mut("services").and_then(Node::as_mapping_mut) {
        for (name, entry) in services.iter_mut() {
            service(session, &mut entry.value, &path.key(name));
        }
    }
    for section in ["volumes", "networks", "secrets", "configs"] {
        let path = Path::ROOT.key(section);
        if let Some(resources) = root.get_mut(section).and_then(Node::as_mapping_mut) {
            for (name, entry) in resources.iter_mut() {
                external(session, &mut entry.value, &path.key(name));
            }
        }
    }
}

fn service(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    let Some(mapping) = node.as_mapping_mut() else {
        return;
    };
    for (key, entry) in mapping.iter_mut() {
        let value = &mut entry.value;
        let path = path.key(key);
        match key {
            "build" => build(session, value, &path),
            "depends_on" => dependencies(value),
            "env_file" => {
                text_to_list(value);
                each(value, env_file);
            }
            "label_file" | "dns" => text_to_list(value),
            "extends" => wrap_text(value, "service"),
            "gpus" => gpus(value),
            "networks" | "models" => {
                names_to_mapping(value, |span| Node::new(Value::Null, span));
            }
            "volumes" => {
                needs_target(session, value, &path);
                each_indexed(value, |index, item| {
                    mount(session, item, &path.index(index));
                });
            }
            "devices" => {
                needs_target(session, value, &path);
                each_indexed(value, |index, item| {
                    device(session, item, &path.index(index));
                });
            }
            "secrets" | "configs" => each(value, |item| wrap_text(item, "source")),
            "ports" => {
                needs_target(session, value, &path);
                ports(session, value, &path);
            }
            "develop" => {
                if let Some(rules) = value.get_mut("watch") {
                    each(rules, |rule| {
                        for key in ["ignore", "include"] {
                            if let Some(list) = rule.get_mut(key) {
                                text_to_list(list);
                            }
                        }
                    });
                }
            }
            _ => {}
        }
    }
    if let Some(dns) = node.get_mut("dns").and_then(Node::as_sequence_mut) {
        dns.retain(|address| address.as_str() != Some("") && !address.is_null());
    }
}

/// Long forms say where in the container they mean.
fn needs_target(session: &mut Session<'_>, list: &Node, path: &Path<'_>) {
    for (index, item) in list.as_sequence().unwrap_or_default().iter().enumerate() {
        if item.as_mapping().is_some() && item.get("target").is_none() {
            session.error(
                Problem::error(format!("`{}` lacks `target`", path.index(index))).at(item.span),
            );
        }
    }
}

fn build(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    wrap_text(node, "context");
    let Some(mapping) = node.as_mapping_mut() else {
        return;
    };
    for (key, entry) in mapping.iter_mut() {
        let value = &mut entry.value;
        match key {
            "secrets" => each(value, |item| wrap_text(item, "source")),
            "provenance" | "sbom" => {
                if let Some(text) = value.scalar_text() {
                    value.value = Value::String(text);
                }
            }
            "additional_contexts" => pairs(session, value, &path.key(key), |_| false),
            "ssh" => pairs(session, value, &path.key(key), |id| id == "default"),
            _ => {}
        }
    }
}

/// Turns a list of `KEY=VALUE` into a mapping; a bare key is an error unless `bare` allows it.
fn pairs(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>, bare: impl Fn(&str) -> bool) {
    let Some(items) = node.as_sequence() else {
        return;
    };
    let mut mapping = Mapping::new();
    for (index, item) in items.iter().enumerate() {
        let Some(text) = item.as_str() else { return };
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Node::string(value, item.span)),
            None if bare(text) => (text, Node::new(Value::Null, item.span)),
            None if !session.options.interpolate => return,
            None => {
                session.error(
                    Problem::error(format!("`{}`: `{text}` has no `=`", path.index(index)))
                        .at(item.span)
                        .expected("`NAME=VALUE`"),
                );
                continue;
            }
        };
        mapping.set(key, value);
    }
    *node = Node::mapping(mapping, node.span);
}

fn dependencies(node: &mut Node) {
    names_to_mapping(node, default_dependency);
    let Some(mapping) = node.as_mapping_mut() else {
        return;
    };
    for (_, entry) in mapping.iter_mut() {
        let span = entry.value.span;
        if let Some(dependency) = entry.value.as_mapping_mut() {
            dependency.set_default("condition", Node::string("service_started", span));
            dependency.set_default("required", Node::boolean(true, span));
        }
    }
}

fn env_file(node: &mut Node) {
    wrap_text(node, "path");
    let span = node.span;
    if let Some(mapping) = node.as_mapping_mut() {
        mapping.set_default("required", Node::boolean(true, span));
    }
}

fn gpus(node: &mut Node) {
    if node.as_str().is_none() {
        return;
    }
    let span = node.span;
    let mut all = Mapping::new();
    all.set("count", Node::string("all", span));
    *node = Node::sequence(vec![Node::mapping(all, span)], span);
}

fn device(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    let Some(text) = node.as_str() else { return };
    let span = node.span;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match *parts.as_slice() {
        [source] => (source, "", "rwm"),
        [source, target] => (source, target, "rwm"),
        [source, target, permissions] => (source, target, permissions),
        _ if !session.options.interpolate => return,
        _ => {
            session.error(
                Problem::error(format!("`{path}`: `{text}` has too many colons"))
                    .at(span)
                    .expected("`SOURCE[:TARGET[:PERMISSIONS]]`, or the long form"),
            );
            return;
        }
    };
    let target = if target.is_empty() { source } else { target };
    let mut mapping = Mapping::new();
    mapping.set("source", Node::string(source, span));
    mapping.set("target", Node::string(target, span));
    mapping.set("permissions", Node::string(permissions, span));
    *node = Node::mapping(mapping, span);
}

fn mount(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    let Some(text) = node.as_str() else { return };
    let span = node.span;
    match parse_mount(text) {
        Ok(short) => {
            for option in short.unknown_options {
                session.warn(
                    Problem::warning(format!("`{path}`: the option `{option}` means nothing"))
                        .at(session.sub_span(span, &option))
                        .expected("`ro`, `rw`, `nocopy`, `z`, `Z` or a kind of propagation"),
                );
            }
            *node = mount_node(&short.mount, span);
        }
        Err(error) => {
            let problem = Problem::error(format!("`{path}`: {error}")).at(span);
            session.error(match error {
                MountError::TooManyColons(_) => {
                    problem.hint("the long form takes paths with colons")
                }
                _ => problem.expected("`[SOURCE:]TARGET[:OPTIONS]`"),
            });
        }
    }
}

fn mount_node(mount: &Mount, span: Span) -> Node {
    let mut mapping = Mapping::new();
    let text = |text: &str| Node::string(text, span);
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        _ => "volume",
    };
    mapping.set("type", text(kind));
    if let Some(source) = &mount.source {
        mapping.set("source", text(source));
    }
    mapping.set("target", text(&super::paths::clean_text(&mount.target)));
    if mount.read_only {
        mapping.set("read_only", Node::boolean(true, span));
    }
    if let Some(bind) = &mount.bind {
        let mut options = Mapping::new();
        if let Some(selinux) = &bind.selinux {
            options.set("selinux", text(selinux));
        }
        if let Some(propagation) = &bind.propagation {
            options.set("propagation", text(propagation));
        }
        if let Some(create) = bind.create_host_path {
            options.set("create_host_path", Node::boolean(create, span));
        }
        mapping.set("bind", Node::mapping(options, span));
    }
    if let Some(volume) = &mount.volume {
        let mut options = Mapping::new();
        if volume.nocopy {
            options.set("nocopy", Node::boolean(true, span));
        }
        mapping.set("volume", Node::mapping(options, span));
    }
    Node::mapping(mapping, span)
}

fn ports(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    let Some(items) = node.as_sequence_mut() else {
        return;
    };
    let mut expanded = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        if item.as_mapping().is_some() {
            expanded.push(item.clone());
            continue;
        }
        let Some(text) = item.scalar_text() else {
            continue;
        };
        match parse_ports(&text) {
            Ok(ports) => {
                if session.spend_ports(ports.len(), item.span).is_err() {
                    return;
                }
                expanded.extend(ports.iter().map(|port| port_node(port, item)));
            }
            // One text with variables keeps the whole list as it is.
            Err(_) if !session.options.interpolate => return,
            Err(error) => session.error(port_problem(&error, &path.index(index), item)),
        }
    }
    *items = expanded;
}

fn port_problem(error: &PortError, path: &Path<'_>, item: &Node) -> Problem {
    let problem = Problem::error(format!("`{path}`: {error}")).at(item.span);
    match (&item.value, error) {
        // Without quotes YAML 1.1 reads `22:22` in base 60, and large numbers are its result.
        (Value::Int(value), _) if *value > 65_535 => {
            problem.hint("a port is at most 65535; if `HOST:CONTAINER` was meant, quote it")
        }
        (_, PortError::Address(address)) if address == "localhost" => {
            problem.hint("write `127.0.0.1`")
        }
        (_, PortError::Address(_)) => problem.expected("`[IP:]HOST:CONTAINER[/PROTOCOL]`"),
        (_, PortError::RangeLength { .. }) => problem,
        _ => problem
            .expected("`[[IP:]HOST:]CONTAINER[/PROTOCOL]`, each a port up to 65535 or a range"),
    }
}

fn port_node(port: &Port, item: &Node) -> Node {
    let span = item.span;
    let mut mapping = Mapping::new();
    if let Some(mode) = &port.mode {
        mapping.set("mode", Node::string(mode, span));
    }
    if let Some(host_ip) = &port.host_ip {
        mapping.set("host_ip", Node::string(host_ip, span));
    }
    mapping.set("target", Node::integer(i64::from(port.target), span));
    if let Some(published) = &port.published {
        mapping.set("published", Node::string(published, span));
    }
    mapping.set("protocol", Node::string(&port.protocol, span));
    let mut node = Node::mapping(mapping, span);
    node.overridden.clone_from(&item.overridden);
    node
}

/// `external: {name: x}` is an old way to write `external: true` and `name: x`.
fn external(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    let Some(mapping) = node.as_mapping_mut() else {
        return;
    };
    let Some(flag) = mapping.get("external") else {
        return;
    };
    if flag.as_mapping().is_none() {
        return;
    }
    let span = flag.span;
    let name = flag.get("name").cloned();
    mapping.set("external", Node::boolean(true, span));
    let Some(name) = name else { return };
    session.warn(
        Problem::warning(format!("`{path}`: `external.name` is deprecated"))
            .at(name.span)
            .hint("write `external: true` and `name:` beside it"),
    );
    match mapping.get("name") {
        Some(other) if *other != name => session.error(
            Problem::error(format!("`{path}` has two different names"))
                .at(name.span)
                .label(other.span, "the other name")
                .hint("keep only `name`"),
        ),
        Some(_) => {}
        None => mapping.set("name", name),
    }
}

fn text_to_list(node: &mut Node) {
    if node.as_str().is_some() {
        let span = node.span;
        let item = std::mem::take(node);
        *node = Node::sequence(vec![item], span);
    }
}

/// Puts a text into a mapping under `key`.
fn wrap_text(node: &mut Node, key: &str) {
    if node.as_str().is_none() {
        return;
    }
    let span = node.span;
    let value = std::mem::take(node);
    let overridden = value.overridden.clone();
    let mut mapping = Mapping::new();
    mapping.insert(key.to_owned(), Entry { key: span, value });
    *node = Node::mapping(mapping, span);
    node.overridden = overridden;
}

fn each(node: &mut Node, mut change: impl FnMut(&mut Node)) {
    each_indexed(node, |_, item| change(item));
}

fn each_indexed(node: &mut Node, mut change: impl FnMut(usize, &mut Node)) {
    if let Some(items) = node.as_sequence_mut() {
        for (index, item) in items.iter_mut().enumerate() {
            change(index, item);
        }
    }
}
