//! What a file leaves to convention.

use std::collections::HashSet;

use super::dotenv::Variables;
use super::paths::clean_text;
use crate::yaml::{Mapping, Node, Span, Value};

/// Fills in the default network, names, and the dependencies that other attributes imply.
pub(super) fn normalize(root: &mut Node, name: &str, environment: &Variables) {
    if let Some(mapping) = root.as_mapping_mut() {
        let span = mapping.get("name").map_or(Span::NONE, |name| name.span);
        mapping.set("name", Node::string(name, span));
    }
    networks(root);
    if let Some(services) = root.get_mut("services").and_then(Node::as_mapping_mut) {
        for (_, entry) in services.iter_mut() {
            if let Some(service) = entry.value.as_mapping_mut() {
                normalize_service(service, environment);
            }
        }
    }
    for section in ["networks", "volumes", "configs", "secrets"] {
        let Some(resources) = root.get_mut(section).and_then(Node::as_mapping_mut) else {
            continue;
        };
        for (key, entry) in resources.iter_mut() {
            if entry.value.is_null() {
                entry.value = Node::mapping(Mapping::new(), entry.value.span);
            }
            let span = entry.key;
            let Some(resource) = entry.value.as_mapping_mut() else {
                continue;
            };
            if resource.get("name").is_none_or(Node::is_null) {
                let is_external = resource
                    .get("external")
                    .is_some_and(|flag| flag.value == Value::Bool(true));
                let name = if is_external {
                    key.to_owned()
                } else {
                    format!("{name}_{key}")
                };
                resource.set("name", Node::string(name, span));
            }
        }
    }
}

/// Services that say nothing of networks join `default`.
fn networks(root: &mut Node) {
    let mut uses_default = false;
    if let Some(services) = root.get_mut("services").and_then(Node::as_mapping_mut) {
        for (_, entry) in services.iter_mut() {
            let span = entry.value.span;
            let Some(service) = entry.value.as_mapping_mut() else {
                continue;
            };
            if service.contains("provider") || service.contains("network_mode") {
                continue;
            }
            let joined = service.get("networks").and_then(Node::as_mapping);
            match joined {
                Some(joined) if !joined.is_empty() => uses_default |= joined.contains("default"),
                _ => {
                    let mut joined = Mapping::new();
                    joined.set("default", Node::new(Value::Null, span));
                    service.set("networks", Node::mapping(joined, span));
                    uses_default = true;
                }
            }
        }
    }
    if !uses_default {
        return;
    }
    if let Some(mapping) = root.as_mapping_mut() {
        let networks =
            mapping.get_or_insert("networks", || Node::mapping(Mapping::new(), Span::NONE));
        if let Some(networks) = networks.as_mapping_mut() {
            networks.set_default("default", Node::new(Value::Null, Span::NONE));
        }
    }
}

fn normalize_service(service: &mut Mapping, environment: &Variables) {
    if let Some(policy) = service.get_mut("pull_policy")
        && policy.as_str() == Some("if_not_present")
    {
        policy.value = Value::String("missing".to_owned());
    }
    if let Some(build) = service.get_mut("build") {
        let span = build.span;
        if let Some(build) = build.as_mapping_mut() {
            if build.get("context").is_none_or(Node::is_null) {
                build.set("context", Node::string(".", span));
            }
            if !build.contains("dockerfile") && !build.contains("dockerfile_inline") {
                build.set("dockerfile", Node::string("Dockerfile", span));
            }
            if let Some(args) = build.get_mut("args") {
                resolve_bare(args, environment, false);
            }
        }
    }
    if let Some(variables) = service.get_mut("environment") {
        resolve_bare(variables, environment, true);
    }
    imply_dependencies(service);
    let volumes = service.get_mut("volumes").and_then(Node::as_sequence_mut);
    for volume in volumes.into_iter().flatten() {
        if let Some(Value::String(target)) = volume.get_mut("target").map(|node| &mut node.value) {
            *target = clean_text(target);
        }
    }
    inherit_hook_image(service);
}

/// Gives variables without a value that of the environment; others are dropped unless `keep`.
fn resolve_bare(node: &mut Node, environment: &Variables, keep: bool) {
    match &mut node.value {
        Value::Mapping(mapping) => {
            for (key, entry) in mapping.iter_mut() {
                if entry.value.is_null()
                    && let Some(value) = environment.get(key)
                {
                    entry.value.value = Value::String(value.clone());
                }
            }
            if !keep {
                mapping.retain(|_, entry| !entry.value.is_null());
            }
        }
        Value::Sequence(items) => items.retain_mut(|item| {
            let Value::String(text) = &mut item.value else {
                return true;
            };
            if text.contains('=') {
                return true;
            }
            match environment.get(text.as_str()) {
                Some(value) => {
                    *text = format!("{text}={value}");
                    true
                }
                None => keep,
            }
        }),
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Unsigned(_)
        | Value::Float(_)
        | Value::String(_) => {}
    }
}

/// Links, shared namespaces and borrowed volumes are dependencies.
fn imply_dependencies(service: &mut Mapping) {
    let mut implied: Vec<(String, bool, Span)> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut imply = |name: &str, restart: bool, span: Span| {
        if seen.insert(name.to_owned()) {
            implied.push((name.to_owned(), restart, span));
        }
    };
    let texts = |service: &Mapping, key: &str| -> Vec<(String, Span)> {
        service
            .get(key)
            .and_then(Node::as_sequence)
            .unwrap_or_default()
            .iter()
            .filter_map(|item| Some((item.as_str()?.to_owned(), item.span)))
            .collect()
    };
    for (link, span) in texts(service, "links") {
        let mut parts = link.split(':');
        let name = parts.next().unwrap_or_default();
        // A link with more than two parts is no link to a service that could exist.
        let name = if link.matches(':').count() == 1 {
            name
        } else {
            &link
        };
        imply(name, true, span);
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = service.get(key)
            && let Some(name) = node.as_str().and_then(|text| text.strip_prefix("service:"))
        {
            imply(name, true, node.span);
        }
    }
    for (source, span) in texts(service, "volumes_from") {
        if !source.starts_with("container:") {
            imply(source.split(':').next().unwrap_or_default(), false, span);
        }
    }
    if implied.is_empty() {
        return;
    }
    let depends_on =
        service.get_or_insert("depends_on", || Node::mapping(Mapping::new(), Span::NONE));
    let Some(depends_on) = depends_on.as_mapping_mut() else {
        return;
    };
    for (name, restart, span) in implied {
        let mut dependency = Mapping::new();
        dependency.set("condition", Node::string("service_started", span));
        dependency.set("restart", Node::boolean(restart, span));
        dependency.set("required", Node::boolean(true, span));
        depends_on.set_default(&name, Node::mapping(dependency, span));
    }
}

/// Hooks that run before the start use the image of the service unless they name one.
fn inherit_hook_image(service: &mut Mapping) {
    let Some(image) = service
        .get("image")
        .filter(|image| image.as_str() != Some(""))
    else {
        return;
    };
    let image = image.clone();
    let hooks = service.get_mut("pre_start").and_then(Node::as_sequence_mut);
    for hook in hooks.into_iter().flatten() {
        if let Some(hook) = hook.as_mapping_mut() {
            hook.set_default("image", image.clone());
        }
    }
}
