//! When an image is pulled: `pull_policy` and `--pull`.

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A policy that there is not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a pull policy; it is one of always, never, missing, if_not_present, build, refresh, daily, weekly, every_<duration>"
)]
pub struct InvalidPolicy(pub String);

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    Never,
    #[default]
    Missing,
    /// It is built, not pulled.
    Build,
    /// If the last pull is as long ago.
    Every(SignedDuration),
}

/// Why an image is looked up in its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is not on this host.
    Missing,
    /// The policy wants it each time.
    Always,
    /// The last pull is too long ago, or unknown.
    Due,
}

impl PullPolicy {
    pub fn parse(text: &str) -> Result<Self, InvalidPolicy> {
        let invalid = || InvalidPolicy(text.to_owned());
        Ok(match text {
            "" | "missing" | "if_not_present" => Self::Missing,
            "always" | "refresh" => Self::Always,
            "never" => Self::Never,
            "build" => Self::Build,
            "daily" => Self::Every(DAY),
            "weekly" => Self::Every(DAY * 7),
            _ => {
                let duration = text.strip_prefix("every_").ok_or_else(invalid)?;
                Self::Every(span(duration).ok_or_else(invalid)?)
            }
        })
    }

    /// Whether and why the image is to be looked up; `pulled`: when that was last done.
    pub fn cause(self, present: bool, pulled: Option<Timestamp>, now: Timestamp) -> Option<Cause> {
        match (self, present) {
            (Self::Always, _) => Some(Cause::Always),
            (Self::Never | Self::Build, _) | (Self::Missing, true) => None,
            (Self::Missing | Self::Every(_), false) => Some(Cause::Missing),
            (Self::Every(span), true) => {
                let is_due = pulled.is_none_or(|pulled| now.duration_since(pulled) > span);
                is_due.then_some(Cause::Due)
            }
        }
    }
}

/// Weeks, days, hours, minutes and seconds, as `1w2d3h`.
fn span(text: &str) -> Option<SignedDuration> {
    let mut total = SignedDuration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let length = rest.find(|character: char| !character.is_ascii_digit())?;
        let count: i64 = rest[..length].parse().ok()?;
        let mut characters = rest[length..].chars();
        let seconds: i64 = match characters.next()? {
            'w' => 7 * 24 * 3600,
            'd' => 24 * 3600,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        let part = SignedDuration::from_secs(count.checked_mul(seconds)?);
        total = total.checked_add(part)?;
        rest = characters.as_str();
    }
    (total > SignedDuration::ZERO).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> PullPolicy {
        PullPolicy::parse(text).unwrap()
    }

    #[test]
    fn all_policies_of_the_specification_are_known() {
        assert_eq!(policy("if_not_present"), PullPolicy::Missing);
        assert_eq!(policy("daily"), PullPolicy::Every(DAY));
        assert_eq!(policy("weekly"), PullPolicy::Every(DAY * 7));
        let hours = |hours| PullPolicy::Every(SignedDuration::from_hours(hours));
        assert_eq!(policy("every_12h"), hours(12));
        assert_eq!(policy("every_1w2d"), hours(9 * 24));
        for wrong in [
            "sometimes",
            "every_",
            "every_h",
            "every_3x",
            "every_0s",
            "Always",
        ] {
            assert!(PullPolicy::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_policy_says_when_to_ask_the_registry() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let hours_ago = |hours| Some(now - SignedDuration::from_hours(hours));
        let cause = |text, present, pulled| policy(text).cause(present, pulled, now);
        assert_eq!(cause("missing", true, None), None);
        assert_eq!(cause("missing", false, None), Some(Cause::Missing));
        assert_eq!(cause("always", true, hours_ago(0)), Some(Cause::Always));
        assert_eq!(cause("never", false, None), None);
        assert_eq!(cause("build", false, None), None);
        assert_eq!(cause("daily", true, hours_ago(23)), None);
        assert_eq!(cause("daily", true, hours_ago(25)), Some(Cause::Due));
        assert_eq!(cause("daily", true, None), Some(Cause::Due));
        assert_eq!(cause("daily", false, hours_ago(1)), Some(Cause::Missing));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(every_)?[0-9wdhmsx]{0,30}") {
            let _any = PullPolicy::parse(&text);
        }
    }
}
