//! From the typed tree to the model. Everything was checked before; what is absent stays unset.

mod read;
mod service;

use std::fmt::Write as _;
use std::path::PathBuf;

use indexmap::IndexMap;

use self::read::Read;
pub(super) use self::read::json;
use super::dotenv::Variables;
use super::select::Model as Tree;
use super::session::Contents;
use super::source::SourceMap;
use crate::model::{
    Config, Ipam, IpamPool, Model, Network, Origin, Project, Provenance, Secret, Volume,
};
use crate::yaml::{Mapping, Node, Span, Value};

/// What a project has beside its tree.
pub(super) struct Outer {
    pub(super) name: String,
    pub(super) working_dir: PathBuf,
    pub(super) files: Vec<PathBuf>,
    pub(super) env_files: Vec<PathBuf>,
    pub(super) runtime: Option<String>,
    pub(super) compatibility: bool,
    pub(super) environment: Variables,
}

pub(super) fn project(
    tree: &Tree,
    outer: Outer,
    contents: &Contents,
    sources: &SourceMap,
) -> Project {
    let root = &tree.root;
    let extensions = root
        .as_mapping()
        .into_iter()
        .flat_map(Mapping::iter)
        .filter(|(key, _)| key.starts_with("x-"))
        .map(|(key, entry)| (key.to_owned(), json(&entry.value)))
        .collect();
    Project {
        name: outer.name,
        working_dir: outer.working_dir,
        files: outer.files,
        env_files: outer.env_files,
        profiles: tree.profiles.clone(),
        services: tree
            .services()
            .map(|(name, node)| (name.to_owned(), service::service(name, node)))
            .collect(),
        disabled_services: tree
            .disabled
            .iter()
            .map(|(name, entry)| (name.to_owned(), service::service(name, &entry.value)))
            .collect(),
        networks: section(root, "networks", |_, node| network(node)),
        volumes: section(root, "volumes", |_, node| volume(node)),
        configs: section(root, "configs", |name, node| {
            let content = contents.get(&("configs", name.to_owned()));
            config(node, content)
        }),
        secrets: section(root, "secrets", |name, node| {
            let content = contents.get(&("secrets", name.to_owned()));
            secret(node, content)
        }),
        models: section(root, "models", |_, node| model(node)),
        extensions,
        runtime: outer.runtime,
        compatibility: outer.compatibility,
        environment: outer.environment,
        provenance: provenance(tree, sources),
    }
}

fn section<T>(root: &Node, name: &str, bind: impl Fn(&str, &Node) -> T) -> IndexMap<String, T> {
    root.entries(name)
        .map(|(name, entry)| (name.to_owned(), bind(name, &entry.value)))
        .collect()
}

fn network(node: &Node) -> Network {
    Network {
        name: node.string("name").unwrap_or_default(),
        driver: node.string("driver"),
        driver_opts: node.texts_by_key("driver_opts"),
        external: node.flag("external"),
        internal: node.flag("internal"),
        attachable: node.flag("attachable"),
        enable_ipv4: node.boolean_at("enable_ipv4"),
        enable_ipv6: node.boolean_at("enable_ipv6"),
        ipam: node.get("ipam").map(ipam).unwrap_or_default(),
        labels: node.texts_by_key("labels"),
    }
}

fn ipam(node: &Node) -> Ipam {
    Ipam {
        driver: node.string("driver"),
        options: node.texts_by_key("options"),
        config: node
            .items("config")
            .iter()
            .map(|pool| IpamPool {
                subnet: pool.string("subnet"),
                gateway: pool.parsed("gateway"),
                ip_range: pool.string("ip_range"),
                aux_addresses: pool.texts_by_key("aux_addresses"),
            })
            .collect(),
    }
}

fn volume(node: &Node) -> Volume {
    Volume {
        name: node.string("name").unwrap_or_default(),
        driver: node.string("driver"),
        driver_opts: node.texts_by_key("driver_opts"),
        external: node.flag("external"),
        labels: node.texts_by_key("labels"),
    }
}

fn config(node: &Node, content: Option<&String>) -> Config {
    let environment = node.string("environment");
    Config {
        name: node.string("name").unwrap_or_default(),
        file: node.string("file"),
        content: node
            .get("content")
            .and_then(Node::as_str)
            .or(content
                .filter(|_| environment.is_some())
                .map(String::as_str))
            .map(str::to_owned),
        environment,
        external: node.flag("external"),
        labels: node.texts_by_key("labels"),
        template_driver: node.string("template_driver"),
        on_change: node.parsed("x-on-change").unwrap_or_default(),
    }
}

fn secret(node: &Node, content: Option<&String>) -> Secret {
    let environment = node.string("environment");
    Secret {
        name: node.string("name").unwrap_or_default(),
        file: node.string("file"),
        content: content.filter(|_| environment.is_some()).cloned(),
        environment,
        external: node.flag("external"),
        labels: node.texts_by_key("labels"),
        driver: node.string("driver"),
        driver_opts: node.texts_by_key("driver_opts"),
        template_driver: node.string("template_driver"),
        on_change: node.parsed("x-on-change").unwrap_or_default(),
    }
}

fn model(node: &Node) -> Model {
    Model {
        name: node.string("name"),
        model: node.string("model").unwrap_or_default(),
        context_size: node.integer_at("context_size"),
        runtime_flags: node.texts("runtime_flags"),
    }
}

/// Where every value of the tree was written.
fn provenance(tree: &Tree, sources: &SourceMap) -> Provenance {
    let mut walk = Walk {
        sources,
        origins: IndexMap::new(),
        path: String::new(),
    };
    for (key, entry) in tree.root.as_mapping().into_iter().flat_map(Mapping::iter) {
        key.clone_into(&mut walk.path);
        walk.node(&entry.value, entry.key);
    }
    for (name, entry) in tree.disabled.iter() {
        walk.path = format!("services.{name}");
        walk.node(&entry.value, entry.key);
    }
    Provenance(walk.origins)
}

struct Walk<'s> {
    sources: &'s SourceMap,
    origins: IndexMap<String, Vec<Origin>>,
    path: String,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node, key: Span) {
        // A collection stands where its key is; its first line is that of its first item.
        let is_collection = matches!(node.value, Value::Mapping(_) | Value::Sequence(_));
        let span = if is_collection && key.is_known() {
            key
        } else {
            node.span
        };
        let earlier = node.overridden.iter().flat_map(|spans| spans.iter());
        let origins: Vec<Origin> = earlier
            .chain([&span])
            .filter_map(|span| self.sources.origin(*span))
            .collect();
        if !origins.is_empty() {
            self.origins.insert(self.path.clone(), origins);
        }
        let length = self.path.len();
        match &node.value {
            Value::Mapping(mapping) => {
                for (key, entry) in mapping.iter() {
                    self.path.push('.');
                    self.path.push_str(key);
                    self.node(&entry.value, entry.key);
                    self.path.truncate(length);
                }
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    // Writing to a string cannot fail.
                    let _ = write!(self.path, "[{index}]");
                    self.node(item, Span::NONE);
                    self.path.truncate(length);
                }
            }
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Unsigned(_)
            | Value::Float(_)
            | Value::String(_) => {}
        }
    }
}
