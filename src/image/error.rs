//! Why an image cannot be had, and what the user may do about it.

use std::path::PathBuf;

use thiserror::Error;

use super::RegistryError;
use crate::engine::EngineError;

/// An image could not be had.
#[derive(Debug, Error)]
pub enum ImageError {
    #[error("`{reference}` is not an image reference")]
    InvalidReference {
        reference: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("image `{reference}` is not in containerd's store")]
    Missing { reference: String },
    #[error(
        "image `{reference}` is not in containerd's store, and its `pull_policy` is `{policy}`"
    )]
    NotPulled { reference: String, policy: String },
    #[error("cannot pull image `{reference}`")]
    Pull {
        reference: String,
        #[source]
        source: RegistryError,
    },
    #[error("cannot push image `{reference}`")]
    Push {
        reference: String,
        #[source]
        source: RegistryError,
    },
    #[error("`{reference}` is no image but `{kind}`")]
    NotAnImage { reference: String, kind: String },
    #[error("image `{reference}` has a layer of the kind `{kind}`, which cannot be unpacked")]
    LayerKind { reference: String, kind: String },
    #[error("image `{reference}` is in the first Docker format, which containerd does not run")]
    FirstFormat { reference: String },
    #[error("image `{reference}` has no variant for {platform}")]
    NoPlatform { reference: String, platform: String },
    #[error("cannot import {}", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("image `{reference}` is damaged")]
    Damaged {
        reference: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ImageError {
    /// What the user may do about it; often empty.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::InvalidReference { reference, .. }
                if reference.chars().any(char::is_uppercase) =>
            {
                vec![format!(
                    "repository names are lower case: `{}`",
                    reference.to_lowercase()
                )]
            }
            Self::Missing { .. } => vec![
                "bring it in with `compose pull` or `ctr image import FILE`, \
                 or name an archive: `image: oci-archive:FILE`"
                    .into(),
            ],
            Self::NotPulled { .. } => {
                vec![
                    "bring it in with `compose pull --policy missing`, or change the policy".into(),
                ]
            }
            Self::Pull { source, .. } | Self::Push { source, .. } => source.hints(),
            Self::NotAnImage { .. } => {
                vec!["registries also hold charts, signatures and other artifacts, which cannot be run".into()]
            }
            Self::LayerKind { .. } => vec!["it is encrypted or of a format of its own".into()],
            Self::FirstFormat { .. } => {
                vec!["pull it with a current tool and push it again: that converts it".into()]
            }
            Self::NoPlatform { .. } => {
                vec!["`platform:` of the service chooses among the variants of an image".into()]
            }
            Self::Damaged { reference, .. } => vec![format!(
                "remove it with `ctr image rm {reference}` and bring it in again"
            )],
            Self::Engine(error) => error.hints(),
            Self::InvalidReference { .. } | Self::Archive { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upper_case_name_gets_its_lower_case_form_as_hint() {
        let error = ImageError::InvalidReference {
            reference: "BusyBox".into(),
            source: "invalid".into(),
        };
        assert!(error.hints()[0].contains("`busybox`"));
    }
}
