//! Profiles, the services asked for, what they need, and the files of variables they name.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::diagnostic::{Problem, closest};
use super::dotenv::Variables;
use super::environment;
use super::session::{Outcome, Session};
use crate::yaml::{Mapping, Node, Span, Value};

/// A canonical tree with the services that no active profile enables set apart.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) root: Node,
    pub(super) disabled: Mapping,
    pub(super) profiles: Vec<String>,
}

impl Model {
    pub(super) fn new(root: Node, profiles: Vec<String>) -> Self {
        let mut model = Self {
            root,
            disabled: Mapping::new(),
            profiles,
        };
        model.apply_profiles();
        model
    }

    pub(super) fn services(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.root
            .entries("services")
            .map(|(name, entry)| (name, &entry.value))
    }

    fn take_services(&mut self) -> Mapping {
        let services = self
            .root
            .get_mut("services")
            .map(|node| std::mem::take(&mut node.value));
        match services {
            Some(Value::Mapping(services)) => services,
            _ => Mapping::new(),
        }
    }

    fn put_services(&mut self, services: Mapping) {
        if let Some(root) = self.root.as_mapping_mut() {
            let span = root.get("services").map_or(Span::NONE, |node| node.span);
            root.set("services", Node::mapping(services, span));
        }
    }

    /// Sorts services into enabled and disabled ones by the active profiles.
    fn apply_profiles(&mut self) {
        let enabled = self.take_services();
        let disabled = std::mem::take(&mut self.disabled);
        let mut services = Mapping::new();
        for (name, entry) in enabled.into_iter().chain(disabled) {
            let own = entry.value.items("profiles");
            let is_active = own.is_empty()
                || self.profiles.iter().any(|active| {
                    active == "*" || own.iter().any(|profile| profile.as_str() == Some(active))
                });
            let target = if is_active {
                &mut services
            } else {
                &mut self.disabled
            };
            target.insert(name, entry);
        }
        self.put_services(services);
    }

    /// Warns of active profiles that no service has but that look like one that some service has.
    pub(super) fn check_profiles(&self, session: &mut Session<'_>) {
        let disabled = self.disabled.iter().map(|(_, entry)| &entry.value);
        let known: HashSet<&str> = self
            .services()
            .map(|(_, service)| service)
            .chain(disabled)
            .flat_map(|service| service.items("profiles"))
            .filter_map(Node::as_str)
            .collect();
        for profile in &self.profiles {
            let is_known = profile.is_empty() || profile == "*" || known.contains(profile.as_str());
            if !is_known && let Some(close) = closest(profile, known.iter().copied()) {
                session.warn(
                    Problem::warning(format!("no service has the profile `{profile}`"))
                        .hint(format!("did you mean `{close}`?")),
                );
            }
        }
    }

    /// Activates the profiles of services that are asked for by name.
    pub(super) fn enable(&mut self, names: &[String]) {
        let before = self.profiles.len();
        for name in names {
            if let Some(service) = self.disabled.get(name) {
                let profiles = service.items("profiles").iter();
                self.profiles
                    .extend(profiles.filter_map(|profile| profile.as_str().map(str::to_owned)));
            }
        }
        if self.profiles.len() > before {
            self.apply_profiles();
        }
    }

