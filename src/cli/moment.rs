//! Moments as options take them: `--since`, `--until`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::error::CommandError;

/// A timestamp, seconds since 1970, or a time before `now`.
pub(crate) fn moment(
    option: &str,
    text: Option<&str>,
    now: Timestamp,
) -> Result<Option<Timestamp>, CommandError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| local(text))
        .or_else(|| unix(text))
        .or_else(|| now.checked_sub(duration(text)?).ok());
    parsed.map(Some).ok_or_else(|| {
        CommandError::usage(format!(
            "invalid value for \"{option}\": failed to parse value as time or duration: \"{text}\""
        ))
    })
}

/// A date, or a date and a time, without a zone: local time.
fn local(text: &str) -> Option<Timestamp> {
    let zone = jiff::tz::TimeZone::system();
    let date = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(Into::into))
        .ok()?;
    Some(date.to_zoned(zone).ok()?.timestamp())
}

fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9.9}").parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}

/// Go's durations: `1h30m`, `1.5h`, `300ms`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::try_from_secs_f64(value * seconds).ok()?)?;
    }
    SignedDuration::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_absolute_or_before_now() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |text: &str| moment("since", Some(text), now).unwrap().unwrap();
        assert_eq!(
            at("2026-01-02T13:23:37Z").to_string(),
            "2026-01-02T13:23:37Z"
        );
        assert_eq!(
            at("2026-01-02T13:23:37+02:00").to_string(),
            "2026-01-02T11:23:37Z"
        );
        assert_eq!(at("500000").as_second(), 500_000);
        assert_eq!(at("500000.25").as_millisecond(), 500_000_250);
        assert_eq!(at("1h").as_second(), 996_400);
        assert_eq!(at("1.5h").as_second(), 994_600);
        assert_eq!(at("1m30s").as_second(), 999_910);
        assert_eq!(at("1500ms").as_millisecond(), 999_998_500);
        assert!(moment("since", Some("2026-01-02"), now).is_ok());
        assert!(moment("since", None, now).unwrap().is_none());
        let refused = moment("since", Some("nonsense"), now).unwrap_err();
        assert_eq!(
            refused.text(false),
            "error: invalid value for \"since\": failed to parse value as time or duration: \"nonsense\"\n"
        );
    }

    proptest! {
        #[test]
        fn no_moment_panics(text in "[0-9hmsnuµ.+T:Z-]{0,20}") {
            moment("since", Some(&text), Timestamp::UNIX_EPOCH).ok();
        }
    }
}
