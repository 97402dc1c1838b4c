//! Spans of time and exact moments as Docker words them.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A rough span: `Less than a second`, `About a minute`, `3 weeks` …
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let minutes = seconds / 60;
    // Hours alone are rounded, as Docker does.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".into(),
        (_, _, 0..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// The span from `then` to `now`; a moment in the future counts as now.
pub(crate) fn since(then: Timestamp, now: Timestamp) -> String {
    duration(Duration::try_from(now.duration_since(then)).unwrap_or_default())
}

/// A moment as Go's `time.Time` prints it, in UTC: `2026-11-21 05:42:04 +0000 UTC`.
pub(crate) fn moment(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
        .to_string()
}

/// A moment with nine digits of fraction: `2026-11-21T05:42:04.478809740Z`.
pub(crate) fn precise(at: Timestamp) -> String {
    format!("{at:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_worded_as_docker_words_them() {
        let table = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (59 * 60 + 59, "59 minutes"),
            (3600, "About an hour"),
            (3600 + 1799, "About an hour"),
            (3600 + 1800, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (13 * 86400, "13 days"),
            (14 * 86400, "2 weeks"),
            (59 * 86400, "8 weeks"),
            (60 * 86400, "2 months"),
            (729 * 86400, "24 months"),
            (730 * 86400, "2 years"),
        ];
        for (seconds, words) in table {
            assert_eq!(duration(Duration::from_secs(seconds)), words, "{seconds} s");
        }
    }

    #[test]
    fn a_moment_in_the_future_counts_as_now() {
        let now = Timestamp::UNIX_EPOCH;
        let later = Timestamp::from_second(50).unwrap();
        assert_eq!(since(later, now), "Less than a second");
        assert_eq!(since(now, later), "50 seconds");
    }

    #[test]
    fn moments_are_printed_as_go_prints_them() {
        let at: Timestamp = "2026-11-21T05:42:04.47880974Z".parse().unwrap();
        assert_eq!(moment(at), "2026-11-21 05:42:04 +0000 UTC");
        assert_eq!(precise(at), "2026-11-21T05:42:04.478809740Z");
    }
}
