//! One at a time per image: several services may ask for the same one at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Locks by name, shared by all clones.
#[derive(Clone, Debug, Default)]
pub(super) struct Gates {
    gates: Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>,
}

impl Gates {
    /// Waits until nobody else holds `key`.
    pub(super) async fn enter(&self, key: &str) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            gates.retain(|_key, gate| gate.strong_count() > 0);
            let known = gates.get(key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let gate = Arc::default();
                gates.insert(key.into(), Arc::downgrade(&gate));
                gate
            })
        };
        gate.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_lets_one_in_and_forgets_it_afterwards() {
        let gates = Gates::default();
        let first = gates.enter("a").await;
        let _other = gates.enter("b").await;
        let pause = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(pause, gates.enter("a")).await.is_err());
        drop(first);
        let _second = gates.enter("a").await;
        assert_eq!(gates.gates.lock().unwrap().len(), 2);
    }
}
