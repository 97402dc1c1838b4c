//! Waiting until changes have come to rest: who saves one file often saves several.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// When changes were noticed that nothing was done about yet.
#[derive(Debug)]
pub(super) struct Debounce {
    /// Time without a change that is rest.
    quiet: Duration,
    /// Time from the first change after which it is not waited any longer.
    patience: Duration,
    /// The first and the last of them.
    noticed: Option<(Instant, Instant)>,
}

impl Debounce {
    pub(super) const fn new(quiet: Duration, patience: Duration) -> Self {
        Self {
            quiet,
            patience,
            noticed: None,
        }
    }

    /// There was a change.
    pub(super) fn notice(&mut self) {
        let now = Instant::now();
        self.noticed = Some((self.noticed.map_or(now, |(first, _)| first), now));
    }

    /// What there was is answered.
    pub(super) fn clear(&mut self) {
        self.noticed = None;
    }

    /// When what there was is at rest, or has lasted too long; `None` if there was nothing.
    fn due(&self) -> Option<Instant> {
        self.noticed
            .map(|(first, last)| (last + self.quiet).min(first + self.patience))
    }

    pub(super) fn is_over(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now())
    }

    /// Returns when what there was is at rest; never if there was nothing. Cancel-safe: the time does not change.
    pub(super) async fn over(&self) {
        match self.due() {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn it_is_over_a_while_after_the_last_change() {
        let mut debounce = Debounce::new(QUIET, PATIENCE);
        assert!(!debounce.is_over());
        debounce.notice();
        tokio::time::advance(QUIET / 2).await;
        debounce.notice();
        let began = Instant::now();
        debounce.over().await;
        assert_eq!(began.elapsed(), QUIET);
        assert!(debounce.is_over());
        debounce.clear();
        assert!(!debounce.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn changes_without_end_are_not_waited_for() {
        let mut debounce = Debounce::new(QUIET, PATIENCE);
        let began = Instant::now();
        while !debounce.is_over() {
            debounce.notice();
            tokio::time::advance(QUIET / 2).await;
        }
        assert_eq!(began.elapsed(), PATIENCE);
    }
}
