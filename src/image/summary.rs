//! What users see of an image.

use jiff::Timestamp;

use super::choice::{Chosen, Stored, read_image};
use super::config::chain_ids;
use super::name::Reference;
use super::pull::PULLED_LABEL;
use super::{ImageError, Images};
use crate::engine::{Descriptor, EngineError};

/// An image in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Digest of its configuration: Docker's image id.
    pub id: String,
    /// As `linux/amd64`.
    pub platform: String,
    /// Bytes of its layers, unpacked; packed where they are not.
    pub size: u64,
    pub created: Option<Timestamp>,
    /// When its name was last pulled, if we did it.
    pub pulled: Option<Timestamp>,
}

impl Images {
    /// The image whose manifest has `digest`; without one, what `reference` points to. `None` if it is not here.
    pub async fn summary(
        &self,
        reference: &str,
        digest: &str,
    ) -> Result<Option<ImageSummary>, ImageError> {
        let record = self.engine.image(reference).await?;
        let digest = match (digest, &record) {
            ("", Some(record)) => record.target.digest.clone(),
            (digest, _) => digest.to_owned(),
        };
        if digest.is_empty() {
            return Ok(None);
        }
        let target = Descriptor {
            digest,
            ..Descriptor::default()
        };
        let documents = Stored {
            engine: &self.engine,
            reference,
        };
        let Some((manifest, document)) = read_image(&documents, reference, &target).await? else {
            return Ok(None);
        };
        let mut unpacked = Some(0_u64);
        for chain_id in chain_ids(document.diff_ids()) {
            let usage = match self.engine.snapshot_size(&chain_id).await {
                Ok(size) => Some(size),
                Err(EngineError::NotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            unpacked = unpacked.zip(usage).map(|(sum, usage)| sum + usage);
        }
        let image = Chosen {
            target,
            manifest,
            document,
        }
        .image(reference);
        let pulled = record.and_then(|record| record.labels.get(PULLED_LABEL)?.parse().ok());
        Ok(Some(ImageSummary {
            size: unpacked.unwrap_or(image.size),
            created: image.created.and_then(|created| created.parse().ok()),
            id: image.id,
            platform: image.platform,
            pulled,
        }))
    }
}

/// Repository and tag as Docker shows them: its own registry goes without saying.
pub fn familiar(reference: &str) -> (String, String) {
    let Ok(name) = Reference::parse(reference) else {
        return (String::new(), String::new());
    };
    let repository = match (
        name.registry.as_str(),
        name.repository.strip_prefix("library/"),
    ) {
        ("docker.io", Some(short)) => short.to_owned(),
        ("docker.io", None) => name.repository,
        (registry, _) => format!("{registry}/{}", name.repository),
    };
    (repository, name.tag.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_people_write_them() {
        let pair = |repository: &str, tag: &str| (repository.to_owned(), tag.to_owned());
        assert_eq!(familiar("docker.io/library/a:1"), pair("a", "1"));
        assert_eq!(familiar("docker.io/a/b:latest"), pair("a/b", "latest"));
        assert_eq!(
            familiar("localhost:5000/a:1"),
            pair("localhost:5000/a", "1")
        );
        let digest = format!("ghcr.io/a@sha256:{}", "a".repeat(64));
        assert_eq!(familiar(&digest), pair("ghcr.io/a", ""));
    }
}
