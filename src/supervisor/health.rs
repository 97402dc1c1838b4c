//! The health state machine, as Docker has it. Pure: no clock, no I/O.

use std::time::Duration;

use crate::model::Healthcheck;
use crate::state::{Health, HealthStatus, Probe};

/// Probes kept in [`Health::log`].
const LOG_LENGTH: usize = 5;

/// A probe and its timing, every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ProbeSettings {
    /// Command to run in the container; a `CMD-SHELL` test is wrapped in `/bin/sh -c`.
    pub(super) command: Vec<String>,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) retries: u64,
    pub(super) start_period: Duration,
    pub(super) start_interval: Duration,
}

impl ProbeSettings {
    /// The probe of a container; none if it has none or has it switched off.
    pub(super) fn new(healthcheck: Option<&Healthcheck>) -> Option<Self> {
        let healthcheck = healthcheck.filter(|healthcheck| !healthcheck.disable)?;
        let (kind, arguments) = healthcheck.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" if !arguments.is_empty() => arguments.to_vec(),
            "CMD-SHELL" if !arguments.is_empty() => {
                vec!["/bin/sh".into(), "-c".into(), arguments.join(" ")]
            }
            _ => return None,
        };
        let or = |value: Option<crate::model::Duration>, default| match value {
            Some(value) if value.0 > 0 => value.to_std(),
            _ => default,
        };
        let thirty = Duration::from_secs(30);
        Some(Self {
            command,
            interval: or(healthcheck.interval, thirty),
            timeout: or(healthcheck.timeout, thirty),
            retries: healthcheck
                .retries
                .filter(|retries| *retries > 0)
                .unwrap_or(3),
            start_period: or(healthcheck.start_period, Duration::ZERO),
            start_interval: or(healthcheck.start_interval, Duration::from_secs(5)),
        })
    }

    /// Time until the next probe of a container that has run for `ran`.
    pub(super) fn delay(&self, health: &Health, ran: Duration) -> Duration {
        if health.status == HealthStatus::Starting && ran < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }

    /// Takes the result of a probe of a container that had run for `ran` when the probe began. True if the status changed.
    pub(super) fn record(&self, health: &mut Health, probe: Probe, ran: Duration) -> bool {
        let before = health.status;
        if probe.exit_code == 0 {
            health.failing_streak = 0;
            health.status = HealthStatus::Healthy;
        } else if before != HealthStatus::Starting || ran >= self.start_period {
            health.failing_streak += 1;
            if health.failing_streak >= self.retries {
                health.status = HealthStatus::Unhealthy;
            }
        }
        health.log.push(probe);
        let surplus = health.log.len().saturating_sub(LOG_LENGTH);
        health.log.drain(..surplus);
        health.status != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ProbeSettings {
        ProbeSettings::new(Some(&Healthcheck {
            test: vec!["CMD-SHELL".into(), "true".into()],
            retries: Some(2),
            start_period: Some(crate::model::Duration::from_secs(10)),
            ..Healthcheck::default()
        }))
        .unwrap()
    }

    fn probe(exit_code: i32) -> Probe {
        let now = jiff::Timestamp::UNIX_EPOCH;
        Probe {
            start: now,
            end: now,
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let settings = settings();
        let mut health = Health::default();
        for _ in 0..5 {
            assert!(!settings.record(&mut health, probe(1), Duration::from_secs(1)));
        }
        assert_eq!(health.failing_streak, 0);
        settings.record(&mut health, probe(1), Duration::from_secs(11));
        assert!(settings.record(&mut health, probe(1), Duration::from_secs(12)));
        assert_eq!(health.status, HealthStatus::Unhealthy);
        assert_eq!(health.log.len(), 5);
    }

    #[test]
    fn a_success_ends_the_start_period_and_the_streak() {
        let settings = settings();
        let mut health = Health::default();
        assert!(settings.record(&mut health, probe(0), Duration::from_secs(1)));
        settings.record(&mut health, probe(1), Duration::from_secs(2));
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Healthy, 1)
        );
        settings.record(&mut health, probe(1), Duration::from_secs(3));
        assert_eq!(health.status, HealthStatus::Unhealthy);
        assert!(settings.record(&mut health, probe(0), Duration::from_secs(4)));
        assert_eq!(health.failing_streak, 0);
    }

    #[test]
    fn the_start_interval_is_used_only_while_starting() {
        let settings = settings();
        let mut health = Health::default();
        assert_eq!(
            settings.delay(&health, Duration::from_secs(1)),
            Duration::from_secs(5)
        );
        assert_eq!(
            settings.delay(&health, Duration::from_secs(11)),
            Duration::from_secs(30)
        );
        health.status = HealthStatus::Healthy;
        assert_eq!(
            settings.delay(&health, Duration::from_secs(1)),
            Duration::from_secs(30)
        );
    }

    #[test]
    fn a_test_of_none_is_no_probe() {
        let none = Healthcheck {
            test: vec!["NONE".into()],
            ..Healthcheck::default()
        };
        assert_eq!(ProbeSettings::new(Some(&none)), None);
    }
}
