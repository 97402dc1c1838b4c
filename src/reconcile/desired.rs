//! What a project wants on this host: containers, sandboxes, networks and volumes, as plain data.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::definition::{
    external_definition, network_definition, service_definition, volume_definition,
};
use super::pulls::DesiredPull;
use super::sandbox;
use super::update::UpdatePolicy;
use crate::container::{Desired, VolumeRecord, label};
use crate::graph::{namespace_modes, service_reference};
use crate::image::Image;
use crate::model::{Healthcheck, MountKind, Network, OnChange, Project, Service, Volume};
use crate::network::{NetworkSpec, SandboxSpec};

/// Seconds between the stop signal and the kill where the file names none.
const STOP_TIMEOUT: u32 = 10;

/// What is known beside the project. Nothing here is read from the world while planning.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// By service; `None` or absent: not on this host yet, its digest is to be resolved.
    pub images: &'a IndexMap<String, Option<Image>>,
    /// From [`super::contents::contents`].
    pub contents: &'a BTreeMap<String, String>,
    /// Value of the label `com.docker.compose.config-hash`.
    pub config_hash: fn(&Service) -> String,
}

/// What the id of the second sandbox of a slot ends with. No container can be called so.
const SECOND: &str = "+";

/// The other one of the two sandboxes that the slot `slot` may have.
pub fn other_sandbox(slot: &str, sandbox: &str) -> String {
    if sandbox == slot {
        format!("{slot}{SECOND}")
    } else {
        slot.to_owned()
    }
}

/// A container and its place in the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredContainer {
    pub desired: Desired,
    /// None for the host's network and for those that join another container's.
    pub sandbox: Option<SandboxSpec>,
}

/// Another container that a container is tied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// A service of the same project.
    Service(String),
    /// Name or id of any container, as written.
    Container(String),
}

/// One service: all of its replicas are made from this.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredService {
    pub name: String,
    /// Reference of its image.
    pub image: String,
    pub platform: Option<String>,
    /// Whether the image's content is known.
    pub is_image_known: bool,
    pub replicas: u32,
    pub container_name: Option<String>,
    /// What the names of its containers begin with, else; a number follows.
    pub prefix: String,
    /// Another program runs it: it has no containers.
    pub is_provided: bool,
    /// How its replicas are replaced, where the file says so.
    pub update: Option<UpdatePolicy>,
    /// By `network_mode`, `pid`, `ipc` or `volumes_from.<name>`.
    pub parents: IndexMap<String, Parent>,
    /// Keys of its networks, external ones too.
    pub networks: Vec<String>,
    /// Keys of its volumes, external ones too.
    pub volumes: Vec<String>,
    template: DesiredContainer,
    aliases: bool,
}

/// A network of the project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredNetwork {
    pub spec: NetworkSpec,
    /// Made by somebody else; must exist.
    pub external: bool,
}

/// A volume of the project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredVolume {
    pub record: VolumeRecord,
    /// Made by somebody else; must exist.
    pub external: bool,
}

/// All that a project wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredState {
    /// Enabled services in the order of the file.
    pub services: IndexMap<String, DesiredService>,
    /// By key; those of `network_mode` have the mode as key.
    pub networks: IndexMap<String, DesiredNetwork>,
    /// By key.
    pub volumes: IndexMap<String, DesiredVolume>,
    /// Images to be pulled, and those that were found to be as their registry has them.
    pub pulls: Vec<DesiredPull>,
    /// What was noticed on the way.
    pub warnings: Vec<String>,
}

/// Works out what `project` wants.
pub fn desired(project: &Project, facts: &Facts<'_>) -> DesiredState {
    let mut networks: IndexMap<String, DesiredNetwork> = project
        .networks
        .iter()
        .map(|(key, network)| (key.clone(), desired_network(project, key, network)))
        .collect();
    for service in project.services.values() {
        if let Some(mode) = sandbox::named_network(service.network_mode.as_deref()) {
            networks
                .entry(mode.into())
                .or_insert_with(|| named_network(mode));
        }
    }
    let volumes: IndexMap<String, DesiredVolume> = project
        .volumes
        .iter()
        .map(|(key, volume)| (key.clone(), desired_volume(project, key, volume)))
        .collect();
    let services = project
        .services
        .iter()
        .map(|(name, service)| {
            let service = desired_service(project, service, facts, &networks, &volumes);
            (name.clone(), service)
        })
        .collect();
    DesiredState {
        services,
        networks,
        volumes,
        ..DesiredState::default()
    }
}

