//! Work of calls that run at the same time, done together.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

#[derive(Debug)]
struct Waiting<T, E> {
    item: T,
    /// Result of the batch, for each of its callers.
    outcome: Arc<OnceLock<Result<(), E>>>,
}

/// Collects items while a batch is being worked on; whoever comes first then takes all that wait.
#[derive(Debug)]
pub(super) struct Batch<T, E> {
    waiting: Mutex<Vec<Waiting<T, E>>>,
    working: Mutex<()>,
}

impl<T, E> Default for Batch<T, E> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            working: Mutex::default(),
        }
    }
}

/// Locks; what a panicking thread left is consistent here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T, E: Clone> Batch<T, E> {
    /// Returns once `item` was part of a batch that `work` (of this or another caller) was called for.
    pub(super) fn run(&self, item: T, work: impl FnOnce(Vec<T>) -> Result<(), E>) -> Result<(), E> {
        let outcome = Arc::new(OnceLock::new());
        lock(&self.waiting).push(Waiting {
            item,
            outcome: Arc::clone(&outcome),
        });
        let working = lock(&self.working);
        if let Some(done) = outcome.get() {
            return done.clone();
        }
        let (items, outcomes): (Vec<T>, Vec<_>) = std::mem::take(&mut *lock(&self.waiting))
            .into_iter()
            .map(|waiting| (waiting.item, waiting.outcome))
            .unzip();
        let result = work(items);
        for outcome in outcomes {
            outcome.get_or_init(|| result.clone());
        }
        drop(working);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_most_together() {
        let batch: Batch<i32, ()> = Batch::default();
        let seen = Mutex::new((BTreeSet::new(), 0));
        std::thread::scope(|scope| {
            for number in 0..40 {
                let (batch, seen) = (&batch, &seen);
                scope.spawn(move || {
                    let outcome = batch.run(number, |items| {
                        std::thread::sleep(Duration::from_millis(20));
                        let mut seen = lock(seen);
                        seen.1 += 1;
                        for item in items {
                            assert!(seen.0.insert(item), "{item} comes twice");
                        }
                        Ok(())
                    });
                    assert_eq!(outcome, Ok(()));
                    assert!(lock(seen).0.contains(&number));
                });
            }
        });
        let (items, batches) = seen.into_inner().expect("no panic");
        assert_eq!(items.len(), 40);
        assert!(batches < 20, "{batches} batches");
    }

    #[test]
    fn a_failure_is_told_to_all_of_the_batch_and_no_one_else() {
        let batch = Batch::default();
        assert_eq!(batch.run(1, |_| Err("no")), Err("no"));
        assert_eq!(
            batch.run(2, |items| if items == [2] { Ok(()) } else { Err("stale") }),
            Ok(())
        );
    }
}
