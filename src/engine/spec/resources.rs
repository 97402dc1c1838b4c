//! Limits of a container, as the OCI's `linux.resources`. The runtime translates them to the cgroup version in use.

use serde_json::{Map, Value, json};

use super::devices::{DeviceRule, rules_json};
use super::{CgroupVersion, Host, SpecError};

/// What a container may use. Unset means no limit; checked by [`Resources::check`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Whole and part CPUs; excludes `cpu_period` and `cpu_quota`.
    pub cpus: Option<f64>,
    pub cpuset: Option<String>,
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_realtime_period: Option<u64>,
    /// Microseconds.
    pub cpu_realtime_runtime: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes.
    pub memory_reservation: Option<i64>,
    /// Bytes of memory and swap together; -1 means no limit, unset twice the memory.
    pub memory_swap: Option<i64>,
    /// 0 to 100.
    pub swappiness: Option<u64>,
    pub oom_kill_disable: bool,
    /// -1 means no limit.
    pub pids: Option<i64>,
    pub blkio: Blkio,
    pub device_rules: Vec<DeviceRule>,
    /// Every device may be used.
    pub all_devices: bool,
}

/// Weights and throttles of block devices, each by major and minor number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blkio {
    pub weight: Option<u16>,
    pub weight_device: Vec<(u32, u32, u16)>,
    pub read_bps: Vec<(u32, u32, u64)>,
    pub write_bps: Vec<(u32, u32, u64)>,
    pub read_iops: Vec<(u32, u32, u64)>,
    pub write_iops: Vec<(u32, u32, u64)>,
}

/// Period that `cpus` is a share of.
const PERIOD: u32 = 100_000;
/// Least memory that a container starts with.
const LEAST_MEMORY: i64 = 6 << 20;

impl Resources {
    /// Refuses what no kernel takes, with the attribute's name.
    pub fn check(&self, host: &Host) -> Result<(), SpecError> {
        let refuse = |attribute, value: &dyn ToString, reason: String| {
            Err(SpecError::invalid(attribute, &value.to_string(), reason))
        };
        if let Some(cpus) = self.cpus {
            let most = host.cpus;
            // Written so that NaN is refused, too.
            #[expect(clippy::cast_precision_loss, reason = "no host has 2^52 CPUs")]
            if !(cpus >= 0.01 && cpus <= most as f64) {
                return refuse("cpus", &cpus, format!("this host gives 0.01 to {most}"));
            }
            if self.cpu_period.is_some() || self.cpu_quota.is_some() {
                return refuse(
                    "cpus",
                    &cpus,
                    "`cpu_period` or `cpu_quota` is set, too".into(),
                );
            }
        }
        if let Some(period) = self
            .cpu_period
            .filter(|period| !(1000..=1_000_000).contains(period))
        {
            return refuse("cpu_period", &period, "it goes from 1000 to 1000000".into());
        }
        if let Some(quota) = self.cpu_quota.filter(|quota| *quota != -1 && *quota < 1000) {
            return refuse("cpu_quota", &quota, "it is at least 1000".into());
        }
        if let Some(memory) = self.memory.filter(|memory| *memory < LEAST_MEMORY) {
            return refuse(
                "mem_limit",
                &memory,
                "a container needs at least 6 MiB".into(),
            );
        }
        if let (Some(memory), Some(reservation)) = (self.memory, self.memory_reservation)
            && reservation > memory
        {
            let reason = format!("it is more than `mem_limit` ({memory})");
            return refuse("mem_reservation", &reservation, reason);
        }
        if let Some(swap) = self.memory_swap.filter(|swap| *swap > 0) {
            match self.memory {
                None => {
                    return refuse("memswap_limit", &swap, "it needs `mem_limit`, too".into());
                }
                Some(memory) if swap < memory => {
                    let reason =
                        format!("it is less than `mem_limit` ({memory}), which it includes");
                    return refuse("memswap_limit", &swap, reason);
                }
                Some(_) => {}
            }
        }
        if let Some(swappiness) = self.swappiness.filter(|swappiness| *swappiness > 100) {
            return refuse(
                "mem_swappiness",
                &swappiness,
                "it goes from 0 to 100".into(),
            );
        }
        let weights = self
            .blkio
            .weight_device
            .iter()
            .map(|(_, _, weight)| *weight);
        for weight in weights.chain(self.blkio.weight) {
            if !(10..=1000).contains(&weight) {
                return refuse(
                    "blkio_config.weight",
                    &weight,
                    "it goes from 10 to 1000".into(),
                );
            }
        }
        Ok(())
    }

