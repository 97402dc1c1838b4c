//! The dependency graph of a project: services, networks, volumes, configs and secrets.

use std::collections::{BTreeSet, HashMap};

use indexmap::{IndexMap, IndexSet};
use petgraph::Direction;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef as _;
use thiserror::Error;

use crate::model::{Condition, MountKind, Project, Service};

/// A node of the graph, by its key in the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    Service(String),
    Network(String),
    Volume(String),
    Config(String),
    Secret(String),
}

/// What a service asks of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub condition: Condition,
    /// The dependent is restarted when the dependency is restarted or replaced by a command.
    pub restart: bool,
    /// Without it the dependent goes on when the dependency fails.
    pub required: bool,
}

/// Services wait for one another in a circle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("dependency cycle detected: {}", path.join(" -> "))]
pub struct Cycle {
    /// Services along the circle; the first is also the last.
    pub path: Vec<String>,
}

/// Who needs what. An edge goes from the dependent to what it depends on.
#[derive(Clone, Debug)]
pub struct Graph {
    edges: DiGraph<Resource, Option<Requirement>>,
    nodes: HashMap<Resource, NodeIndex>,
    /// In the order of the file.
    services: Vec<String>,
}

impl Graph {
    /// Builds the graph of the enabled services and all resources. References to what the project does not have are
    /// left out: the loader has refused them, or they are not required.
    pub fn new(project: &Project) -> Result<Self, Cycle> {
        let mut graph = Self {
            edges: DiGraph::new(),
            nodes: HashMap::new(),
            services: project.services.keys().cloned().collect(),
        };
        for resource in resources(project) {
            let node = graph.edges.add_node(resource.clone());
            graph.nodes.insert(resource, node);
        }
        for (name, service) in &project.services {
            for (dependency, requirement) in requirements(project, name, service) {
                graph.connect(name, &Resource::Service(dependency), Some(requirement));
            }
            for resource in uses(service) {
                graph.connect(name, &resource, None);
            }
        }
        graph.refuse_cycles()?;
        Ok(graph)
    }

