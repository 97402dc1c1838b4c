//! Restart policies and their back-off, as Docker has them. Pure: no clock, no I/O.

use std::time::Duration;

/// When an ended container starts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// Only after a failure; at most this many times in a row if given.
    OnFailure(Option<u64>),
}

impl RestartPolicy {
    /// Reads `no`, `always`, `unless-stopped` or `on-failure[:N]`; anything else is `no`, as the loader has refused it.
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => Self::OnFailure(None),
            _ => match text
                .strip_prefix("on-failure:")
                .and_then(|count| count.parse().ok())
            {
                // Docker takes a maximum of 0 as none.
                Some(0) => Self::OnFailure(None),
                Some(count) => Self::OnFailure(Some(count)),
                None => Self::No,
            },
        }
    }

    /// Whether a run that ended with `code`, after `restarts` restarts in a row, is followed by another.
    pub(super) fn applies(self, code: u32, restarts: u64) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure(maximum) => {
                code != 0 && maximum.is_none_or(|maximum| restarts < maximum)
            }
        }
    }
}

/// Delays between restarts: 100 ms, doubled up to a minute; back to the first after a run of ten seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BackOff {
    last: Option<Duration>,
}

impl BackOff {
    const FIRST: Duration = Duration::from_millis(100);
    const MAXIMUM: Duration = Duration::from_mins(1);
    const LONG_RUN: Duration = Duration::from_secs(10);

    /// The delay before the restart after a run that lasted `ran`.
    pub(super) fn next(&mut self, ran: Duration) -> Duration {
        let delay = match self.last {
            Some(last) if ran < Self::LONG_RUN => (last * 2).min(Self::MAXIMUM),
            _ => Self::FIRST,
        };
        self.last = Some(delay);
        delay
    }

    /// Begins anew, as after a start by a command.
    pub(super) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_compose_writes_them() {
        assert_eq!(RestartPolicy::parse("no"), RestartPolicy::No);
        assert_eq!(RestartPolicy::parse("always"), RestartPolicy::Always);
        assert_eq!(
            RestartPolicy::parse("unless-stopped"),
            RestartPolicy::UnlessStopped
        );
        assert_eq!(
            RestartPolicy::parse("on-failure"),
            RestartPolicy::OnFailure(None)
        );
        assert_eq!(
            RestartPolicy::parse("on-failure:3"),
            RestartPolicy::OnFailure(Some(3))
        );
        assert_eq!(
            RestartPolicy::parse("on-failure:0"),
            RestartPolicy::OnFailure(None)
        );
    }

    #[test]
    fn on_failure_counts_only_failures_and_stops_at_its_maximum() {
        let policy = RestartPolicy::OnFailure(Some(2));
        assert!(!policy.applies(0, 0));
        assert!(policy.applies(1, 1));
        assert!(!policy.applies(1, 2));
    }

    #[test]
    fn back_off_doubles_to_a_minute_and_begins_anew_after_a_long_run() {
        let mut back_off = BackOff::default();
        let short = Duration::from_secs(1);
        assert_eq!(back_off.next(short), Duration::from_millis(100));
        assert_eq!(back_off.next(short), Duration::from_millis(200));
        for _ in 0..20 {
            back_off.next(short);
        }
        assert_eq!(back_off.next(short), Duration::from_mins(1));
        assert_eq!(
            back_off.next(Duration::from_secs(11)),
            Duration::from_millis(100)
        );
    }
}
