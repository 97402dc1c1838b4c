//! A container's output as it comes, for those who are attached to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::record::Origin;

/// Bytes that wait for the slowest of those attached before the container has to wait for it, as it would for a pipe.
const ROOM: usize = 1 << 20;

/// Bytes that were written at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub origin: Origin,
    pub bytes: Arc<[u8]>,
}

/// All who are attached to one container.
#[derive(Clone, Debug, Default)]
pub struct Taps(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queues: Mutex<Vec<Weak<Queue>>>,
    /// Somebody has taken something, or is gone.
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taps {
    /// Attaches somebody: gets everything from now on, over restarts of the container.
    pub fn open(&self) -> Tap {
        let queue = Arc::new(Queue::default());
        self.queues().push(Arc::downgrade(&queue));
        Tap {
            queue,
            shared: Arc::clone(&self.0),
        }
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Weak<Queue>>> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `bytes` to all who are attached.
    pub(super) fn put(&self, origin: Origin, bytes: &[u8]) {
        let mut queues = self.queues();
        queues.retain(|queue| queue.strong_count() > 0);
        if queues.is_empty() || bytes.is_empty() {
            return;
        }
        let chunk = Chunk {
            origin,
            bytes: bytes.into(),
        };
        for queue in queues.iter().filter_map(Weak::upgrade) {
            let mut waiting = queue.lock();
            waiting.bytes += bytes.len();
            waiting.chunks.push_back(chunk.clone());
            queue.more.notify_one();
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let queues = self.queues();
        { queues.iter().filter_map(Weak::upgrade) }.all(|queue| queue.lock().bytes < ROOM)
    }

    /// Returns when the slowest has caught up. Cancel-safe.
    pub(super) async fn room(&self) {
        loop {
            let taken = self.0.room.notified();
            if self.has_room() {
                return;
            }
            taken.await;
        }
    }
}

/// One who is attached. Dropping it detaches.
#[derive(Debug)]
pub struct Tap {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

impl Tap {
    /// The next output. Cancel-safe.
    pub async fn next(&self) -> Chunk {
        loop {
            if let Some(chunk) = self.take() {
                return chunk;
            }
            self.queue.more.notified().await;
        }
    }

    /// What has come already.
    pub fn take(&self) -> Option<Chunk> {
        let chunk = {
            let mut waiting = self.queue.lock();
            let chunk = waiting.chunks.pop_front()?;
            waiting.bytes -= chunk.bytes.len();
            chunk
        };
        self.shared.room.notify_one();
        Some(chunk)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // It is not asked any more; what it has not taken is in nobody's way.
        *self.queue.lock() = Waiting::default();
        self.shared.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_are_attached_get_what_comes_after() {
        let taps = Taps::default();
        taps.put(Origin::Stdout, b"before");
        let (first, second) = (taps.open(), taps.open());
        taps.put(Origin::Stderr, b"oh");
        for tap in [&first, &second] {
            let chunk = tap.next().await;
            assert_eq!((chunk.origin, &*chunk.bytes), (Origin::Stderr, &b"oh"[..]));
            assert_eq!(tap.take(), None);
        }
    }

    #[tokio::test]
    async fn the_slowest_is_waited_for_until_it_takes_or_goes() {
        let taps = Taps::default();
        let tap = taps.open();
        taps.put(Origin::Stdout, &vec![b'x'; ROOM]);
        assert!(!taps.has_room());
        let (taken, ()) = tokio::join!(async { tap.take() }, taps.room());
        assert!(taken.is_some());
        taps.put(Origin::Stdout, &vec![b'x'; ROOM]);
        tokio::join!(taps.room(), async { drop(tap) });
        assert!(taps.has_room());
    }
}