    /// Keeps the services that match `names` and, if asked for, what they depend on.
    pub(super) fn select(
        &mut self,
        session: &mut Session<'_>,
        names: &[String],
        with_dependencies: bool,
    ) -> Outcome<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut wanted: HashSet<String> = HashSet::new();
        let mut queue: Vec<String> = Vec::new();
        for pattern in names {
            let found: Vec<&str> = self
                .services()
                .map(|(name, _)| name)
                .filter(|name| matches(pattern, name))
                .collect();
            if found.is_empty() {
                let all = self.services().map(|(name, _)| name);
                let problem = Problem::error(format!("no such service: {pattern}"))
                    .suggest(pattern, all.chain(self.disabled.keys()));
                session.error(problem);
            }
            queue.extend(found.into_iter().map(str::to_owned));
        }
        session.checkpoint()?;
        let empty = Node::default();
        while let Some(name) = queue.pop() {
            if !wanted.insert(name.clone()) || !with_dependencies {
                continue;
            }
            let service = self
                .root
                .get("services")
                .and_then(|services| services.get(&name))
                .unwrap_or(&empty);
            for (dependency, entry) in service.entries("depends_on") {
                let is_enabled = self
                    .root
                    .get("services")
                    .is_some_and(|services| services.get(dependency).is_some());
                let is_required =
                    entry.value.get("required").and_then(Node::as_bool) != Some(false);
                if is_enabled {
                    queue.push(dependency.to_owned());
                } else if is_required {
                    session.error(missing_dependency(
                        &name,
                        dependency,
                        entry.key,
                        &self.disabled,
                    ));
                }
            }
        }
        session.checkpoint()?;
        let mut kept = Mapping::new();
        for (name, mut entry) in self.take_services() {
            if wanted.contains(&name) {
                if let Some(dependencies) = entry
                    .value
                    .get_mut("depends_on")
                    .and_then(Node::as_mapping_mut)
                {
                    dependencies.retain(|dependency, _| wanted.contains(dependency));
                }
                kept.insert(name, entry);
            } else {
                self.disabled.insert(name, entry);
            }
        }
        self.put_services(kept);
        Ok(())
    }

    /// Drops resources that no enabled service uses.
    pub(super) fn prune(&mut self) {
        let mut used: HashMap<&str, HashSet<String>> = HashMap::new();
        for (_, service) in self.services() {
            let mut mark = |section: &'static str, name: Option<&str>| {
                if let Some(name) = name {
                    used.entry(section).or_default().insert(name.to_owned());
                }
            };
            for (name, _) in service.entries("networks") {
                mark("networks", Some(name));
            }
            for (name, _) in service.entries("models") {
                mark("models", Some(name));
            }
            for volume in service.items("volumes") {
                if volume.text("type") == Some("volume") {
                    mark("volumes", volume.text("source"));
                }
            }
            for section in ["configs", "secrets"] {
                for reference in service.items(section) {
                    mark(section, reference.text("source"));
                }
            }
            if let Some(build) = service.get("build") {
                for secret in build.items("secrets") {
                    mark("secrets", secret.text("source"));
                }
            }
        }
        let nothing = HashSet::new();
        for section in ["networks", "volumes", "configs", "secrets", "models"] {
            let used = used.get(section).unwrap_or(&nothing);
            let resources = self.root.get_mut(section).and_then(Node::as_mapping_mut);
            if let Some(resources) = resources {
                resources.retain(|name, _| used.contains(name));
            }
        }
    }

    /// Reads `env_file` and `label_file` of enabled services into `environment` and `labels`.
    pub(super) fn read_files(
        &mut self,
        session: &mut Session<'_>,
        project: &Variables,
        with_environment: bool,
    ) -> Outcome<()> {
        let services = self.root.get_mut("services").and_then(Node::as_mapping_mut);
        for (name, entry) in services.into_iter().flat_map(Mapping::iter_mut) {
            // Each service is tried, so that all missing files are found.
            if with_environment {
                let _: Result<(), _> = read_env_files(session, name, &mut entry.value, project);
            }
            let _: Result<(), _> = read_label_files(session, &mut entry.value);
        }
        session.checkpoint()
    }
}

/// The error for a dependency that is not there.
pub(super) fn missing_dependency(
    service: &str,
    dependency: &str,
    span: Span,
    disabled: &Mapping,
) -> Problem {
    let Some(node) = disabled.get(dependency) else {
        return Problem::error(format!(
            "service `{service}` depends on `{dependency}`, which is not defined"
        ))
        .at(span);
    };
    let profiles: Vec<&str> = node
        .items("profiles")
        .iter()
        .filter_map(Node::as_str)
        .collect();
    let problem = Problem::error(format!(
        "service `{service}` depends on `{dependency}`, which no active profile enables"
    ))
    .at(span);
    match profiles.first() {
        Some(first) => problem
            .label(node.items("profiles")[0].span, "its profiles")
            .hint(format!(
                "activate it with `--profile {first}`, or set `required: false`"
            )),
        None => problem,
    }
}

fn read_env_files(
    session: &mut Session<'_>,
    name: &str,
    service: &mut Node,
    project: &Variables,
) -> Outcome<()> {
    let Some(mapping) = service.as_mapping_mut() else {
        return Ok(());
    };
    if let Some(own) = mapping
        .get_mut("environment")
        .and_then(Node::as_mapping_mut)
    {
        for (key, entry) in own.iter_mut() {
            if entry.value.is_null()
                && let Some(value) = project.get(key)
            {
                entry.value.value = Value::String(value.clone());
            }
        }
    }
    let files: Vec<Node> = mapping
        .get("env_file")
        .and_then(Node::as_sequence)
        .unwrap_or_default()
        .to_vec();
    if files.is_empty() {
        return Ok(());
    }
    let own: Variables = mapping
        .get("environment")
        .and_then(Node::as_mapping)
        .into_iter()
        .flat_map(Mapping::iter)
        .filter_map(|(key, entry)| Some((key.to_owned(), entry.value.as_str()?.to_owned())))
        .collect();
    let lookup = |name: &str| {
        let value = project.get(name).or_else(|| own.get(name));
        value.map(String::as_str)
    };
    let mut variables = own.clone();
    let mut places: HashMap<String, Span> = HashMap::new();
    for file in &files {
        let path = file.text("path").unwrap_or_default();
        let is_required = file.get("required").and_then(Node::as_bool) != Some(false);
        session.depend_on(Path::new(path));
        if !is_required && !Path::new(path).exists() {
            continue;
        }
        let format = file.get("format");
        if let Some(format) = format
            && format.as_str() != Some("raw")
            && format.as_str() != Some("")
        {
            return session.fail(
                Problem::error(format!(
                    "`services.{name}.env_file`: `{}` is not a format",
                    format.as_str().unwrap_or_default()
                ))
                .at(format.span)
                .expected("`raw`, or nothing"),
            );
        }
        let span = file.get("path").map_or(file.span, |path| path.span);
        let id = session.read_variables(Path::new(path), span)?;
        let format = format.and_then(Node::as_str);
        places.extend(environment::parse_file(
            session,
            id,
            &mut variables,
            format,
            &lookup,
        )?);
    }
    let span = files.first().map_or(Span::NONE, |file| file.span);
    let environment = mapping.get_or_insert("environment", || Node::mapping(Mapping::new(), span));
    if let Some(environment) = environment.as_mapping_mut() {
        // What no file sets is there already.
        let set = variables
            .into_iter()
            .filter(|(key, _)| places.contains_key(key));
        for (key, value) in set {
            let place = places.get(&key).copied().unwrap_or(span);
            add_from_file(environment, &key, value, place);
        }
    }
    Ok(())
}

