//! How the replicas of a service are replaced while it serves: `deploy.update_config` and `deploy.rollback_config`.

use serde::{Deserialize, Serialize};

use crate::model::{Duration, Service, UpdateConfig};

/// Which of two containers of a slot comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old one is stopped, then the new one is started.
    #[default]
    StopFirst,
    /// The new one serves before the old one is stopped.
    StartFirst,
}

/// What becomes of an update when more replicas fail than may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// What is not updated yet stays as it is.
    #[default]
    Pause,
    /// The other replicas are updated all the same.
    Continue,
    /// What was updated becomes what it was.
    Rollback,
}

/// How replicas are replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdatePolicy {
    pub order: UpdateOrder,
    /// Replicas that are replaced at the same time; 0: all of them.
    pub parallelism: u64,
    /// Between two waves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// How long a new container must run (one with a health check: after it was healthy) before it counts as good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Duration>,
    pub failure_action: FailureAction,
    /// Part of the replicas that may fail.
    pub max_failure_ratio: f64,
    /// How what was updated becomes what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Box<Self>>,
}

impl UpdatePolicy {
    /// What the file says of `service`; none if it says nothing.
    pub fn of(service: &Service) -> Option<Self> {
        let deploy = service.deploy.as_ref()?;
        let update = deploy.update_config.as_ref()?;
        let rollback = deploy.rollback_config.as_ref();
        Some(Self {
            rollback: rollback.map(|config| Box::new(Self::read(config))),
            ..Self::read(update)
        })
    }

    fn read(config: &UpdateConfig) -> Self {
        Self {
            order: match config.order.as_deref() {
                Some("start-first") => UpdateOrder::StartFirst,
                _ => UpdateOrder::StopFirst,
            },
            parallelism: config.parallelism.unwrap_or(1),
            delay: config.delay,
            monitor: config.monitor,
            failure_action: match config.failure_action.as_deref() {
                Some("continue") => FailureAction::Continue,
                Some("rollback") => FailureAction::Rollback,
                _ => FailureAction::Pause,
            },
            max_failure_ratio: config.max_failure_ratio.unwrap_or_default(),
            rollback: None,
        }
    }

    /// How many of `count` replicas are in one wave.
    pub fn width(&self, count: usize) -> usize {
        match usize::try_from(self.parallelism) {
            Ok(0) | Err(_) => count.max(1),
            Ok(width) => width,
        }
    }

    /// Whether `failed` of `count` replicas are more than may fail.
    #[expect(clippy::cast_precision_loss, reason = "nobody has so many replicas")]
    pub fn has_failed(&self, failed: usize, count: usize) -> bool {
        failed > 0 && failed as f64 > self.max_failure_ratio * count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Deploy;

    fn policy(update: UpdateConfig) -> UpdatePolicy {
        let service = Service {
            deploy: Some(Deploy {
                update_config: Some(update),
                ..Deploy::default()
            }),
            ..Service::default()
        };
        UpdatePolicy::of(&service).unwrap()
    }

    #[test]
    fn what_is_not_said_is_as_in_swarm() {
        let policy = policy(UpdateConfig::default());
        assert_eq!(policy.order, UpdateOrder::StopFirst);
        assert_eq!(policy.failure_action, FailureAction::Pause);
        assert_eq!((policy.parallelism, policy.width(5)), (1, 1));
    }

    #[test]
    fn no_parallelism_is_all_at_once() {
        let policy = policy(UpdateConfig {
            parallelism: Some(0),
            ..UpdateConfig::default()
        });
        assert_eq!((policy.width(7), policy.width(0)), (7, 1));
    }

    #[test]
    fn a_service_that_says_nothing_has_no_policy() {
        assert_eq!(UpdatePolicy::of(&Service::default()), None);
    }

    #[test]
    fn a_ratio_lets_some_replicas_fail() {
        let policy = UpdatePolicy {
            max_failure_ratio: 0.5,
            ..UpdatePolicy::default()
        };
        assert!(!policy.has_failed(0, 0));
        assert!(!policy.has_failed(2, 4));
        assert!(policy.has_failed(3, 4));
        assert!(UpdatePolicy::default().has_failed(1, 100));
    }
}
