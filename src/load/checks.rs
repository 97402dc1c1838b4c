//! What one part of a project says of another.

use std::collections::HashMap;

use super::cycles;
use super::diagnostic::Problem;
use super::select::{Model, missing_dependency};
use super::session::Session;
use crate::yaml::{Mapping, Node, Span, Value};

/// Errors after which no more services are checked.
const MAX_ERRORS: usize = 1_000;

/// Checks every enabled service against the rest of the project.
pub(super) fn check(session: &mut Session<'_>, model: &Model) {
    let mut container_names: HashMap<&str, (&str, Span)> = HashMap::new();
    for (name, service) in model.services() {
        // Nobody reads that many, and proposing names for each takes time.
        if session.errors.len() > MAX_ERRORS {
            break;
        }
        let checker = Checker {
            model,
            name,
            service,
        };
        checker.image(session);
        checker.build(session);
        checker.networks(session);
        checker.healthcheck(session);
        checker.dependencies(session);
        checker.references(session);
        checker.scale(session);
        checker.limits(session);
        checker.watch(session);
        checker.mounts(session);
        if let Some(node) = service.get("container_name")
            && let Some(container) = node.as_str()
            && let Some((other, span)) = container_names.insert(container, (name, node.span))
        {
            session.error(
                Problem::error(format!(
                    "services `{other}` and `{name}` both name their container `{container}`"
                ))
                .at(node.span)
                .label(span, format!("`{other}` does here")),
            );
        }
    }
    for (name, entry) in model.root.entries("secrets") {
        let secret = &entry.value;
        let has = |key: &str| {
            secret
                .get(key)
                .is_some_and(|source| source.as_str() != Some(""))
        };
        let is_external = secret.get("external").and_then(Node::as_bool) == Some(true);
        let is_known = is_external || has("file") || has("environment");
        if !is_known && !session.is_broken("secrets", name) {
            session.error(
                Problem::error(format!("`secrets.{name}` does not say where it comes from"))
                    .at(entry.key)
                    .expected("`file` or `environment`; drivers are not supported"),
            );
        }
    }
    cycles::check(session, model);
}

struct Checker<'m> {
    model: &'m Model,
    name: &'m str,
    service: &'m Node,
}