/// Adds a value from a file of variables unless the service has one of its own.
fn add_from_file(values: &mut Mapping, key: &str, value: String, place: Span) {
    let value = Node::string(value, place);
    match values.get_mut(key) {
        Some(own) => own.overrides(&value),
        None => values.set(key, value),
    }
}

fn read_label_files(session: &mut Session<'_>, service: &mut Node) -> Outcome<()> {
    let files: Vec<(String, Span)> = service
        .items("label_file")
        .iter()
        .filter_map(|file| Some((file.as_str()?.to_owned(), file.span)))
        .collect();
    if files.is_empty() {
        return Ok(());
    }
    let mut labels = Variables::new();
    let mut places: HashMap<String, Span> = HashMap::new();
    for (path, span) in &files {
        let id = session.read_variables(Path::new(path), *span)?;
        let earlier = labels.clone();
        places.extend(environment::parse_file(
            session,
            id,
            &mut labels,
            None,
            &|name| earlier.get(name).map(String::as_str),
        )?);
    }
    let span = files.first().map_or(Span::NONE, |(_, span)| *span);
    if let Some(mapping) = service.as_mapping_mut() {
        let own = mapping.get_or_insert("labels", || Node::mapping(Mapping::new(), span));
        if let Some(own) = own.as_mapping_mut() {
            for (key, value) in labels {
                let place = places.get(&key).copied().unwrap_or(span);
                add_from_file(own, &key, value, place);
            }
        }
    }
    Ok(())
}

/// Whether a name matches a pattern with `*`, `?` and `[…]`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    matches_at(&pattern, &name, &mut HashSet::new())
}

/// `tried`: how much of pattern and name was left where it was tried before, in vain.
fn matches_at(pattern: &[char], name: &[char], tried: &mut HashSet<(usize, usize)>) -> bool {
    if !tried.insert((pattern.len(), name.len())) {
        return false;
    }
    match pattern {
        [] => name.is_empty(),
        ['*', rest @ ..] => (0..=name.len()).any(|skip| matches_at(rest, &name[skip..], tried)),
        ['?', rest @ ..] => !name.is_empty() && matches_at(rest, &name[1..], tried),
        ['[', rest @ ..] => {
            let Some(end) = rest.iter().skip(1).position(|character| *character == ']') else {
                return false;
            };
            let (set, behind) = (&rest[..=end], &rest[end + 2..]);
            let (negated, set) = match set {
                ['^', set @ ..] => (true, set),
                set => (false, set),
            };
            let Some((first, others)) = name.split_first() else {
                return false;
            };
            in_set(set, *first) != negated && matches_at(behind, others, tried)
        }
        ['\\', literal, rest @ ..] | [literal, rest @ ..] => name
            .split_first()
            .is_some_and(|(first, others)| first == literal && matches_at(rest, others, tried)),
    }
}

fn in_set(set: &[char], character: char) -> bool {
    match set {
        [] => false,
        [low, '-', high, rest @ ..] => {
            (*low..=*high).contains(&character) || in_set(rest, character)
        }
        [one, rest @ ..] => *one == character || in_set(rest, character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_patterns() {
        for (pattern, name, expected) in [
            ("web", "web", true),
            ("web*", "web-1", true),
            ("*", "", true),
            ("w?b", "web", true),
            ("[a-c]b", "bb", true),
            ("[^a]b", "ab", false),
            ("web", "webs", false),
            ("[", "x", false),
            // Many ways to be wrong are tried once each.
            (&"*a".repeat(40), &"a".repeat(39), false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