    /// The limits as JSON, for a spec or for a running task. Controls that this kernel lacks are left out.
    pub fn to_json(&self, host: &Host) -> Value {
        let mut resources = Map::new();
        resources.insert(
            "devices".into(),
            rules_json(self.all_devices, &self.device_rules),
        );
        for (name, section) in [
            ("memory", self.memory_json(host)),
            ("cpu", self.cpu_json(host)),
            ("blockIO", self.blkio.to_json(host)),
        ] {
            if !section.is_empty() {
                resources.insert(name.into(), section.into());
            }
        }
        if let Some(limit) = self.pids.filter(|limit| *limit != 0) {
            resources.insert("pids".into(), json!({ "limit": limit.max(-1) }));
        }
        resources.into()
    }

    fn memory_json(&self, host: &Host) -> Map<String, Value> {
        let mut memory = Map::new();
        let controls = &host.controls;
        if let Some(limit) = self.memory {
            memory.insert("limit".into(), limit.into());
        }
        if let Some(reservation) = self.memory_reservation {
            memory.insert("reservation".into(), reservation.into());
        }
        let doubled = || self.memory.map(|limit| limit.saturating_mul(2));
        let swap = self.memory_swap.filter(|swap| *swap != 0).or_else(doubled);
        if let Some(swap) = swap.filter(|_| controls.swap_limit) {
            memory.insert("swap".into(), swap.into());
        }
        if let Some(swappiness) = self.swappiness.filter(|_| controls.swappiness) {
            memory.insert("swappiness".into(), swappiness.into());
        }
        if self.oom_kill_disable && controls.oom_kill_disable {
            memory.insert("disableOOMKiller".into(), true.into());
        }
        memory
    }

    fn cpu_json(&self, host: &Host) -> Map<String, Value> {
        let mut cpu = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                cpu.insert(name.into(), value);
            }
        };
        set(
            "shares",
            self.cpu_shares.filter(|shares| *shares > 0).map(Into::into),
        );
        if let Some(cpus) = self.cpus {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "checked to be at most the CPUs"
            )]
            let quota = (cpus * f64::from(PERIOD)).round() as i64;
            set("quota", Some(quota.into()));
            set("period", Some(PERIOD.into()));
        } else {
            set("quota", self.cpu_quota.map(Into::into));
            set("period", self.cpu_period.map(Into::into));
        }
        if host.cgroup == CgroupVersion::V1 && host.controls.cpu_realtime {
            set("realtimeRuntime", self.cpu_realtime_runtime.map(Into::into));
            set("realtimePeriod", self.cpu_realtime_period.map(Into::into));
        }
        set("cpus", self.cpuset.clone().map(Into::into));
        cpu
    }
}

