//! What is told of the layers of an image while they are moved.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::digest_hex;

/// What happens to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerPhase {
    /// Its turn has not come.
    Pending,
    Downloading,
    Downloaded,
    Extracting,
    Pulled,
    Present,
    Preparing,
    Pushing,
    Pushed,
    Mounted,
    Stored,
}

impl LayerPhase {
    /// Docker's words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Pending => "Pulling fs layer",
            Self::Downloading => "Downloading",
            Self::Downloaded => "Download complete",
            Self::Extracting => "Extracting",
            Self::Pulled => "Pull complete",
            Self::Present => "Already exists",
            Self::Preparing => "Preparing",
            Self::Pushing => "Pushing",
            Self::Pushed => "Pushed",
            Self::Mounted => "Mounted",
            Self::Stored => "Layer already exists",
        }
    }

    /// Whether nothing follows.
    pub const fn is_end(self) -> bool {
        matches!(
            self,
            Self::Pulled | Self::Present | Self::Pushed | Self::Mounted | Self::Stored
        )
    }
}

/// How far a layer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerProgress {
    /// As the file names it.
    pub image: String,
    /// First digits of its digest, as Docker shows them.
    pub layer: String,
    pub phase: LayerPhase,
    /// Bytes moved so far.
    pub current: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Who is told.
pub type Tell = Arc<dyn Fn(LayerProgress) + Send + Sync>;

/// As `1c3b2a4d5e6f`.
pub(super) fn short(digest: &str) -> &str {
    let digits = digest_hex(digest).unwrap_or(digest);
    digits.get(..12).unwrap_or(digits)
}
