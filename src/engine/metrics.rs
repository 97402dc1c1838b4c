//! What a container uses: the metrics of its cgroup, as the shim reads them.

use std::collections::BTreeMap;

use containerd_client::services::v1::MetricsRequest;
use prost::Message;

use super::{Engine, EngineError};

/// What the processes of one container use, counted since its start where it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of processor time.
    pub cpu: u64,
    /// Bytes of memory without the page cache that can be given back at once.
    pub memory: u64,
    /// Bytes; what has no limit has one beyond any machine, or zero.
    pub memory_limit: u64,
    /// Bytes read from and written to block devices.
    pub read: u64,
    pub written: u64,
    /// Processes and threads.
    pub processes: u64,
}

impl Engine {
    /// Usage of the containers `ids` by id; those that do not run are not in it.
    pub async fn usage(&self, ids: &[&str]) -> Result<BTreeMap<String, Usage>, EngineError> {
        if ids.is_empty() {
            // No filter would mean every container of the host.
            return Ok(BTreeMap::new());
        }
        let request = MetricsRequest {
            filters: ids.iter().map(|id| format!("id=={id}")).collect(),
        };
        let answer = self
            .tasks_client()
            .metrics(request)
            .await
            .map_err(|status| self.failed("read metrics", &status))?;
        let metrics = answer.into_inner().metrics;
        Ok(metrics
            .into_iter()
            .filter_map(|metric| {
                let data = metric.data?;
                Some((metric.id, decode(&data.type_url, &data.value)?))
            })
            .collect())
    }
}

/// The shim answers in the form of the host's version of cgroups.
fn decode(type_url: &str, bytes: &[u8]) -> Option<Usage> {
    let usage = if type_url.contains("cgroups.v2") {
        v2::Metrics::decode(bytes).map(Usage::from)
    } else {
        v1::Metrics::decode(bytes).map(Usage::from)
    };
    usage
        .inspect_err(|error| tracing::warn!(%error, type_url, "metrics are unreadable"))
        .ok()
}

