//! How many health probes begin at a time: beginning one keeps a processor busy for longer than most of them run.

use std::thread::available_parallelism;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Of containers whose health is in question.
const URGENT: usize = 8;

/// Gives turns to begin a probe.
#[derive(Debug)]
pub(super) struct Pace {
    urgent: Semaphore,
    /// Of containers that are well. They leave half of the processors to what they look after.
    routine: Semaphore,
}

impl Pace {
    pub(super) fn new() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self {
            urgent: Semaphore::new(URGENT),
            routine: Semaphore::new((processors / 2).max(1)),
        }
    }

    /// Waits for a turn, which is over when what is returned is dropped. Cancel-safe.
    pub(super) async fn turn(&self, is_routine: bool) -> Option<SemaphorePermit<'_>> {
        let turns = if is_routine {
            &self.routine
        } else {
            &self.urgent
        };
        // Never closed.
        turns.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn those_that_are_well_keep_nobody_waiting_whose_health_is_in_question() {
        let pace = Pace::new();
        let turns: Vec<_> = std::iter::from_fn(|| pace.turn(true).now_or_never()).collect();
        assert!(!turns.is_empty());
        assert!(pace.turn(true).now_or_never().is_none());
        assert!(pace.turn(false).now_or_never().is_some());
        drop(turns);
        assert!(pace.turn(true).now_or_never().is_some());
    }
}
