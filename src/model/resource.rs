//! Top-level networks, volumes, configs, secrets and models.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

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

/// How a change of its content reaches the containers that mount it: `x-on-change` of a config or secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnChange {
    /// A new container takes the place of the old one.
    #[default]
    Recreate,
    /// The file is rewritten in place and the container started again.
    Restart,
    /// The file is rewritten in place and the container told by this signal.
    Signal(String),
}

impl FromStr for OnChange {
    type Err = ();

    /// `recreate`, `restart` or `signal:NAME`. Whether there is such a signal is not looked at.
    fn from_str(text: &str) -> Result<Self, ()> {
        match (text, text.strip_prefix("signal:")) {
            ("recreate", _) => Ok(Self::Recreate),
            ("restart", _) => Ok(Self::Restart),
            (_, Some(signal)) if !signal.is_empty() => Ok(Self::Signal(signal.into())),
            _ => Err(()),
        }
    }
}

impl fmt::Display for OnChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recreate => f.write_str("recreate"),
            Self::Restart => f.write_str("restart"),
            Self::Signal(signal) => write!(f, "signal:{signal}"),
        }
    }
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
    pub on_change: OnChange,
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
    pub on_change: OnChange,
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
