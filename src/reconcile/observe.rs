//! The world as it is now.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::{Desired, VolumeRecord};
use crate::network::{NetworkRecord, SandboxRecord};
use crate::state::ContainerState;

/// Docker's container states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Removing,
    Dead,
}

/// One container of a project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedContainer {
    pub id: String,
    pub name: String,
    pub service: String,
    pub number: u32,
    pub one_off: bool,
    pub status: Status,
    pub pid: Option<u32>,
    /// Of the last run that ended.
    pub exit_code: Option<u32>,
    /// Reference of its image.
    pub image: String,
    pub labels: BTreeMap<String, String>,
    /// `None` if another tool made it or its record is unreadable.
    pub desired: Option<Desired>,
    pub state: ContainerState,
    pub created_at: Timestamp,
}

/// Everything of one project, and what it shares with others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// By service, then number, then age.
    pub containers: Vec<ObservedContainer>,
    /// All networks of the host: external ones are looked up here.
    pub networks: Vec<NetworkRecord>,
    /// All volumes of the host.
    pub volumes: Vec<VolumeRecord>,
    /// Sandboxes of this project.
    pub sandboxes: Vec<SandboxRecord>,
    /// Sandboxes of others that are attached to a network, by the network's name.
    pub other_users: BTreeMap<String, Vec<String>>,
}