/// Fills in what depends on the image: its digest, the probe and the signal to stop with.
pub fn complete(desired: &mut Desired, service: &Service, image: &Image) {
    desired.image.clone_from(&image.digest);
    desired.healthcheck = merged_healthcheck(
        service.healthcheck.as_ref(),
        image.config.healthcheck.as_ref(),
    );
    desired.stop_signal = service
        .stop_signal
        .clone()
        .or_else(|| image.config.stop_signal.clone())
        .unwrap_or_else(|| "SIGTERM".into());
}

/// Fills in the container that a parent turned out to be, so that a later plan sees whether it is still the same. A
/// network namespace belongs to a slot, and a container named in the file is whichever has the name: both stay as they are.
pub fn record_parent(desired: &mut Desired, service: &Service, role: &str, id: &str) {
    let is_of_project = matches!(parents(service).get(role), Some(Parent::Service(_)));
    if is_of_project && role != "network_mode" {
        desired.parents.insert(role.into(), id.into());
    }
}

impl DesiredService {
    /// Name of the container `number`, which is also the name of its slot and the id of its sandbox.
    pub fn container(&self, number: u32) -> String {
        self.container_name
            .clone()
            .unwrap_or_else(|| format!("{}{number}", self.prefix))
    }

    /// What the replica `number` should be. Parents of the project are named by their first replica.
    pub fn replica(&self, number: u32) -> DesiredContainer {
        let mut replica = self.named(&self.container(number), number);
        if self.aliases
            && let Some(sandbox) = &mut replica.sandbox
        {
            for attachment in &mut sandbox.attachments {
                let own = [
                    self.name.clone(),
                    replica.desired.name.clone(),
                    format!("{}-{number}", self.name),
                ];
                attachment.names = distinct(own.into_iter().chain(attachment.names.drain(..)));
            }
        }
        replica
    }

    /// A container for a single command: nobody finds it by the service's name, unless `use_aliases`.
    pub fn one_off(&self, name: &str, use_aliases: bool) -> DesiredContainer {
        let mut replica = self.named(name, 0);
        replica.desired.one_off = true;
        replica.desired.restart = "no".into();
        if let Some(sandbox) = &mut replica.sandbox {
            for attachment in &mut sandbox.attachments {
                attachment.ipv4 = None;
                attachment.ipv6 = None;
                attachment.mac = None;
                if !self.aliases {
                    continue;
                }
                let own = [name.to_owned()].into_iter();
                attachment.names = if use_aliases {
                    let service = std::iter::once(self.name.clone());
                    distinct(service.chain(own).chain(attachment.names.drain(..)))
                } else {
                    own.collect()
                };
            }
        }
        replica
    }

    fn named(&self, name: &str, number: u32) -> DesiredContainer {
        let mut replica = self.template.clone();
        replica.desired.name = name.into();
        replica.desired.number = number;
        if let Some(sandbox) = &mut replica.sandbox {
            replica.desired.sandbox = Some(name.into());
            sandbox.id = name.into();
            sandbox
                .labels
                .insert(label::NUMBER.into(), number.to_string());
        }
        replica
    }
}

impl DesiredContainer {
    /// Puts it into the sandbox of that id, if it has one of its own.
    pub fn move_to(&mut self, sandbox: &str) {
        if let Some(spec) = &mut self.sandbox {
            sandbox.clone_into(&mut spec.id);
            self.desired.sandbox = Some(sandbox.to_owned());
        }
    }
}