/// `io.containerd.cgroups.v1.Metrics`; only what is used of it.
mod v1 {
    use super::Usage;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metrics {
        #[prost(message, optional, tag = "2")]
        pub(super) pids: Option<Pids>,
        #[prost(message, optional, tag = "3")]
        pub(super) cpu: Option<Cpu>,
        #[prost(message, optional, tag = "4")]
        pub(super) memory: Option<Memory>,
        #[prost(message, optional, tag = "5")]
        pub(super) blkio: Option<BlockIo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Pids {
        #[prost(uint64, tag = "1")]
        pub(super) current: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Cpu {
        #[prost(message, optional, tag = "1")]
        pub(super) usage: Option<CpuUsage>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct CpuUsage {
        /// Nanoseconds.
        #[prost(uint64, tag = "1")]
        pub(super) total: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Memory {
        #[prost(uint64, tag = "30")]
        pub(super) total_inactive_file: u64,
        #[prost(message, optional, tag = "33")]
        pub(super) usage: Option<MemoryEntry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MemoryEntry {
        #[prost(uint64, tag = "1")]
        pub(super) limit: u64,
        #[prost(uint64, tag = "2")]
        pub(super) usage: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct BlockIo {
        #[prost(message, repeated, tag = "1")]
        pub(super) service_bytes: Vec<BlockIoEntry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct BlockIoEntry {
        #[prost(string, tag = "1")]
        pub(super) operation: String,
        #[prost(uint64, tag = "5")]
        pub(super) value: u64,
    }

    impl From<Metrics> for Usage {
        fn from(metrics: Metrics) -> Self {
            let memory = metrics.memory.unwrap_or_default();
            let entry = memory.usage.unwrap_or_default();
            let blocks = metrics.blkio.unwrap_or_default().service_bytes;
            let bytes = |operation: &str| {
                let of_kind = blocks
                    .iter()
                    .filter(|entry| entry.operation.eq_ignore_ascii_case(operation));
                of_kind.map(|entry| entry.value).sum()
            };
            Self {
                cpu: metrics
                    .cpu
                    .unwrap_or_default()
                    .usage
                    .unwrap_or_default()
                    .total,
                memory: entry.usage.saturating_sub(memory.total_inactive_file),
                memory_limit: entry.limit,
                read: bytes("read"),
                written: bytes("write"),
                processes: metrics.pids.unwrap_or_default().current,
            }
        }
    }
}

/// `io.containerd.cgroups.v2.Metrics`; only what is used of it.
mod v2 {
    use super::Usage;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metrics {
        #[prost(message, optional, tag = "1")]
        pub(super) pids: Option<Pids>,
        #[prost(message, optional, tag = "2")]
        pub(super) cpu: Option<Cpu>,
        #[prost(message, optional, tag = "4")]
        pub(super) memory: Option<Memory>,
        #[prost(message, optional, tag = "6")]
        pub(super) io: Option<Io>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Pids {
        #[prost(uint64, tag = "1")]
        pub(super) current: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Cpu {
        #[prost(uint64, tag = "1")]
        pub(super) usage_microseconds: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Memory {
        #[prost(uint64, tag = "13")]
        pub(super) inactive_file: u64,
        #[prost(uint64, tag = "32")]
        pub(super) usage: u64,
        #[prost(uint64, tag = "33")]
        pub(super) usage_limit: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Io {
        #[prost(message, repeated, tag = "1")]
        pub(super) usage: Vec<IoEntry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct IoEntry {
        #[prost(uint64, tag = "3")]
        pub(super) read: u64,
        #[prost(uint64, tag = "4")]
        pub(super) written: u64,
    }

    impl From<Metrics> for Usage {
        fn from(metrics: Metrics) -> Self {
            let memory = metrics.memory.unwrap_or_default();
            let io = metrics.io.unwrap_or_default().usage;
            let microseconds = metrics.cpu.unwrap_or_default().usage_microseconds;
            Self {
                cpu: microseconds.saturating_mul(1000),
                memory: memory.usage.saturating_sub(memory.inactive_file),
                memory_limit: memory.usage_limit,
                read: io.iter().map(|entry| entry.read).sum(),
                written: io.iter().map(|entry| entry.written).sum(),
                processes: metrics.pids.unwrap_or_default().current,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let second = v2::Metrics {
            pids: Some(v2::Pids { current: 3 }),
            cpu: Some(v2::Cpu {
                usage_microseconds: 5,
            }),
            memory: Some(v2::Memory {
                inactive_file: 40,
                usage: 100,
                usage_limit: 1000,
            }),
            io: Some(v2::Io {
                usage: vec![
                    v2::IoEntry {
                        read: 1,
                        written: 2
                    };
                    2
                ],
            }),
        };
        let expected = Usage {
            cpu: 5000,
            memory: 60,
            memory_limit: 1000,
            read: 2,
            written: 4,
            processes: 3,
        };
        let type_url = "io.containerd.cgroups.v2.Metrics";
        assert_eq!(decode(type_url, &second.encode_to_vec()), Some(expected));

        let block = |operation: &str, value| v1::BlockIoEntry {
            operation: operation.into(),
            value,
        };
        let first = v1::Metrics {
            pids: Some(v1::Pids { current: 3 }),
            cpu: Some(v1::Cpu {
                usage: Some(v1::CpuUsage { total: 5000 }),
            }),
            memory: Some(v1::Memory {
                total_inactive_file: 40,
                usage: Some(v1::MemoryEntry {
                    limit: 1000,
                    usage: 100,
                }),
            }),
            blkio: Some(v1::BlockIo {
                service_bytes: vec![block("Read", 2), block("Write", 4), block("Total", 6)],
            }),
        };
        let type_url = "io.containerd.cgroups.v1.Metrics";
        assert_eq!(decode(type_url, &first.encode_to_vec()), Some(expected));
        assert_eq!(decode(type_url, &[0xff]), None);
    }
}
