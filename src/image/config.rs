//! Documents of an image: index, manifest, configuration. Lenient: unknown fields are passed over, and `null` is as
//! good as absent, as Go writes it.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};

use super::ImageConfig;
use super::platform::Platform;
use crate::engine::Descriptor;
use crate::model;

/// Largest document that we read.
pub(super) const DOCUMENT_LIMIT: usize = 8 << 20;

pub(super) const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Other kinds of configuration that images have; old tools wrote the last one.
const OTHER_CONFIG_TYPES: [&str; 2] = [
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
];

/// Reads `null` as the default.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// An index (manifest list), or `index.json` of an archive.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Index {
    #[serde(deserialize_with = "nullable")]
    pub(super) manifests: Vec<IndexEntry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct IndexEntry {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    #[serde(deserialize_with = "nullable")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl IndexEntry {
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.size,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    #[serde(deserialize_with = "nullable")]
    pub(super) layers: Vec<Descriptor>,
}

impl Manifest {
    /// What it is instead of an image, as a media type; registries hold all sorts of things.
    pub(super) fn other_kind(&self) -> Option<&str> {
        let kind = self.config.media_type.as_str();
        let is_image = kind.is_empty() || kind == CONFIG_TYPE || OTHER_CONFIG_TYPES.contains(&kind);
        (!is_image).then_some(kind)
    }
}

/// The image configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    #[serde(flatten)]
    pub(super) platform: Platform,
    /// As RFC 3339.
    pub(super) created: Option<String>,
    #[serde(deserialize_with = "nullable")]
    config: Process,
    #[serde(deserialize_with = "nullable")]
    rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    #[serde(deserialize_with = "nullable")]
    diff_ids: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Process {
    #[serde(deserialize_with = "nullable")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    user: String,
    #[serde(deserialize_with = "nullable")]
    working_dir: String,
    #[serde(deserialize_with = "nullable")]
    exposed_ports: IndexMap<String, serde_json::Value>,
    #[serde(deserialize_with = "nullable")]
    volumes: IndexMap<String, serde_json::Value>,
    #[serde(deserialize_with = "nullable")]
    labels: IndexMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    stop_signal: String,
    healthcheck: Option<Probe>,
}

/// Docker's extension; spans in nanoseconds, zero means unset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Probe {
    #[serde(deserialize_with = "nullable")]
    test: Vec<String>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

impl Document {
    /// Digests of the uncompressed layers, bottom first.
    pub(super) fn diff_ids(&self) -> &[String] {
        &self.rootfs.diff_ids
    }

    pub(super) fn image_config(&self) -> ImageConfig {
        let process = self.config.clone();
        ImageConfig {
            entrypoint: process.entrypoint,
            command: process.cmd,
            environment: process.env,
            user: process.user,
            working_dir: process.working_dir,
            exposed_ports: process.exposed_ports.into_keys().collect(),
            volumes: process.volumes.into_keys().collect(),
            labels: process.labels,
            stop_signal: Some(process.stop_signal).filter(|signal| !signal.is_empty()),
            healthcheck: process.healthcheck.and_then(Probe::into_model),
        }
    }
}

impl Probe {
    fn into_model(self) -> Option<model::Healthcheck> {
        let first = self.test.first()?;
        let span = |nanoseconds: i64| (nanoseconds > 0).then_some(model::Duration(nanoseconds));
        Some(model::Healthcheck {
            disable: first == "NONE",
            interval: span(self.interval),
            timeout: span(self.timeout),
            start_period: span(self.start_period),
            start_interval: span(self.start_interval),
            retries: u64::try_from(self.retries).ok().filter(|count| *count > 0),
            test: self.test,
        })
    }
}

/// The names by which snapshotters know the layers, bottom first.
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            Some(parent) => digest_of(format!("{parent} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        };
        chain.push(id);
    }
    chain
}

pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

/// The digits of a digest that is safe to use as the name of a file.
pub(super) fn digest_hex(digest: &str) -> Option<&str> {
    let (algorithm, digits) = digest.split_once(':')?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return None,
    };
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digits.len() == length && digits.bytes().all(lower)).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_configuration_is_read_whole() {
        let document: Document = serde_json::from_str(
            r#"{"architecture":"amd64","os":"linux","variant":null,
                "config":{"Env":["A=b"],"Entrypoint":null,"Cmd":["sh"],"User":"1:2",
                  "WorkingDir":"/w","ExposedPorts":{"80/tcp":{}},"Volumes":{"/v":{}},
                  "Labels":{"l":"m"},"StopSignal":"SIGINT","OnBuild":null,
                  "Healthcheck":{"Test":["CMD","true"],"Interval":5000000000,"Retries":2}},
                "rootfs":{"type":"layers","diff_ids":["sha256:a"]}}"#,
        )
        .unwrap();
        let config = document.image_config();
        assert_eq!(config.command, ["sh"]);
        assert!(config.entrypoint.is_empty());
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.volumes, ["/v"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        let probe = config.healthcheck.unwrap();
        assert_eq!(probe.interval, Some(model::Duration::from_secs(5)));
        assert_eq!(probe.timeout, None);
        assert_eq!(probe.retries, Some(2));
        assert_eq!(document.platform.architecture, "amd64");
        assert_eq!(document.diff_ids(), ["sha256:a"]);
    }

    #[test]
    fn a_configuration_of_nulls_is_empty() {
        let document: Document =
            serde_json::from_str(r#"{"config":null,"rootfs":null,"os":null}"#).unwrap();
        assert_eq!(document.image_config(), ImageConfig::default());
    }

    #[test]
    fn a_probe_may_be_switched_off_by_the_image() {
        let probe = Probe {
            test: vec!["NONE".into()],
            ..Probe::default()
        };
        assert!(probe.into_model().is_some_and(|probe| probe.disable));
        assert_eq!(Probe::default().into_model(), None);
    }

    #[test]
    fn chain_ids_are_those_of_the_image_specification() {
        let ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], "sha256:a");
        assert_eq!(chain[1], digest_of(b"sha256:a sha256:b"));
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn only_a_plain_digest_may_name_a_file() {
        assert!(digest_hex(&digest_of(b"x")).is_some());
        assert_eq!(digest_hex("sha256:../../etc/passwd"), None);
        assert_eq!(digest_hex(&format!("sha256:{}", "A".repeat(64))), None);
    }
}
