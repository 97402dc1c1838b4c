//! A new image: another one's layers, one more, and a changed configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::choice::damaged;
use super::config::{CONFIG_TYPE, DOCUMENT_LIMIT, MANIFEST_TYPE, digest_of};
use super::reference::parse_reference;
use super::{ImageError, Images};
use crate::engine::{ContentSource, Descriptor, ImageRecord};

/// What a new image is made of.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Name for it, as a user writes it; without one it is found by its digest only.
    pub reference: Option<String>,
    /// Digest of the manifest of the image below.
    pub base: String,
    pub layer: Descriptor,
    /// Digest of the layer's uncompressed content.
    pub diff_id: String,
    /// `config` of the image's configuration.
    pub process: Value,
    pub author: String,
    pub comment: String,
    /// The command whose container it was made from.
    pub created_by: String,
}

impl Images {
    /// Checks a name for a new image.
    pub fn check_name(reference: &str) -> Result<(), ImageError> {
        parse_reference(reference).map(drop)
    }

    /// `config` of the configuration of the image whose manifest has the digest `manifest`.
    pub async fn process_config(&self, manifest: &str) -> Result<Value, ImageError> {
        let manifest = self.json(manifest).await?;
        let digest = manifest["config"]["digest"].as_str().unwrap_or_default();
        Ok(self.json(digest).await?["config"].take())
    }

    /// Stores the image and returns its id. `lease` holds its parts until its name does.
    pub async fn commit(&self, image: &NewImage, lease: &str) -> Result<String, ImageError> {
        let manifest = self.json(&image.base).await?;
        let base = manifest["config"]["digest"].as_str().unwrap_or_default();
        let config = configuration(self.json(base).await?, image, Timestamp::now());
        let config = self
            .store(CONFIG_TYPE, &config, &BTreeMap::new(), lease)
            .await?;
        let layers = layers(&manifest, &image.base, &image.layer)?;
        let mut labels = BTreeMap::from([(
            "containerd.io/gc.ref.content.config".to_owned(),
            config.digest.clone(),
        )]);
        for (number, layer) in layers.iter().enumerate() {
            let label = format!("containerd.io/gc.ref.content.l.{number}");
            labels.insert(label, layer.digest.clone());
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config,
            "layers": layers,
        });
        let target = self.store(MANIFEST_TYPE, &manifest, &labels, lease).await?;
        let name = match &image.reference {
            Some(reference) => parse_reference(reference)?.whole(),
            // As nerdctl calls an image without a name.
            None => format!("{}@{}", self.engine.snapshotter(), target.digest),
        };
        let record = ImageRecord {
            name,
            labels: BTreeMap::new(),
            target,
        };
        self.engine.put_image(&record).await?;
        Ok(config.digest)
    }

    async fn json(&self, digest: &str) -> Result<Value, ImageError> {
        let bytes = self.engine.read_content(digest, 0, DOCUMENT_LIMIT).await?;
        let bytes = bytes.ok_or_else(|| ImageError::Missing {
            reference: digest.into(),
        })?;
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Damaged {
            reference: digest.into(),
            source: Box::new(source),
        })
    }

    async fn store(
        &self,
        media_type: &str,
        document: &Value,
        labels: &BTreeMap<String, String>,
        lease: &str,
    ) -> Result<Descriptor, ImageError> {
        let bytes: Arc<[u8]> = document.to_string().into_bytes().into();
        let descriptor = Descriptor {
            media_type: media_type.into(),
            digest: digest_of(&bytes),
            size: bytes.len() as u64,
        };
        let source = ContentSource::Bytes(bytes);
        self.engine
            .write_content(&descriptor, &source, labels, Some(lease))
            .await?;
        Ok(descriptor)
    }
}

/// The layers of a manifest and one more. A media type of Docker's is replaced by that of the OCI, as both must not be mixed.
fn layers(manifest: &Value, base: &str, new: &Descriptor) -> Result<Vec<Descriptor>, ImageError> {
    let list = manifest["layers"].as_array().cloned().unwrap_or_default();
    let read = |layer: Value| {
        let mut layer: Descriptor = serde_json::from_value(layer)
            .map_err(|_| damaged(base, "a layer of the manifest is unreadable"))?;
        if layer.media_type == "application/vnd.docker.image.rootfs.diff.tar.gzip" {
            layer.media_type = "application/vnd.oci.image.layer.v1.tar+gzip".into();
        }
        Ok(layer)
    };
    let below = list.into_iter().map(read);
    below.chain([Ok(new.clone())]).collect()
}

/// The configuration of the image below, changed into that of the new one.
fn configuration(mut config: Value, image: &NewImage, now: Timestamp) -> Value {
    let created = now.to_string();
    config["created"] = created.clone().into();
    config["author"] = image.author.clone().into();
    config["config"] = image.process.clone();
    let mut history = json!({"created": created, "created_by": image.created_by});
    if !image.author.is_empty() {
        history["author"] = image.author.clone().into();
    }
    if !image.comment.is_empty() {
        config["comment"] = image.comment.clone().into();
        history["comment"] = image.comment.clone().into();
    }
    push(&mut config["history"], history);
    push(
        &mut config["rootfs"]["diff_ids"],
        image.diff_id.clone().into(),
    );
    config
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = Value::Array(vec![item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_image() -> NewImage {
        NewImage {
            reference: None,
            base: "sha256:a".into(),
            layer: Descriptor {
                digest: "sha256:new".into(),
                ..Descriptor::default()
            },
            diff_id: "sha256:diff".into(),
            process: json!({"Cmd": ["b"]}),
            author: "me".into(),
            comment: String::new(),
            created_by: "sh".into(),
        }
    }

    #[test]
    fn a_configuration_keeps_what_it_does_not_know() {
        let old = json!({
            "architecture": "amd64",
            "variant": "v3",
            "config": {"Cmd": ["a"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:old"]},
        });
        let config = configuration(old, &new_image(), Timestamp::UNIX_EPOCH);
        assert_eq!(config["variant"], "v3");
        assert_eq!(config["config"]["Cmd"], json!(["b"]));
        assert_eq!(
            config["rootfs"]["diff_ids"],
            json!(["sha256:old", "sha256:diff"])
        );
        assert_eq!(
            config["history"],
            json!([{"created": "1970-01-01T00:00:00Z", "created_by": "sh", "author": "me"}])
        );
        assert!(config.get("comment").is_none());
    }

    #[test]
    fn the_new_layer_lies_on_top_of_the_others() {
        let manifest = json!({"layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "digest": "sha256:old",
            "size": 5,
        }]});
        let all = layers(&manifest, "sha256:a", &new_image().layer).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(
            all[0].media_type,
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        assert_eq!(all[1].digest, "sha256:new");
        assert!(layers(&json!({"layers": [1]}), "sha256:a", &new_image().layer).is_err());
    }
}
