//! Who lives in which sandbox. One is shared by `network_mode: service:`, and must last as long as anybody runs there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is to become of a sandbox when nobody is left in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Its owner has stopped for good: give it up.
    Owner,
    /// One that only shares it has stopped for good: give it up unless it is kept for somebody.
    Guest,
    /// A successor or the same container starts next: keep it.
    Keep,
    /// The container is removed: what becomes of the sandbox is decided by others.
    Removed,
}

/// The containers that run in one sandbox.
#[derive(Debug, Default)]
pub(super) struct Tenancy {
    pub(super) containers: BTreeSet<String>,
    /// Kept for one that starts next.
    is_kept: bool,
}

impl Tenancy {
    pub(super) fn enter(&mut self, container: &str) {
        self.containers.insert(container.to_owned());
        self.is_kept = false;
    }

    /// Whether the sandbox is to be given up.
    pub(super) fn leave(&mut self, container: &str, leaving: Leaving) -> bool {
        self.containers.remove(container);
        match leaving {
            Leaving::Removed => return false,
            Leaving::Keep => self.is_kept = true,
            Leaving::Owner => self.is_kept = false,
            Leaving::Guest => {}
        }
        self.containers.is_empty() && !self.is_kept
    }
}

/// The tenancies of a project, by sandbox. The lock of one is held while its sandbox is repaired or given up.
#[derive(Debug, Default)]
pub(super) struct Tenants(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Tenancy>>>>);

impl Tenants {
    pub(super) fn of(&self, sandbox: &str) -> Arc<tokio::sync::Mutex<Tenancy>> {
        Arc::clone(self.all().entry(sandbox.to_owned()).or_default())
    }

    /// Forgets a sandbox that is removed, unless it concerns somebody beside the caller.
    pub(super) fn forget(&self, sandbox: &str, tenancy: Arc<tokio::sync::Mutex<Tenancy>>) {
        let mut all = self.all();
        drop(tenancy);
        if let Entry::Occupied(entry) = all.entry(sandbox.to_owned()) {
            // New copies are only made under the lock.
            let is_last = Arc::strong_count(entry.get()) == 1;
            let is_empty = entry
                .get()
                .try_lock()
                .is_ok_and(|tenancy| tenancy.containers.is_empty());
            if is_last && is_empty {
                entry.remove();
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<tokio::sync::Mutex<Tenancy>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_lasts_until_its_last_tenant_leaves() {
        let mut tenancy = Tenancy::default();
        tenancy.enter("owner");
        tenancy.enter("guest");
        assert!(!tenancy.leave("owner", Leaving::Owner));
        assert!(tenancy.leave("guest", Leaving::Guest));
    }

    #[test]
    fn a_sandbox_is_forgotten_when_it_concerns_nobody() {
        let tenants = Tenants::default();
        let waits = tenants.of("web");
        tenants.forget("web", tenants.of("web"));
        assert!(Arc::ptr_eq(&waits, &tenants.of("web")));
        waits.try_lock().unwrap().enter("guest");
        tenants.forget("web", waits);
        let left = tenants.of("web");
        assert!(left.try_lock().unwrap().containers.contains("guest"));
        left.try_lock().unwrap().leave("guest", Leaving::Removed);
        tenants.forget("web", left);
        assert!(tenants.all().is_empty());
    }

    #[test]
    fn a_sandbox_that_is_kept_for_a_successor_outlasts_its_guests() {
        let mut tenancy = Tenancy::default();
        tenancy.enter("old");
        tenancy.enter("guest");
        assert!(!tenancy.leave("old", Leaving::Keep));
        assert!(!tenancy.leave("guest", Leaving::Guest));
        tenancy.enter("new");
        assert!(!tenancy.leave("old", Leaving::Removed));
        assert!(tenancy.leave("new", Leaving::Owner));
    }

    #[test]
    fn one_that_never_started_gives_its_sandbox_up_when_it_is_stopped() {
        let mut tenancy = Tenancy::default();
        assert!(tenancy.leave("created", Leaving::Owner));
        tenancy.enter("successor");
        assert!(!tenancy.leave("created", Leaving::Owner));
    }
}