impl Blkio {
    fn to_json(&self, host: &Host) -> Map<String, Value> {
        let mut section = Map::new();
        if let Some(weight) = self.weight.filter(|_| host.controls.blkio_weight) {
            section.insert("weight".into(), weight.into());
        }
        if !self.weight_device.is_empty() && host.controls.blkio_weight_device {
            let list = self.weight_device.iter().map(
                |(major, minor, weight)| json!({ "major": major, "minor": minor, "weight": weight }),
            );
            section.insert("weightDevice".into(), list.collect());
        }
        for (name, list) in [
            ("throttleReadBpsDevice", &self.read_bps),
            ("throttleWriteBpsDevice", &self.write_bps),
            ("throttleReadIOPSDevice", &self.read_iops),
            ("throttleWriteIOPSDevice", &self.write_iops),
        ] {
            if !list.is_empty() {
                let list = list.iter().map(
                    |(major, minor, rate)| json!({ "major": major, "minor": minor, "rate": rate }),
                );
                section.insert(name.into(), list.collect());
            }
        }
        section
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(resources: &Resources, host: &Host) -> Value {
        let mut json = resources.to_json(host);
        json.as_object_mut().unwrap().remove("devices");
        json
    }

    fn refused(resources: &Resources) -> String {
        resources.check(&Host::example()).unwrap_err().to_string()
    }

    #[test]
    fn no_limit_leaves_only_device_rules() {
        assert_eq!(json_of(&Resources::default(), &Host::example()), json!({}));
    }

    #[test]
    fn cpus_become_a_quota_and_memory_brings_twice_as_much_swap() {
        let resources = Resources {
            cpus: Some(0.5),
            memory: Some(64 << 20),
            pids: Some(100),
            ..Resources::default()
        };
        assert_eq!(
            json_of(&resources, &Host::example()),
            json!({
                "memory": { "limit": 67_108_864, "swap": 134_217_728 },
                "cpu": { "quota": 50_000, "period": 100_000 },
                "pids": { "limit": 100 },
            })
        );
    }

    #[test]
    fn controls_that_the_kernel_lacks_are_left_out() {
        let resources = Resources {
            memory: Some(64 << 20),
            swappiness: Some(10),
            oom_kill_disable: true,
            cpu_realtime_runtime: Some(1000),
            blkio: Blkio {
                weight: Some(100),
                weight_device: vec![(8, 0, 200)],
                read_bps: vec![(8, 0, 1024)],
                ..Blkio::default()
            },
            ..Resources::default()
        };
        let mut host = Host::example();
        assert_eq!(
            json_of(&resources, &host),
            json!({
                "memory": {
                    "limit": 67_108_864, "swap": 134_217_728, "swappiness": 10, "disableOOMKiller": true,
                },
                "cpu": { "realtimeRuntime": 1000 },
                "blockIO": {
                    "weight": 100,
                    "weightDevice": [{ "major": 8, "minor": 0, "weight": 200 }],
                    "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 1024 }],
                },
            })
        );
        host.cgroup = CgroupVersion::V2;
        host.controls = super::super::Controls::default();
        assert_eq!(
            json_of(&resources, &host),
            json!({
                "memory": { "limit": 67_108_864 },
                "blockIO": { "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 1024 }] },
            })
        );
    }

    #[test]
    fn swap_without_limit_is_minus_one_and_zero_is_unset() {
        let mut resources = Resources {
            memory: Some(64 << 20),
            memory_swap: Some(-1),
            ..Resources::default()
        };
        assert_eq!(json_of(&resources, &Host::example())["memory"]["swap"], -1);
        resources.memory_swap = Some(0);
        assert_eq!(
            json_of(&resources, &Host::example())["memory"]["swap"],
            134_217_728
        );
    }

    #[test]
    fn what_no_kernel_takes_is_refused_by_name() {
        let default = Resources::default;
        assert_eq!(
            refused(&Resources {
                cpus: Some(64.0),
                ..default()
            }),
            "cpus: `64` is not valid: this host gives 0.01 to 4"
        );
        assert!(
            refused(&Resources {
                cpus: Some(f64::NAN),
                ..default()
            })
            .starts_with("cpus")
        );
        assert!(
            refused(&Resources {
                memory: Some(1 << 20),
                ..default()
            })
            .contains("6 MiB")
        );
        assert!(
            refused(&Resources {
                memory_swap: Some(1 << 25),
                ..default()
            })
            .contains("needs `mem_limit`")
        );
        let swap_below_memory = Resources {
            memory: Some(64 << 20),
            memory_swap: Some(32 << 20),
            ..default()
        };
        assert!(refused(&swap_below_memory).contains("less than `mem_limit`"));
        assert!(
            refused(&Resources {
                swappiness: Some(101),
                ..default()
            })
            .contains("0 to 100")
        );
        assert!(
            refused(&Resources {
                cpu_period: Some(1),
                ..default()
            })
            .contains("1000")
        );
        let weight = Blkio {
            weight: Some(5),
            ..Blkio::default()
        };
        assert!(
            refused(&Resources {
                blkio: weight,
                ..default()
            })
            .contains("10 to 1000")
        );
        assert!(default().check(&Host::example()).is_ok());
    }
}