fn desired_service(
    project: &Project,
    service: &Service,
    facts: &Facts<'_>,
    networks: &IndexMap<String, DesiredNetwork>,
    volumes: &IndexMap<String, DesiredVolume>,
) -> DesiredService {
    let image = facts.images.get(&service.name).and_then(Option::as_ref);
    let parents = parents(service);
    let network_keys = sandbox::network_keys(service);
    let volume_keys: Vec<String> = distinct(
        service
            .volumes
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
            .filter_map(|mount| mount.source.clone()),
    );
    let parent_names = parents
        .iter()
        .map(|(role, parent)| (role.clone(), parent_name(project, parent)))
        .collect();
    let mut desired = Desired {
        project: project.name.clone(),
        service: service.name.clone(),
        config: service_definition(service),
        contents: mounted_contents(service, facts.contents),
        on_change: reactions(project, service),
        networks: network_keys
            .iter()
            .filter_map(|key| networks.get(key))
            .map(|network| (network.spec.name.clone(), network.definition()))
            .collect(),
        volumes: volume_keys
            .iter()
            .filter_map(|key| volumes.get(key))
            .map(|volume| (volume.record.name.clone(), volume.record.definition.clone()))
            .collect(),
        parents: parent_names,
        config_hash: (facts.config_hash)(service),
        stop_timeout: stop_timeout(service),
        restart: restart_policy(service),
        logging: service.logging.clone().unwrap_or_default(),
        terminal: service.tty,
        stdin_open: service.stdin_open,
        ..Desired::default()
    };
    complete(&mut desired, service, image.unwrap_or(&Image::default()));
    DesiredService {
        name: service.name.clone(),
        image: project.image_reference(service),
        platform: project.platform(service).map(str::to_owned),
        is_image_known: image.is_some(),
        replicas: service.replicas(),
        container_name: service.container_name.clone(),
        prefix: project.joined_name(&[&service.name, ""]),
        is_provided: service.provider.is_some(),
        update: UpdatePolicy::of(service),
        parents,
        networks: network_keys,
        volumes: volume_keys,
        template: DesiredContainer {
            desired,
            sandbox: sandbox::sandbox_spec(project, service, networks),
        },
        aliases: sandbox::named_network(service.network_mode.as_deref()).is_none(),
    }
}

impl DesiredNetwork {
    /// What [`Desired::networks`] holds of it.
    pub fn definition(&self) -> serde_json::Value {
        if self.external {
            external_definition()
        } else {
            network_definition(&self.spec)
        }
    }
}

fn desired_network(project: &Project, key: &str, network: &Network) -> DesiredNetwork {
    let mut labels: BTreeMap<String, String> = network
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(label::PROJECT.into(), project.name.clone());
    labels.insert(label::NETWORK.into(), key.into());
    labels.insert(label::VERSION.into(), env!("CARGO_PKG_VERSION").into());
    DesiredNetwork {
        spec: NetworkSpec {
            name: network.name.clone(),
            driver: network.driver.clone(),
            driver_opts: network.driver_opts.clone(),
            internal: network.internal,
            enable_ipv6: network.enable_ipv6.unwrap_or(false),
            pools: network.ipam.config.clone(),
            labels,
        },
        external: network.external,
    }
}

/// The network of `network_mode: <name>`. `bridge` is made where it is missing, any other must exist.
fn named_network(name: &str) -> DesiredNetwork {
    DesiredNetwork {
        spec: NetworkSpec {
            name: name.into(),
            ..NetworkSpec::default()
        },
        external: name != "bridge",
    }
}

fn desired_volume(project: &Project, key: &str, volume: &Volume) -> DesiredVolume {
    let mut labels: BTreeMap<String, String> = volume
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(label::PROJECT.into(), project.name.clone());
    labels.insert(label::VOLUME.into(), key.into());
    labels.insert(label::VERSION.into(), env!("CARGO_PKG_VERSION").into());
    let definition = if volume.external {
        external_definition()
    } else {
        volume_definition(volume)
    };
    DesiredVolume {
        record: VolumeRecord {
            name: volume.name.clone(),
            driver: volume.driver.clone().unwrap_or_else(|| "local".into()),
            driver_opts: volume
                .driver_opts
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            labels,
            definition,
            ..VolumeRecord::default()
        },
        external: volume.external,
    }
}

