//! Top-level networks, volumes, configs, secrets and models.

use std::net::IpAddr;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// A network (`networks.*`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Name on the host; `<project>_<key>` unless the file says otherwise.
    pub name: String,
    pub driver: Option<String>,
    pub driver_opts: IndexMap<String, String>,
    pub external: bool,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
    pub ipam: Ipam,
    pub labels: IndexMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ipam {
    pub driver: Option<String>,
    pub options: IndexMap<String, String>,
    pub config: Vec<IpamPool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamPool {
    pub subnet: Option<String>,
    pub gateway: Option<IpAddr>,
    pub ip_range: Option<String>,
    pub aux_addresses: IndexMap<String, String>,
}

/// A named volume (`volumes.*`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Name on the host; `<project>_<key>` unless the file says otherwise.
    pub name: String,
    pub driver: Option<String>,
    pub driver_opts: IndexMap<String, String>,
    pub external: bool,
    pub labels: IndexMap<String, String>,
}

/// A config (`configs.*`). One of `file`, `content` and `environment` is set unless it is external.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub name: String,
    pub file: Option<String>,
    /// As written, or the value of the variable `environment` if that is set.
    pub content: Option<String>,
    /// Name of the variable that holds the content.
    pub environment: Option<String>,
    pub external: bool,
    pub labels: IndexMap<String, String>,
    pub template_driver: Option<String>,
}

/// A secret (`secrets.*`). One of `file` and `environment` is set unless it is external.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Secret {
    pub name: String,
    pub file: Option<String>,
    /// The value of the variable `environment` if that is set. Never to be printed or stored.
    pub content: Option<String>,
    /// Name of the variable that holds the secret.
    pub environment: Option<String>,
    pub external: bool,
    pub labels: IndexMap<String, String>,
    pub driver: Option<String>,
    pub driver_opts: IndexMap<String, String>,
    pub template_driver: Option<String>,
}

/// A language model (`models.*`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    pub name: Option<String>,
    pub model: String,
    pub context_size: Option<i64>,
    pub runtime_flags: Vec<String>,
}
