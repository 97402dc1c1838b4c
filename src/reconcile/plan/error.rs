//! Why no plan could be made.

use thiserror::Error;

use crate::graph::Cycle;

/// No plan could be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// `similar`: a name that was probably meant.
    #[error("no such service: {name}")]
    UnknownService {
        name: String,
        similar: Option<String>,
    },
    #[error("network `{network}` is declared as external, but does not exist")]
    MissingNetwork { network: String },
    #[error("volume `{volume}` is declared as external, but does not exist")]
    MissingVolume { volume: String },
    #[error("services `{first}` and `{second}` both want the container name `{name}`")]
    DuplicateName {
        name: String,
        first: String,
        second: String,
    },
    /// `project`: the one that the container `id` is of, if it is of one.
    #[error("the container name `{name}` is already in use by container {id}{}", project.as_ref().map(|project| format!(" of project `{project}`")).unwrap_or_default())]
    NameInUse {
        name: String,
        id: String,
        project: Option<String>,
    },
    #[error("service `{service}` cannot have {replicas} replicas with the container name `{name}`")]
    NameWithReplicas {
        service: String,
        name: String,
        replicas: u32,
    },
    #[error("service `{service}` has no container to start")]
    NoContainer { service: String },
    #[error(transparent)]
    Cycle(#[from] Cycle),
}

impl PlanError {
    /// What the user can do about it.
    pub fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::UnknownService {
                similar: Some(similar),
                ..
            } => {
                format!("did you mean `{similar}`?")
            }
            Self::MissingNetwork { network } => {
                format!("bring up the project that has it, or leave `external` out for `{network}`")
            }
            Self::MissingVolume { volume } => {
                format!("make it first, or leave `external` out for `{volume}`")
            }
            Self::NoContainer { service } => format!("`compose up {service}` makes it"),
            Self::NameWithReplicas { service, .. } => {
                format!("remove `container_name` of `{service}`, or ask for one replica")
            }
            Self::NameInUse { .. } => "remove that container, or choose another name".into(),
            Self::UnknownService { .. } | Self::DuplicateName { .. } | Self::Cycle(_) => {
                return Vec::new();
            }
        };
        vec![hint]
    }
}

/// Refuses a name that is not one of `known`.
pub(super) fn require_services<'a>(
    names: &[String],
    known: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), PlanError> {
    match names
        .iter()
        .find(|name| !known.clone().any(|known| known == *name))
    {
        None => Ok(()),
        Some(name) => Err(PlanError::UnknownService {
            name: name.clone(),
            similar: similar(name, known),
        }),
    }
}

fn similar<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= name.len().max(candidate.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}