fn parents(service: &Service) -> IndexMap<String, Parent> {
    let mut found = IndexMap::new();
    for (role, mode) in namespace_modes(service) {
        if let Some(name) = service_reference(mode) {
            found.insert(role.into(), Parent::Service(name.into()));
        } else if let Some(name) = mode.and_then(|mode| mode.strip_prefix("container:")) {
            found.insert(role.into(), Parent::Container(name.into()));
        }
    }
    for source in &service.volumes_from {
        let (name, parent): (&str, fn(String) -> Parent) = match source.strip_prefix("container:") {
            Some(rest) => (rest.split(':').next().unwrap_or(rest), Parent::Container),
            None => (source.split(':').next().unwrap_or(source), Parent::Service),
        };
        found.insert(format!("volumes_from.{name}"), parent(name.into()));
    }
    found
}

fn parent_name(project: &Project, parent: &Parent) -> String {
    match parent {
        Parent::Container(name) => name.clone(),
        Parent::Service(name) => project
            .services
            .get(name)
            .and_then(|service| service.container_name.clone())
            .unwrap_or_else(|| project.joined_name(&[name, "1"])),
    }
}

fn mounted_contents(
    service: &Service,
    contents: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let configs = service
        .configs
        .iter()
        .map(|file| format!("configs.{}", file.source));
    let secrets = service
        .secrets
        .iter()
        .map(|file| format!("secrets.{}", file.source));
    configs
        .chain(secrets)
        .filter_map(|key| {
            let digest = contents.get(&key)?.clone();
            Some((key, digest))
        })
        .collect()
}

/// How changed contents reach the containers of `service`, where it is not by making them anew.
fn reactions(project: &Project, service: &Service) -> BTreeMap<String, OnChange> {
    let configs = service.configs.iter().filter_map(|file| {
        let config = project.configs.get(&file.source)?;
        Some((format!("configs.{}", file.source), &config.on_change))
    });
    let secrets = service.secrets.iter().filter_map(|file| {
        let secret = project.secrets.get(&file.source)?;
        Some((format!("secrets.{}", file.source), &secret.on_change))
    });
    configs
        .chain(secrets)
        .filter(|(_, reaction)| **reaction != OnChange::Recreate)
        .map(|(key, reaction)| (key, reaction.clone()))
        .collect()
}

fn stop_timeout(service: &Service) -> u32 {
    service.stop_grace_period.map_or(STOP_TIMEOUT, |period| {
        let period = period.to_std();
        let partial = u64::from(period.subsec_nanos() > 0);
        u32::try_from(period.as_secs().saturating_add(partial)).unwrap_or(u32::MAX)
    })
}

/// `deploy.restart_policy` goes before `restart`.
fn restart_policy(service: &Service) -> String {
    let policy = service
        .deploy
        .as_ref()
        .and_then(|deploy| deploy.restart_policy.as_ref());
    let restart = match policy {
        Some(policy) => match (policy.condition.as_deref(), policy.max_attempts) {
            (Some("none"), _) => "no".into(),
            (Some("on-failure"), Some(attempts)) => format!("on-failure:{attempts}"),
            (Some("on-failure"), None) => "on-failure".into(),
            _ => "always".into(),
        },
        None => service.restart.clone().unwrap_or_else(|| "no".into()),
    };
    match restart.as_str() {
        // A job that has ended well is done.
        "always" | "unless-stopped" if service.is_job() => "on-failure".into(),
        _ => restart,
    }
}

fn merged_healthcheck(
    file: Option<&Healthcheck>,
    image: Option<&Healthcheck>,
) -> Option<Healthcheck> {
    let mut merged = file.or(image)?.clone();
    if let Some(image) = image {
        if merged.test.is_empty() {
            merged.test.clone_from(&image.test);
        }
        merged.interval = merged.interval.or(image.interval);
        merged.timeout = merged.timeout.or(image.timeout);
        merged.retries = merged.retries.or(image.retries);
        merged.start_period = merged.start_period.or(image.start_period);
        merged.start_interval = merged.start_interval.or(image.start_interval);
    }
    let has_probe = merged.test.first().is_some_and(|first| first != "NONE");
    (has_probe && !merged.disable).then_some(merged)
}

/// The values in their order, each once.
pub(super) fn distinct(values: impl IntoIterator<Item = String>) -> Vec<String> {
    values
        .into_iter()
        .collect::<indexmap::IndexSet<_>>()
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests;
