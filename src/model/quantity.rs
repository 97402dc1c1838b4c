//! Quantities with Compose's own grammars: durations and byte sizes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of time in nanoseconds, written as Compose writes it (`1m30s`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub i64);

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("`{0}` is not a duration")]
    Invalid(String),
    #[error("`{text}` lacks a unit after `{number}`")]
    MissingUnit { text: String, number: String },
    #[error("`{unit}` in `{text}` is not a unit of time")]
    UnknownUnit { text: String, unit: String },
    #[error("`{0}` is too long")]
    TooLong(String),
}

const UNITS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

impl Duration {
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// The standard type; a negative span is zero.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.max(0).unsigned_abs())
    }
}

/// Numbers with units, as in `1h30m`, `1.5s`, `2w3d`; a bare `0` needs no unit.
impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let is_number = |character: char| character.is_ascii_digit() || character == '.';
            let number = &rest[..rest.find(|c| !is_number(c)).unwrap_or(rest.len())];
            rest = &rest[number.len()..];
            let unit = &rest[..rest.find(is_number).unwrap_or(rest.len())];
            rest = &rest[unit.len()..];
            if number.is_empty() {
                return Err(invalid());
            }
            if unit.is_empty() {
                return Err(DurationError::MissingUnit {
                    text: text.to_owned(),
                    number: number.to_owned(),
                });
            }
            let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(DurationError::UnknownUnit {
                    text: text.to_owned(),
                    unit: unit.trim().to_owned(),
                });
            };
            let too_long = || DurationError::TooLong(text.to_owned());
            let part = scaled(number, *factor).ok_or_else(invalid)?;
            total = total.checked_add(part).ok_or_else(too_long)?;
            if total > i128::from(i64::MAX) {
                return Err(too_long());
            }
        }
        let total = if negative { -total } else { total };
        i64::try_from(total)
            .map(Self)
            .map_err(|_| DurationError::TooLong(text.to_owned()))
    }
}

/// A decimal number times a factor, rounded down.
fn scaled(number: &str, factor: i64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    // More digits than these make no difference in nanoseconds.
    let whole = whole.trim_start_matches('0');
    let fraction = &fraction[..fraction.len().min(18)];
    let digits = |text: &str| -> Option<i128> {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse().ok()
        }
    };
    let factor = i128::from(factor);
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let whole = digits(whole)?.checked_mul(factor)?;
    whole.checked_add(digits(fraction)?.checked_mul(factor)? / scale)
}

/// As Go prints durations: `1h30m0s`, `1.5s`, `200ms`, `0s`.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanoseconds = self.0.unsigned_abs();
        for (limit, factor, unit) in [
            (1_000, 1, "ns"),
            (1_000_000, 1_000, "µs"),
            (1_000_000_000, 1_000_000, "ms"),
        ] {
            if nanoseconds < limit {
                return write!(f, "{}{unit}", decimal(nanoseconds, factor));
            }
        }
        let seconds = nanoseconds / 1_000_000_000;
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let rest = decimal(nanoseconds % 60_000_000_000, 1_000_000_000);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if seconds >= 60 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{rest}s")
    }
}

/// `value / factor` with as many decimals as it needs.
fn decimal(value: u64, factor: u64) -> String {
    let (whole, rest) = (value / factor, value % factor);
    if rest == 0 {
        return whole.to_string();
    }
    let width = factor.ilog10() as usize;
    let fraction = format!("{rest:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(Self)
    }
}

/// A text that is no number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    #[error("`{0}` is not a number of bytes")]
    Invalid(String),
    #[error("`{suffix}` in `{text}` is not a unit of bytes")]
    UnknownUnit { text: String, suffix: String },
}

/// The text without underscores between digits, which Go allows in numbers.
pub(crate) fn without_separators(text: &str) -> Cow<'_, str> {
    if !text.contains('_') {
        return text.into();
    }
    let bytes = text.as_bytes();
    let is_digit = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at))
            .is_some_and(u8::is_ascii_digit)
    };
    let separates = |at: usize| is_digit(at.checked_sub(1)) && is_digit(Some(at + 1));
    text.char_indices()
        .filter(|(at, character)| *character != '_' || !separates(*at))
        .map(|(_, character)| character)
        .collect()
}

/// Reads a number of bytes: an integer, or a number with a unit of 1024 steps in either case, as in
/// `64m`, `1.5 GiB`, `512kb`.
pub fn parse_bytes(text: &str) -> Result<i64, BytesError> {
    if let Ok(bytes) = text.parse() {
        return Ok(bytes);
    }
    let joined = without_separators(text);
    let text = joined.as_ref();
    let invalid = || BytesError::Invalid(text.to_owned());
    let last = text
        .rfind(|character: char| character.is_ascii_digit() || matches!(character, '.' | ' '))
        .ok_or_else(invalid)?;
    let suffix = &text[last + 1..];
    let number = text[..=last].strip_suffix(' ').unwrap_or(&text[..=last]);
    // As in the reference there may be an exponent, but nothing negative.
    let starts = number.starts_with(|first: char| first.is_ascii_digit() || "+.".contains(first));
    let size: f64 = number.parse().ok().filter(|_| starts).ok_or_else(invalid)?;
    let lower = suffix.to_ascii_lowercase();
    let power = match lower.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => {
            return Err(BytesError::UnknownUnit {
                text: text.to_owned(),
                suffix: suffix.to_owned(),
            });
        }
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fractions of a byte are dropped and huge sizes saturate, as in the reference"
    )]
    let bytes = (size * 1024_f64.powi(power)) as i64;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_and_print_as_in_the_reference() {
        for (text, printed) in [
            ("0", "0s"),
            ("10s", "10s"),
            ("1m30s", "1m30s"),
            ("90s", "1m30s"),
            ("1.5h", "1h30m0s"),
            ("1h5m30s20ms", "1h5m30.02s"),
            ("1d", "24h0m0s"),
            ("1w", "168h0m0s"),
            ("200ms", "200ms"),
            ("1500us", "1.5ms"),
            ("3ns", "3ns"),
            ("-1s", "-1s"),
            (".5s", "500ms"),
            ("1ms1s", "1.001s"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_durations_are_errors() {
        for text in [
            "",
            "soon",
            "10 parsecs",
            "5",
            "s",
            ".s",
            "1..5s",
            "1s5",
            "999999w",
            "1ns170141183460469231731687303715884105727ns",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_count_in_steps_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("-1", -1),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("1kb", 1024),
            ("1.5GiB", 3 << 29),
            ("2 g", 2 << 30),
            ("10b", 10),
            ("1p", 1 << 50),
            ("1_000k", 1_024_000),
            ("1e3k", 1_024_000),
            ("+1k", 1024),
            ("1e3", 1000),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_sizes_are_errors() {
        for text in [
            "", "size", "1zb", "1kbb", "-1m", "-1.5", "1bb", "1 2", ".", "e3", "1ek",
        ] {
            assert!(parse_bytes(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(nanoseconds in 0..i64::MAX) {
            let duration = Duration(nanoseconds);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_grammars_panic(text in "\\PC*") {
            text.parse::<Duration>().ok();
            parse_bytes(&text).ok();
        }
    }
}