    /// Enabled services in the order of the file.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(String::as_str)
    }

    /// Whether the project has an enabled service of that name.
    pub fn contains(&self, service: &str) -> bool {
        self.nodes.contains_key(&Resource::Service(service.into()))
    }

    /// The graph's own copy of the name of an enabled service.
    pub fn name(&self, service: &str) -> Option<&str> {
        self.services
            .iter()
            .map(String::as_str)
            .find(|name| *name == service)
    }

    /// Services that `service` depends on, in the order of the file.
    pub fn dependencies(&self, service: &str) -> IndexMap<&str, Requirement> {
        self.neighbours(service, Direction::Outgoing)
    }

    /// Services that depend on `service`, in the order of the file.
    pub fn dependents(&self, service: &str) -> IndexMap<&str, Requirement> {
        self.neighbours(service, Direction::Incoming)
    }

    /// Networks, volumes, configs and secrets that `service` uses, in the order of the file.
    pub fn resources(&self, service: &str) -> Vec<&Resource> {
        let mut found: Vec<NodeIndex> = self
            .nodes
            .get(&Resource::Service(service.into()))
            .into_iter()
            .flat_map(|node| self.edges.neighbors_directed(*node, Direction::Outgoing))
            .filter(|node| !matches!(self.edges[*node], Resource::Service(_)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|node| &self.edges[node]).collect()
    }

    /// `services` and all that they depend on, in the order of the file.
    pub fn closure<'b>(&self, services: impl IntoIterator<Item = &'b str>) -> IndexSet<&str> {
        let mut open: Vec<&str> = services
            .into_iter()
            .filter_map(|service| self.name(service))
            .collect();
        let mut seen = BTreeSet::new();
        while let Some(service) = open.pop() {
            if seen.insert(service) {
                open.extend(self.dependencies(service).into_keys());
            }
        }
        self.services
            .iter()
            .map(String::as_str)
            .filter(|service| seen.contains(service))
            .collect()
    }

    /// Services in waves: each depends only on services of earlier waves. Within a wave the order is the file's.
    pub fn waves(&self) -> Vec<Vec<&str>> {
        let mut waves: Vec<Vec<&str>> = Vec::new();
        let mut done: BTreeSet<&str> = BTreeSet::new();
        while done.len() < self.services.len() {
            let wave: Vec<&str> = self
                .services
                .iter()
                .map(String::as_str)
                .filter(|service| !done.contains(service))
                .filter(|service| {
                    self.dependencies(service)
                        .keys()
                        .all(|name| done.contains(name))
                })
                .collect();
            if wave.is_empty() {
                break;
            }
            done.extend(&wave);
            waves.push(wave);
        }
        waves
    }

    /// All services, dependencies first.
    pub fn start_order(&self) -> Vec<&str> {
        self.waves().into_iter().flatten().collect()
    }

    /// All services, dependents first.
    pub fn stop_order(&self) -> Vec<&str> {
        let mut order = self.start_order();
        order.reverse();
        order
    }

    fn connect(&mut self, service: &str, to: &Resource, requirement: Option<Requirement>) {
        let from = self.nodes.get(&Resource::Service(service.into()));
        if let (Some(from), Some(to)) = (from, self.nodes.get(to)) {
            self.edges.update_edge(*from, *to, requirement);
        }
    }

    fn neighbours(&self, service: &str, direction: Direction) -> IndexMap<&str, Requirement> {
        let Some(node) = self.nodes.get(&Resource::Service(service.into())) else {
            return IndexMap::new();
        };
        let mut found: Vec<(NodeIndex, Requirement)> = self
            .edges
            .edges_directed(*node, direction)
            .filter_map(|edge| {
                let other = match direction {
                    Direction::Outgoing => edge.target(),
                    Direction::Incoming => edge.source(),
                };
                edge.weight().map(|requirement| (other, requirement))
            })
            .collect();
        found.sort_unstable_by_key(|(node, _)| *node);
        found
            .into_iter()
            .filter_map(|(node, requirement)| match &self.edges[node] {
                Resource::Service(name) => Some((name.as_str(), requirement)),
                _ => None,
            })
            .collect()
    }

    fn refuse_cycles(&self) -> Result<(), Cycle> {
        let circles = tarjan_scc(&self.edges);
        let first = circles
            .into_iter()
            .filter(|circle| {
                circle.len() > 1
                    || circle
                        .iter()
                        .any(|node| self.edges.contains_edge(*node, *node))
            })
            .filter_map(|circle| {
                let start = circle.iter().min().copied()?;
                Some((start, circle))
            })
            .min_by_key(|(start, _)| *start);
        match first {
            Some((start, circle)) => Err(Cycle {
                path: self.path_around(start, &circle),
            }),
            None => Ok(()),
        }
    }

    /// A shortest way from `start` back to it within `circle`, found breadth first.
    fn path_around(&self, start: NodeIndex, circle: &[NodeIndex]) -> Vec<String> {
        let mut came_from: HashMap<NodeIndex, NodeIndex> = HashMap::new();
        let mut open = std::collections::VecDeque::from([start]);
        'search: while let Some(node) = open.pop_front() {
            let mut next: Vec<NodeIndex> = self.edges.neighbors(node).collect();
            next.sort_unstable();
            for to in next.into_iter().filter(|to| circle.contains(to)) {
                if let std::collections::hash_map::Entry::Vacant(entry) = came_from.entry(to) {
                    entry.insert(node);
                    if to == start {
                        break 'search;
                    }
                    open.push_back(to);
                }
            }
        }
        let mut path = vec![start];
        let mut node = start;
        while let Some(before) = came_from.get(&node) {
            path.push(*before);
            node = *before;
            if node == start {
                break;
            }
        }
        path.reverse();
        path.into_iter()
            .filter_map(|node| match &self.edges[node] {
                Resource::Service(name) => Some(name.clone()),
                _ => None,
            })
            .collect()
    }
}

