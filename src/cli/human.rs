//! Spans of time, exact moments and sizes as Docker words them.

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

/// Bytes in powers of 1024 with four digits, as `1.836MiB`.
pub(crate) fn binary_size(bytes: u64) -> String {
    size(
        bytes,
        1024.0,
        4,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
    )
}

/// Bytes in powers of 1000 with three digits, as `1.21kB`.
pub(crate) fn decimal_size(bytes: u64) -> String {
    size(bytes, 1000.0, 3, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

#[expect(clippy::cast_precision_loss, reason = "few digits are shown")]
fn size(bytes: u64, base: f64, digits: usize, units: &[&str]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let whole = format!("{value:.0}").len().min(digits);
    let text = format!("{value:.*}", digits - whole);
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_docker_s_digits() {
        let table = [
            (0, "0B", "0B"),
            (126, "126B", "126B"),
            (1023, "1023B", "1.02kB"),
            (1210, "1.182KiB", "1.21kB"),
            (454_656, "444KiB", "455kB"),
            (1_925_120, "1.836MiB", "1.93MB"),
            (25_276_000_000, "23.54GiB", "25.3GB"),
            (u64::MAX, "16EiB", "18.4EB"),
        ];
        for (bytes, binary, decimal) in table {
            assert_eq!(binary_size(bytes), binary);
            assert_eq!(decimal_size(bytes), decimal);
        }
    }

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
