//! A service and the small types of its attributes.

use std::net::IpAddr;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Build, Deploy, Develop, DeviceRequest, Duration, FileReference, Mount};

/// `services.*`, in long form. An unset attribute is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Key in the file.
    pub name: String,

    // Image and process.
    pub image: Option<String>,
    pub build: Option<Build>,
    /// `None`: the image's. `Some([])`: none.
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    /// With env files merged in. `None` removes the image's variable.
    pub environment: IndexMap<String, Option<String>>,
    pub env_file: Vec<EnvFile>,
    /// With label files merged in.
    pub labels: IndexMap<String, String>,
    pub label_file: Vec<String>,
    pub annotations: IndexMap<String, String>,
    pub container_name: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub platform: Option<String>,
    pub pull_policy: Option<String>,
    pub runtime: Option<String>,
    pub init: Option<bool>,
    pub tty: bool,
    pub stdin_open: bool,

    // Lifecycle.
    /// Unset means true.
    pub attach: Option<bool>,
    pub restart: Option<String>,
    pub stop_signal: Option<String>,
    pub stop_grace_period: Option<Duration>,
    pub healthcheck: Option<Healthcheck>,
    pub depends_on: IndexMap<String, Dependency>,
    pub profiles: Vec<String>,
    pub scale: Option<i64>,
    pub provider: Option<Provider>,
    pub models: IndexMap<String, Option<ModelReference>>,
    pub develop: Option<Develop>,
    pub deploy: Option<Deploy>,
    pub pre_start: Vec<Hook>,
    pub post_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,
    pub use_api_socket: bool,
    pub credential_spec: Option<CredentialSpec>,
    pub isolation: Option<String>,
    pub logging: Option<Logging>,

    // Resources.
    pub cpus: Option<f64>,
    pub cpuset: Option<String>,
    pub cpu_shares: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<i64>,
    /// Microseconds.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_rt_period: Option<i64>,
    /// Microseconds.
    pub cpu_rt_runtime: Option<i64>,
    pub cpu_count: Option<i64>,
    pub cpu_percent: Option<f64>,
    /// Bytes.
    pub mem_limit: Option<i64>,
    /// Bytes.
    pub mem_reservation: Option<i64>,
    /// Bytes of memory and swap together; -1 means no limit.
    pub memswap_limit: Option<i64>,
    pub mem_swappiness: Option<i64>,
    /// Bytes.
    pub shm_size: Option<i64>,
    /// -1 means no limit.
    pub pids_limit: Option<i64>,
    pub oom_kill_disable: bool,
    pub oom_score_adj: Option<i64>,
    pub ulimits: IndexMap<String, Ulimit>,
    pub blkio_config: Option<BlkioConfig>,
    pub storage_opt: IndexMap<String, String>,
    pub devices: Vec<DeviceMapping>,
    pub device_cgroup_rules: Vec<String>,
    pub gpus: Vec<DeviceRequest>,

    // Security and namespaces.
    pub privileged: bool,
    pub read_only: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub userns_mode: Option<String>,
    pub ipc: Option<String>,
    pub pid: Option<String>,
    pub uts: Option<String>,
    pub cgroup: Option<String>,
    pub cgroup_parent: Option<String>,
    pub sysctls: IndexMap<String, String>,

    // Network.
    pub network_mode: Option<String>,
    /// By key of the top-level network, in the order of the file.
    pub networks: IndexMap<String, Option<ServiceNetwork>>,
    pub mac_address: Option<String>,
    pub ports: Vec<Port>,
    pub expose: Vec<String>,
    pub links: Vec<String>,
    pub external_links: Vec<String>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,
    /// Addresses by host name; `host-gateway` stands for the host.
    pub extra_hosts: IndexMap<String, Vec<String>>,

    // Storage.
    pub volumes: Vec<Mount>,
    pub volumes_from: Vec<String>,
    /// `PATH[:OPTIONS]`.
    pub tmpfs: Vec<String>,
    pub configs: Vec<FileReference>,
    pub secrets: Vec<FileReference>,
}

impl Service {
    /// Replicas wanted: `scale`, else one with a mode that means every host, else `deploy.replicas`, else 1.
    pub fn replicas(&self) -> u32 {
        let everywhere = self.deploy_mode().starts_with("global");
        let replicas = self
            .scale
            .or_else(|| {
                let deploy = self.deploy.as_ref().filter(|_| !everywhere);
                deploy.and_then(|deploy| deploy.replicas)
            })
            .unwrap_or(1);
        u32::try_from(replicas).unwrap_or(0)
    }

    /// Whether its containers are to end and are not started again when they have ended well.
    pub fn is_job(&self) -> bool {
        self.deploy_mode().ends_with("-job")
    }

    /// `deploy.mode`.
    fn deploy_mode(&self) -> &str {
        let mode = self
            .deploy
            .as_ref()
            .and_then(|deploy| deploy.mode.as_deref());
        mode.unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EnvFile {
    pub path: String,
    pub required: bool,
    pub format: Option<String>,
}

/// When a dependency counts as ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    #[default]
    ServiceStarted,
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dependency {
    pub condition: Condition,
    /// Restart the dependent when the dependency is restarted or recreated by a command.
    pub restart: bool,
    pub required: bool,
}

/// `services.*.healthcheck`; an unset field is taken from the image, then from the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// Starts with `CMD`, `CMD-SHELL` or `NONE`; empty means the image's.
    pub test: Vec<String>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub retries: Option<u64>,
    pub start_period: Option<Duration>,
    pub start_interval: Option<Duration>,
    pub disable: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    pub driver: Option<String>,
    pub options: IndexMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioConfig {
    pub weight: Option<u16>,
    pub weight_device: Vec<WeightDevice>,
    pub device_read_bps: Vec<ThrottleDevice>,
    pub device_write_bps: Vec<ThrottleDevice>,
    pub device_read_iops: Vec<ThrottleDevice>,
    pub device_write_iops: Vec<ThrottleDevice>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WeightDevice {
    pub path: String,
    pub weight: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottleDevice {
    pub path: String,
    /// Bytes or operations a second.
    pub rate: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMapping {
    pub source: String,
    pub target: Option<String>,
    pub permissions: Option<String>,
}

/// How a service joins one network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceNetwork {
    pub aliases: Vec<String>,
    pub ipv4_address: Option<IpAddr>,
    pub ipv6_address: Option<IpAddr>,
    pub link_local_ips: Vec<IpAddr>,
    pub mac_address: Option<String>,
    pub interface_name: Option<String>,
    pub driver_opts: IndexMap<String, String>,
    pub priority: i64,
    pub gw_priority: i64,
}

/// One published port in long form; ranges are expanded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    pub name: Option<String>,
    pub mode: Option<String>,
    pub host_ip: Option<String>,
    pub target: u16,
    /// `None`: any free port. `a-b`: any free one in that range.
    pub published: Option<String>,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provider {
    #[serde(rename = "type")]
    pub kind: String,
    pub options: IndexMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelReference {
    pub endpoint_var: Option<String>,
    pub model_var: Option<String>,
}

/// `pre_start`, `post_start`, `pre_stop` and the `exec` of a watch rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    pub command: Vec<String>,
    pub image: Option<String>,
    pub user: Option<String>,
    pub privileged: bool,
    pub working_dir: Option<String>,
    pub environment: IndexMap<String, Option<String>>,
    pub per_replica: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CredentialSpec {
    pub config: Option<String>,
    pub file: Option<String>,
    pub registry: Option<String>,
}
