//! How often and how long something is tried again.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::RegistryError;

/// Attempts in a row without anything gained.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; twice as long before each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// A server that asks for more gets an error that says so: nobody sits before a terminal for so long.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Counts attempts.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failed: u32,
}

impl Patience {
    /// Something was gained: counts afresh.
    pub(super) fn renew(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt, `asked` as the server wants it; gives `error` back if it was the last.
    pub(super) async fn wait(
        &mut self,
        error: RegistryError,
        asked: Option<Duration>,
    ) -> Result<(), RegistryError> {
        match self.next(asked) {
            Some(wait) => {
                tracing::debug!(%error, ?wait, "trying again");
                tokio::time::sleep(wait).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= ATTEMPTS || asked.is_some_and(|asked| asked > LONGEST_WAIT) {
            return None;
        }
        let own = FIRST_WAIT * 2_u32.pow(self.failed - 1);
        // Many who were turned away together must not come back together.
        let nanoseconds = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| now.subsec_nanos());
        let spread = own.mul_f64(f64::from(nanoseconds % 1000) / 4000.0);
        Some(asked.unwrap_or(own) + spread)
    }
}

/// What the server asks to wait: seconds or a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = date.duration_since(Timestamp::now());
    Some(Duration::try_from(wait).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let mut patience = Patience::default();
        let waits: Vec<Duration> = std::iter::from_fn(|| patience.next(None)).collect();
        assert_eq!(waits.len(), 4);
        assert!(waits[0] >= FIRST_WAIT && waits[3] >= FIRST_WAIT * 8);
        assert!(waits[3] <= FIRST_WAIT * 10);
        patience.renew();
        assert!(patience.next(None).is_some());
    }

    #[test]
    fn the_server_s_word_counts_unless_it_is_too_long() {
        let mut patience = Patience::default();
        assert!(patience.next(Some(Duration::from_secs(7))).unwrap() >= Duration::from_secs(7));
        assert_eq!(patience.next(Some(Duration::from_hours(1))), None);
    }

    #[test]
    fn seconds_and_dates_are_understood() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("3"), Some(Duration::from_secs(3)));
        assert_eq!(read("soon"), None);
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(read("Wed, 21 Oct 2099 07:28:00 GMT").unwrap() > Duration::from_hours(1));
    }
}
