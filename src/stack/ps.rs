//! The containers of a project, as users look at them.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use jiff::Timestamp;
use serde::Deserialize;

use super::ports::{Publisher, exposed};
use super::{Stack, StackError};
use crate::container::{INIT_PATH, label};
use crate::network::SandboxRecord;
use crate::reconcile::observe::{Observed, ObservedContainer, Status};
use crate::state::{ContainerState, HealthStatus};

/// Label with the mounts of a container, as nerdctl reads it.
const MOUNTS_LABEL: &str = "nerdctl/mounts";

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSummary {
    pub id: String,
    pub name: String,
    pub project: String,
    pub service: String,
    pub one_off: bool,
    pub image: String,
    /// Words with a space in them stand in single quotes.
    pub command: String,
    pub created_at: Timestamp,
    pub status: Status,
    pub state: ContainerState,
    /// Of a running container that has a probe.
    pub health: Option<HealthStatus>,
    /// Of a container that has ended; 0 while it runs.
    pub exit_code: u32,
    pub labels: BTreeMap<String, String>,
    pub publishers: Vec<Publisher>,
    /// Names of volumes and paths of bound files.
    pub mounts: Vec<String>,
    /// How many of the mounts are volumes.
    pub local_volumes: usize,
    pub networks: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct MountLabel {
    #[serde(rename = "Type")]
    kind: String,
    name: String,
    source: String,
}

impl ContainerSummary {
    /// Number of the replica.
    pub fn number(&self) -> Option<u32> {
        self.labels.get(label::NUMBER)?.parse().ok()
    }
}

impl Stack {
    /// Containers of the project, by name. Starts the supervisor if it should be alive and is not.
    pub async fn ps(&self) -> Result<Vec<ContainerSummary>, StackError> {
        let observed = self.observe().await?;
        let mut summaries: Vec<ContainerSummary> = observed
            .containers
            .iter()
            .map(|container| {
                let command = command(&container.spec);
                summary(self.name(), container, &observed, command)
            })
            .collect();
        summaries.sort_by(|a, b| a.name.cmp(&b.name));
        self.revive(&observed).await;
        Ok(summaries)
    }
}

fn summary(
    project: &str,
    container: &ObservedContainer,
    observed: &Observed,
    command: String,
) -> ContainerSummary {
    let sandbox = container
        .desired
        .as_ref()
        .and_then(|desired| desired.sandbox.as_ref())
        .and_then(|id| {
            observed
                .sandboxes
                .iter()
                .find(|sandbox| sandbox.spec.id == *id)
        });
    let running = matches!(container.status, Status::Running | Status::Paused);
    let mounts = mounts(&container.labels);
    let exit_code = match container.status {
        Status::Exited | Status::Dead => container.exit_code.unwrap_or(0),
        _ => 0,
    };
    ContainerSummary {
        id: container.id.clone(),
        name: container.name.clone(),
        project: project.into(),
        service: container.service.clone(),
        one_off: container.one_off,
        image: image(container),
        command,
        created_at: container.created_at,
        status: container.status,
        health: container
            .state
            .health
            .as_ref()
            .filter(|_| running)
            .map(|health| health.status),
        exit_code,
        state: container.state.clone(),
        labels: container
            .labels
            .iter()
            .filter(|(name, _)| !is_plumbing(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        publishers: publishers(container, sandbox.filter(|_| running)),
        local_volumes: mounts.iter().filter(|mount| mount.kind == "volume").count(),
        mounts: mounts
            .into_iter()
            .map(|mount| {
                if mount.name.is_empty() {
                    mount.source
                } else {
                    mount.name
                }
            })
            .collect(),
        networks: sandbox.map_or_else(Vec::new, |sandbox| {
            let endpoints = sandbox.endpoints.iter();
            endpoints.map(|endpoint| endpoint.network.clone()).collect()
        }),
    }
}

/// The image as the file names it.
fn image(container: &ObservedContainer) -> String {
    container
        .desired
        .as_ref()
        .and_then(|desired| desired.config.get("image")?.as_str())
        .map_or_else(|| container.image.clone(), Into::into)
}

/// Labels that only containerd and nerdctl have a use for.
pub(super) fn is_plumbing(label: &str) -> bool {
    ["nerdctl/", "containerd.io/", "io.containerd."]
        .iter()
        .any(|prefix| label.starts_with(prefix))
}

fn mounts(labels: &BTreeMap<String, String>) -> Vec<MountLabel> {
    labels
        .get(MOUNTS_LABEL)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Ports of a running container: what its sandbox publishes, and what the file exposes beside.
fn publishers(container: &ObservedContainer, sandbox: Option<&SandboxRecord>) -> Vec<Publisher> {
    let Some(sandbox) = sandbox else {
        return Vec::new();
    };
    let mut ports: Vec<Publisher> = Vec::new();
    for port in &sandbox.ports {
        let publisher = Publisher {
            url: port.host_ip.to_string(),
            target_port: port.container_port,
            published_port: port.host_port,
            protocol: port.protocol.clone(),
        };
        if port.is_on_ipv6() {
            ports.push(Publisher {
                url: Ipv6Addr::UNSPECIFIED.to_string(),
                ..publisher.clone()
            });
        }
        ports.push(publisher);
    }
    let expose = container
        .desired
        .as_ref()
        .and_then(|desired| desired.config.get("expose")?.as_array());
    for port in expose.into_iter().flatten() {
        let text = port.as_str().map_or_else(|| port.to_string(), Into::into);
        for port in exposed(&text) {
            let known = ports.iter().any(|known| {
                known.target_port == port.target_port && known.protocol == port.protocol
            });
            if !known {
                ports.push(port);
            }
        }
    }
    ports.sort_by(|a, b| (a.target_port, &a.url).cmp(&(b.target_port, &b.url)));
    ports
}

/// The command line of a container's first process.
fn command(spec: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Spec {
        process: Process,
    }
    #[derive(Deserialize)]
    struct Process {
        #[serde(default)]
        args: Vec<String>,
    }
    let Ok(spec) = serde_json::from_slice::<Spec>(spec) else {
        return String::new();
    };
    let args = match spec.process.args.as_slice() {
        // The init that we put before the user's command is not part of it.
        [init, dashes, user @ ..] if init == INIT_PATH && dashes == "--" => user,
        args => args,
    };
    let words = args.iter().map(|word| {
        if word.contains(' ') {
            format!("'{word}'")
        } else {
            word.clone()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_quoted_as_docker_quotes_it() {
        let spec = br#"{"process":{"args":["sh","-c","echo a; trap 'x' TERM"]}}"#;
        assert_eq!(command(spec), "sh -c 'echo a; trap 'x' TERM'");
        assert_eq!(command(b""), "");
    }

    #[test]
    fn mounts_are_read_from_their_label() {
        let label = r#"[{"Type":"volume","Name":"shop_data","Source":"/v","Destination":"/data"},{"Type":"bind","Source":"/src"}]"#;
        let labels = BTreeMap::from([(MOUNTS_LABEL.to_owned(), label.to_owned())]);
        let names: Vec<String> = mounts(&labels)
            .into_iter()
            .map(|mount| mount.name)
            .collect();
        assert_eq!(names, ["shop_data", ""]);
        assert!(mounts(&BTreeMap::new()).is_empty());
    }
}