impl<'m> Checker<'m> {
    fn other(&self, name: &str) -> Option<&'m Node> {
        self.model.root.get("services")?.get(name)
    }

    fn key_span(&self) -> Span {
        self.model
            .root
            .get("services")
            .and_then(Node::as_mapping)
            .and_then(|services| services.entry(self.name))
            .map_or(self.service.span, |entry| entry.key)
    }

    fn image(&self, session: &mut Session<'_>) {
        let has = |key: &str| {
            self.service
                .get(key)
                .is_some_and(|node| !node.is_null() && node.as_str() != Some(""))
        };
        let is_known = has("image") || has("build") || has("provider");
        if !is_known && !session.is_broken("services", self.name) {
            session.error(
                Problem::error(format!(
                    "service `{}` has neither an image nor a build",
                    self.name
                ))
                .at(self.key_span())
                .expected("`image` or `build`"),
            );
        }
    }

    fn build(&self, session: &mut Session<'_>) {
        let Some(build) = self.service.get("build") else {
            return;
        };
        let name = self.name;
        if let (Some(file), Some(inline)) =
            (build.get("dockerfile"), build.get("dockerfile_inline"))
            && file.as_str() != Some("")
            && inline.as_str() != Some("")
        {
            session.error(
                Problem::error(format!(
                    "`services.{name}.build` has both `dockerfile` and `dockerfile_inline`"
                ))
                .at(inline.span)
                .label(file.span, "the other one"),
            );
        }
        for (key, entry) in build.entries("additional_contexts") {
            let Some(target) = entry
                .value
                .as_str()
                .and_then(|text| text.strip_prefix("service:"))
            else {
                continue;
            };
            match self.other(target) {
                None if session.may_be_defined("services", target) => {}
                None => session.error(
                    Problem::error(format!(
                        "service `{name}` takes `{target}` as the context `{key}`, which is not defined"
                    ))
                    .at(entry.value.span)
                    .suggest(target, self.model.services().map(|(name, _)| name)),
                ),
                Some(other)
                    if other.get("build").is_none() && !session.is_broken("services", target) =>
                {
                    session.error(
                    Problem::error(format!(
                        "service `{name}` takes `{target}` as the context `{key}`, which is not built"
                    ))
                    .at(entry.value.span)
                    .label(other.span, "no `build` here"),
                );
                }
                Some(_) => {}
            }
        }
        let platforms = build.items("platforms");
        if let Some(platform) = self.service.get("platform")
            && platform.as_str() != Some("")
            && !platforms.is_empty()
            && !platforms.contains(platform)
        {
            session.error(
                Problem::error(format!(
                    "`services.{name}.build.platforms` lacks `{}`, the platform of the service",
                    platform.as_str().unwrap_or_default()
                ))
                .at(platforms[0].span)
                .label(platform.span, "the platform of the service"),
            );
        }
        self.defined(session, build.items("secrets"), "secrets", "build secret");
    }

    fn networks(&self, session: &mut Session<'_>) {
        let mode = self
            .service
            .get("network_mode")
            .filter(|mode| mode.as_str() != Some(""));
        let networks = self.service.get("networks");
        if let (Some(mode), Some(networks)) = (mode, networks)
            && networks
                .as_mapping()
                .is_some_and(|networks| !networks.is_empty())
        {
            session.error(
                Problem::error(format!(
                    "service `{}` has both `network_mode` and `networks`",
                    self.name
                ))
                .at(mode.span)
                .label(networks.span, "the other one"),
            );
        }
        for (network, entry) in self.service.entries("networks") {
            self.is_defined(session, "networks", "network", network, entry.key);
        }
        if let Some(mode) = mode
            && let Some(target) = mode.as_str().and_then(|text| text.strip_prefix("service:"))
            && self.other(target).is_none()
            && !self.model.disabled.contains(target)
            && !session.may_be_defined("services", target)
        {
            session.error(
                Problem::error(format!(
                    "service `{}` uses the network of `{target}`, which is not defined",
                    self.name
                ))
                .at(mode.span)
                .suggest(target, self.model.services().map(|(name, _)| name)),
            );
        }
    }

    fn healthcheck(&self, session: &mut Session<'_>) {
        let Some(healthcheck) = self.service.get("healthcheck") else {
            return;
        };
        if let Some(first) = healthcheck.items("test").first()
            && !matches!(first.as_str(), Some("CMD" | "CMD-SHELL" | "NONE"))
        {
            session.error(
                Problem::error(format!(
                    "`services.{}.healthcheck.test` starts with `{}`",
                    self.name,
                    first.as_str().unwrap_or_default()
                ))
                .at(first.span)
                .expected("`CMD`, `CMD-SHELL` or `NONE` as the first item, or a text"),
            );
        }
    }

    fn dependencies(&self, session: &mut Session<'_>) {
        for (dependency, entry) in self.service.entries("depends_on") {
            if self.other(dependency).is_some() {
                continue;
            }
            let is_disabled = self.model.disabled.contains(dependency);
            let is_required = entry.value.get("required").and_then(Node::as_bool) != Some(false);
            if is_disabled && !is_required {
                continue;
            }
            // A namespace that is not there is reported where it is shared.
            if self.service.text("network_mode") == Some(format!("service:{dependency}").as_str())
                && !is_disabled
            {
                continue;
            }
            if !is_disabled && session.may_be_defined("services", dependency) {
                continue;
            }
            let problem =
                missing_dependency(self.name, dependency, entry.key, &self.model.disabled);
            session.error(if is_disabled {
                problem
            } else {
                problem.suggest(dependency, self.model.services().map(|(name, _)| name))
            });
        }
    }

    fn references(&self, session: &mut Session<'_>) {
        for volume in self.service.items("volumes") {
            if volume.text("type") == Some("volume")
                && let Some(source) = volume.get("source")
                && let Some(name) = source.as_str().filter(|name| !name.is_empty())
            {
                let looks_like_path = name.contains('/');
                let is_known =
                    self.is_known("volumes", name) || session.may_be_defined("volumes", name);
                if !is_known && looks_like_path {
                    session.error(
                        Problem::error(format!(
                            "service `{}` uses the volume `{name}`, which is not defined",
                            self.name
                        ))
                        .at(source.span)
                        .hint(format!("for a path on the host write `./{name}`")),
                    );
                } else {
                    self.is_defined(session, "volumes", "volume", name, source.span);
                }
            }
        }
        self.defined(session, self.service.items("configs"), "configs", "config");
        self.defined(session, self.service.items("secrets"), "secrets", "secret");
        for (model, entry) in self.service.entries("models") {
            self.is_defined(session, "models", "model", model, entry.key);
        }
    }

    fn defined(
        &self,
        session: &mut Session<'_>,
        references: &[Node],
        section: &'static str,
        what: &str,
    ) {
        for reference in references {
            match reference.get("source") {
                Some(source) => {
                    let name = source.as_str().unwrap_or_default();
                    self.is_defined(session, section, what, name, source.span);
                }
                None if session.is_broken("services", self.name) => {}
                None => session.error(
                    Problem::error(format!(
                        "service `{}` does not say which {what} it uses",
                        self.name
                    ))
                    .at(reference.span)
                    .expected("`source`"),
                ),
            }
        }
    }

    fn is_known(&self, section: &str, name: &str) -> bool {
        self.model
            .root
            .get(section)
            .is_some_and(|section| section.get(name).is_some())
    }

    fn is_defined(
        &self,
        session: &mut Session<'_>,
        section: &'static str,
        what: &str,
        name: &str,
        span: Span,
    ) {
        if self.is_known(section, name) || session.may_be_defined(section, name) {
            return;
        }
        let names: Vec<&str> = self
            .model
            .root
            .get(section)
            .and_then(Node::as_mapping)
            .into_iter()
            .flat_map(Mapping::keys)
            .collect();
        let problem = Problem::error(format!(
            "service `{}` uses the {what} `{name}`, which is not defined",
            self.name
        ))
        .at(span);
        let close = super::diagnostic::closest(name, names.iter().copied());
        session.error(match close {
            Some(close) => problem.hint(format!("did you mean `{close}`?")),
            None => problem.hint(format!("define it in the section `{section}:`")),
        });
    }

    fn scale(&self, session: &mut Session<'_>) {
        let name = self.name;
        let scale = self.service.get("scale");
        let replicas = self
            .service
            .get("deploy")
            .and_then(|deploy| deploy.get("replicas"));
        if let (Some(scale), Some(replicas)) = (scale, replicas)
            && scale != replicas
        {
            session.error(
                Problem::error(format!(
                    "`services.{name}`: `scale` and `deploy.replicas` differ"
                ))
                .at(scale.span)
                .label(replicas.span, "the other one"),
            );
        }
        for (path, node) in [("scale", scale), ("deploy.replicas", replicas)] {
            let Some(node) = node else { continue };
            let Some(count) = node.as_int() else { continue };
            if count < 0 {
                session.error(
                    Problem::error(format!(
                        "`services.{name}.{path}` must be zero or more, not {count}"
                    ))
                    .at(node.span),
                );
            }
        }
        let count = scale.or(replicas);
        if let Some(count) = count
            && count.as_int().is_some_and(|count| count > 1)
            && let Some(container) = self.service.get("container_name")
        {
            session.error(
                Problem::error(format!(
                    "service `{name}` has a fixed `container_name`, so it cannot have several replicas"
                ))
                .at(container.span)
                .label(count.span, "more than one")
                .hint("remove `container_name`"),
            );
        }
    }

    fn limits(&self, session: &mut Session<'_>) {
        let resources = self
            .service
            .get("deploy")
            .and_then(|deploy| deploy.get("resources"));
        let Some(resources) = resources else { return };
        for (own, section, key) in [
            ("cpus", "limits", "cpus"),
            ("mem_limit", "limits", "memory"),
            ("mem_reservation", "reservations", "memory"),
            ("pids_limit", "limits", "pids"),
        ] {
            let Some(value) = self.service.get(own).filter(|value| !is_zero(value)) else {
                continue;
            };
            let Some(section_node) = resources.get(section) else {
                continue;
            };
            let other = section_node.get(key);
            if other == Some(value) {
                continue;
            }
            let place = other.map_or(section_node.span, |other| other.span);
            session.error(
                Problem::error(format!(
                    "`services.{}`: `{own}` and `deploy.resources.{section}.{key}` differ",
                    self.name
                ))
                .at(value.span)
                .label(
                    place,
                    if other.is_some() {
                        "the other one"
                    } else {
                        "no such limit here"
                    },
                ),
            );
        }
    }

    fn watch(&self, session: &mut Session<'_>) {
        let Some(develop) = self.service.get("develop") else {
            return;
        };
        for (index, rule) in develop.items("watch").iter().enumerate() {
            let action = rule.text("action").unwrap_or_default();
            let has_target = rule.text("target").is_some_and(|target| !target.is_empty());
            // What is no action at all is told of elsewhere.
            if !has_target && matches!(action, "sync" | "sync+restart" | "sync+exec") {
                session.error(
                    Problem::error(format!(
                        "`services.{}.develop.watch[{index}]` needs `target` for `{action}`",
                        self.name
                    ))
                    .at(rule.get("action").map_or(rule.span, |action| action.span)),
                );
            }
        }
    }

    fn mounts(&self, session: &mut Session<'_>) {
        let mut targets: HashMap<&str, Span> = HashMap::new();
        let tmpfs = self
            .service
            .items("tmpfs")
            .iter()
            .filter_map(|item| Some((item.as_str()?.split(':').next()?, item.span)));
        let volumes = self
            .service
            .items("volumes")
            .iter()
            .filter_map(|volume| Some((volume.text("target")?, volume.span)));
        for (target, span) in tmpfs.chain(volumes) {
            if let Some(first) = targets.insert(target, span) {
                session.error(
                    Problem::error(format!("service `{}` mounts `{target}` twice", self.name))
                        .at(span)
                        .label(first, "first here"),
                );
            }
        }
    }
}

fn is_zero(node: &Node) -> bool {
    match node.value {
        Value::Int(value) => value == 0,
        Value::Float(value) => value == 0.0,
        _ => false,
    }
}