/// The service named by `service:NAME`.
pub fn service_reference(mode: Option<&str>) -> Option<&str> {
    mode?.strip_prefix("service:")
}

/// Attributes of `service` that put it into a namespace of another container, with their values.
pub fn namespace_modes(service: &Service) -> [(&'static str, Option<&str>); 5] {
    [
        ("network_mode", service.network_mode.as_deref()),
        ("pid", service.pid.as_deref()),
        ("ipc", service.ipc.as_deref()),
        ("uts", service.uts.as_deref()),
        ("cgroup", service.cgroup.as_deref()),
    ]
}

fn resources(project: &Project) -> impl Iterator<Item = Resource> {
    let services = project.services.keys().cloned().map(Resource::Service);
    services
        .chain(project.networks.keys().cloned().map(Resource::Network))
        .chain(project.volumes.keys().cloned().map(Resource::Volume))
        .chain(project.configs.keys().cloned().map(Resource::Config))
        .chain(project.secrets.keys().cloned().map(Resource::Secret))
}

fn uses(service: &Service) -> impl Iterator<Item = Resource> {
    let networks = service.networks.keys().cloned().map(Resource::Network);
    let volumes = service
        .volumes
        .iter()
        .filter(|mount| mount.kind == MountKind::Volume)
        .filter_map(|mount| mount.source.clone())
        .map(Resource::Volume);
    let configs = service
        .configs
        .iter()
        .map(|file| Resource::Config(file.source.clone()));
    let secrets = service
        .secrets
        .iter()
        .map(|file| Resource::Secret(file.source.clone()));
    networks.chain(volumes).chain(configs).chain(secrets)
}

/// Dependencies written in the file and those that follow from other attributes.
fn requirements(project: &Project, name: &str, service: &Service) -> IndexMap<String, Requirement> {
    let mut found: IndexMap<String, Requirement> = service
        .depends_on
        .iter()
        .map(|(dependency, written)| {
            let requirement = Requirement {
                condition: written.condition,
                restart: written.restart && !is_implied(project, name, service, dependency),
                required: written.required,
            };
            (dependency.clone(), requirement)
        })
        .collect();
    let mut imply = |dependency: &str, restart: bool| {
        found.entry(dependency.into()).or_insert(Requirement {
            condition: Condition::ServiceStarted,
            restart,
            required: true,
        });
    };
    for link in &service.links {
        imply(link.split(':').next().unwrap_or(link), true);
    }
    for (attribute, mode) in namespace_modes(service) {
        if let Some(dependency) = service_reference(mode) {
            // The network namespace belongs to the slot of the other service and outlives its containers.
            imply(dependency, attribute != "network_mode");
        }
    }
    for source in &service.volumes_from {
        if !source.starts_with("container:") {
            imply(source.split(':').next().unwrap_or(source), false);
        }
    }
    found
}

/// Whether the `restart` of a dependency only stems from `network_mode: service:`, as the loader fills it in.
fn is_implied(project: &Project, name: &str, service: &Service, dependency: &str) -> bool {
    let shares_network = service_reference(service.network_mode.as_deref()) == Some(dependency);
    let needs_restart = namespace_modes(service)
        .into_iter()
        .filter(|(attribute, _)| *attribute != "network_mode")
        .any(|(_, mode)| service_reference(mode) == Some(dependency))
        || service
            .links
            .iter()
            .any(|link| link.split(':').next() == Some(dependency));
    let written = format!("services.{name}.depends_on.{dependency}.restart");
    shares_network && !needs_restart && !project.provenance.0.contains_key(&written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dependency;

    fn service(name: &str, needs: &[&str]) -> (String, Service) {
        let depends_on = needs
            .iter()
            .map(|need| {
                let dependency = Dependency {
                    condition: Condition::ServiceStarted,
                    restart: false,
                    required: true,
                };
                ((*need).to_owned(), dependency)
            })
            .collect();
        let service = Service {
            name: name.into(),
            depends_on,
            ..Service::default()
        };
        (name.into(), service)
    }

    fn project(services: &[(&str, &[&str])]) -> Project {
        Project {
            services: services
                .iter()
                .map(|(name, needs)| service(name, needs))
                .collect(),
            ..Project::default()
        }
    }

    #[test]
    fn waves_keep_the_order_of_the_file() {
        let project = project(&[
            ("web", &["api"]),
            ("api", &["redis", "db"]),
            ("redis", &[]),
            ("db", &[]),
        ]);
        let graph = Graph::new(&project).unwrap();
        assert_eq!(
            graph.waves(),
            [vec!["redis", "db"], vec!["api"], vec!["web"]]
        );
        assert_eq!(graph.stop_order(), ["web", "api", "db", "redis"]);
    }

    #[test]
    fn a_cycle_is_reported_as_its_path() {
        let project = project(&[
            ("x", &["b"]),
            ("a", &["x", "b"]),
            ("b", &["c"]),
            ("c", &["b"]),
        ]);
        let cycle = Graph::new(&project).unwrap_err();
        assert_eq!(cycle.to_string(), "dependency cycle detected: b -> c -> b");
    }

    #[test]
    fn a_service_that_needs_itself_is_a_cycle() {
        let cycle = Graph::new(&project(&[("a", &["a"])])).unwrap_err();
        assert_eq!(cycle.path, ["a", "a"]);
    }

    #[test]
    fn a_cycle_through_a_link_is_found() {
        let mut project = project(&[("a", &["b"]), ("b", &[])]);
        project.services["b"].links = vec!["a:alias".into()];
        assert_eq!(Graph::new(&project).unwrap_err().path, ["a", "b", "a"]);
    }

    #[test]
    fn the_closure_holds_dependencies_of_dependencies() {
        let project = project(&[
            ("web", &["api"]),
            ("api", &["db"]),
            ("db", &[]),
            ("other", &[]),
        ]);
        let graph = Graph::new(&project).unwrap();
        assert_eq!(graph.closure(["web"]), IndexSet::from(["web", "api", "db"]));
    }

    #[test]
    fn namespaces_and_volumes_of_another_service_make_dependencies() {
        let mut project = project(&[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])]);
        project.services["d"].network_mode = Some("service:a".into());
        project.services["d"].pid = Some("service:b".into());
        project.services["d"].volumes_from = vec!["c:ro".into(), "container:x".into()];
        let graph = Graph::new(&project).unwrap();
        let found = graph.dependencies("d");
        let restarts: Vec<_> = found
            .iter()
            .map(|(name, need)| (*name, need.restart))
            .collect();
        assert_eq!(restarts, [("a", false), ("b", true), ("c", false)]);
        assert_eq!(graph.dependents("a").into_keys().collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn a_dependency_that_is_not_enabled_is_left_out() {
        let graph = Graph::new(&project(&[("web", &["gone"])])).unwrap();
        assert!(graph.dependencies("web").is_empty());
    }

    #[test]
    fn resources_of_a_service_come_in_the_order_of_the_file() {
        let mut project = project(&[("web", &[])]);
        for name in ["front", "back"] {
            project
                .networks
                .insert(name.into(), crate::model::Network::default());
        }
        project.services["web"].networks = IndexMap::from([
            ("back".into(), None),
            ("front".into(), None),
            ("undeclared".into(), None),
        ]);
        let graph = Graph::new(&project).unwrap();
        let expected = [
            Resource::Network("front".into()),
            Resource::Network("back".into()),
        ];
        assert_eq!(graph.resources("web"), expected.iter().collect::<Vec<_>>());
    }
}
