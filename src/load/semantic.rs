//! Defaults of attributes, and what the table cannot say of a single resource.

use std::net::IpAddr;

use super::diagnostic::Problem;
use super::path::Path;
use super::session::Session;
use crate::model::{OnChange, parse_signal};
use crate::yaml::{Mapping, Node, Value};

/// Fills in the defaults of attributes.
pub(super) fn defaults(root: &mut Node) {
    let Some(services) = root.get_mut("services").and_then(Node::as_mapping_mut) else {
        return;
    };
    for (_, entry) in services.iter_mut() {
        let service = &mut entry.value;
        let span = service.span;
        if let Some(build) = service.get_mut("build").and_then(Node::as_mapping_mut) {
            build.set_default("context", Node::string(".", span));
        }
        each_mapping(service.get_mut("secrets"), |secret| {
            if let Some(source) = secret.get("source").and_then(Node::as_str) {
                let target = format!("/run/secrets/{source}");
                secret.set_default("target", Node::string(target, span));
            }
        });
        each_mapping(service.get_mut("ports"), |port| {
            port.set_default("protocol", Node::string("tcp", span));
            port.set_default("mode", Node::string("ingress", span));
        });
        each_mapping(service.get_mut("volumes"), |volume| {
            if let Some(bind) = volume.get_mut("bind").and_then(Node::as_mapping_mut) {
                bind.set_default("create_host_path", Node::boolean(true, span));
            }
        });
        let all = |request: &mut Mapping| {
            if !request.contains("count") && !request.contains("device_ids") {
                request.set("count", Node::string("all", span));
            }
        };
        each_mapping(service.get_mut("gpus"), all);
        let reserved = service
            .get_mut("deploy")
            .and_then(|deploy| deploy.get_mut("resources"))
            .and_then(|resources| resources.get_mut("reservations"))
            .and_then(|reservations| reservations.get_mut("devices"));
        each_mapping(reserved, all);
    }
}

fn each_mapping(list: Option<&mut Node>, mut change: impl FnMut(&mut Mapping)) {
    for item in list.and_then(Node::as_sequence_mut).into_iter().flatten() {
        if let Some(mapping) = item.as_mapping_mut() {
            change(mapping);
        }
    }
}

/// Checks resources one by one.
pub(super) fn check(session: &mut Session<'_>, root: &Node) {
    for (name, entry) in root.entries("services") {
        service(session, &entry.value, &Path::ROOT.key("services").key(name));
    }
    for (name, entry) in root.entries("volumes") {
        external_alone(session, &entry.value, &Path::ROOT.key("volumes").key(name));
    }
    for (section, sources) in [
        ("configs", ["file", "environment", "content"].as_slice()),
        ("secrets", ["file", "environment"].as_slice()),
    ] {
        for (name, entry) in root.entries(section) {
            let path = Path::ROOT.key(section);
            let path = path.key(name);
            one_source(session, &entry.value, sources, &path);
            on_change(session, &entry.value, &path);
        }
    }
}

/// `x-on-change`, of which other tools know nothing.
fn on_change(session: &mut Session<'_>, node: &Node, path: &Path<'_>) {
    let Some(value) = node.get("x-on-change") else {
        return;
    };
    let reaction = value.as_str().and_then(|text| text.parse().ok());
    let is_known = match &reaction {
        Some(OnChange::Signal(signal)) => parse_signal(signal).is_some(),
        Some(_) => true,
        None => false,
    };
    if !is_known {
        session.error(
            Problem::error(format!(
                "`{path}.x-on-change` is not a way to tell a container"
            ))
            .at(value.span)
            .expected("`recreate`, `restart` or a signal such as `signal:SIGHUP`"),
        );
    }
}

fn service(session: &mut Session<'_>, node: &Node, path: &Path<'_>) {
    let list = path.key("ports");
    for (index, port) in node.items("ports").iter().enumerate() {
        let Some(address) = port.get("host_ip") else {
            continue;
        };
        let text = address.as_str().unwrap_or_default();
        let has_variable = !session.options.interpolate && text.contains('$');
        if text.parse::<IpAddr>().is_err() && !has_variable {
            let path = list.index(index);
            let problem =
                Problem::error(format!("`{path}.host_ip`: `{text}` is not an IP address"))
                    .at(address.span);
            session.error(if text == "localhost" {
                problem.hint("write `127.0.0.1`")
            } else {
                problem
            });
        }
    }
    if let Some(develop) = node.get("develop") {
        let list = path.key("develop");
        let list = list.key("watch");
        for (index, rule) in develop.items("watch").iter().enumerate() {
            if let Some(watched) = rule.get("path")
                && watched.as_str() == Some("")
            {
                let path = list.index(index);
                session.error(
                    Problem::error(format!("`{path}.path` must not be empty")).at(watched.span),
                );
            }
        }
    }
    let gpus = path.key("gpus");
    for (index, request) in node.items("gpus").iter().enumerate() {
        device_request(session, request, &gpus.index(index));
    }
    let reservations = node
        .get("deploy")
        .and_then(|deploy| deploy.get("resources")?.get("reservations"));
    if let Some(reservations) = reservations {
        let list = path.key("deploy.resources.reservations.devices");
        for (index, request) in reservations.items("devices").iter().enumerate() {
            device_request(session, request, &list.index(index));
        }
    }
}

fn device_request(session: &mut Session<'_>, request: &Node, path: &Path<'_>) {
    if let (Some(count), Some(ids)) = (request.get("count"), request.get("device_ids")) {
        session.error(
            Problem::error(format!(
                "`{path}`: `count` and `device_ids` exclude each other"
            ))
            .at(count.span)
            .label(ids.span, "the other one"),
        );
    }
}

/// An external volume is only named.
fn external_alone(session: &mut Session<'_>, node: &Node, path: &Path<'_>) {
    let Some(mapping) = node.as_mapping() else {
        return;
    };
    let Some(flag) = mapping.get("external") else {
        return;
    };
    if flag.value != Value::Bool(true) {
        return;
    }
    for (key, entry) in mapping.iter() {
        if !matches!(key, "name" | "external") && !key.starts_with("x-") {
            session.error(
                Problem::error(format!("`{path}` is external, so it cannot have `{key}`"))
                    .at(entry.key)
                    .label(flag.span, "external here"),
            );
        }
    }
}

/// A config or secret comes from exactly one place.
fn one_source(session: &mut Session<'_>, node: &Node, sources: &[&str], path: &Path<'_>) {
    let Some(mapping) = node.as_mapping() else {
        return;
    };
    let given: Vec<&Node> = sources
        .iter()
        .filter_map(|source| mapping.get(source))
        .collect();
    let names: Vec<String> = sources.iter().map(|source| format!("`{source}`")).collect();
    match given.as_slice() {
        [] => {
            if !mapping.contains("driver") && !mapping.contains("external") {
                session.error(
                    Problem::error(format!("`{path}` does not say where it comes from"))
                        .at(node.span)
                        .expected(format!("one of {}, or `external: true`", names.join(", "))),
                );
            }
        }
        [_] => {}
        [first, rest @ ..] => {
            let mut problem = Problem::error(format!("`{path}` comes from more than one place"))
                .at(rest[0].span)
                .expected(format!("only one of {}", names.join(", ")));
            problem = problem.label(first.span, "the first");
            session.error(problem);
        }
    }
}
