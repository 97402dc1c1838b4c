//! Rules for isolation, translation and published ports.
//!
//! Changes of calls that run at the same time go out together: whoever gets the lock applies all that is pending. The
//! records on disk are the truth; a table that is missing, wiped or out of step is written anew from them.

mod iptables;
mod live;
mod nft;

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Mutex;
use std::time::Duration;

pub(super) use nft::{Bridge, Forward, Rules};

use super::batch::{Batch, lock};
use super::error::io_failed;
use super::layout::Layout;
use super::netlink::conntrack::{self, Forget};
use super::netlink::nftables::{self, Element};
use super::{NetworkError, process};

const LIMIT: Duration = Duration::from_secs(30);

/// One caller's wish.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    /// Write everything anew from the records.
    pub(super) rebuild: bool,
    /// Look whether all is as the records ask for, and write it anew if not.
    pub(super) check: bool,
    pub(super) add: Vec<Forward>,
    pub(super) remove: Vec<Forward>,
    /// Ports that lead elsewhere from one packet to the next: from where, and where to.
    pub(super) switch: Vec<(Forward, Forward)>,
    /// Connections to forget once the rules are changed.
    pub(super) forget: Forget,
}

impl Change {
    fn touches_rules(&self) -> bool {
        self.rebuild
            || self.check
            || !self.add.is_empty()
            || !self.remove.is_empty()
            || !self.switch.is_empty()
    }

    /// Adds what `other` asks for.
    pub(super) fn merge(&mut self, other: Self) {
        self.rebuild |= other.rebuild;
        self.check |= other.check;
        self.add.extend(other.add);
        self.remove.extend(other.remove);
        self.switch.extend(other.switch);
        self.forget.addresses.extend(other.forget.addresses);
        self.forget.udp.extend(other.forget.udp);
        self.forget.closed.extend(other.forget.closed);
    }

    fn is_empty(&self) -> bool {
        !self.touches_rules() && self.forget.is_empty()
    }
}

/// The firewall of one state root.
#[derive(Debug)]
pub(super) struct Firewall {
    layout: Layout,
    changes: Batch<Change, String>,
    /// Networks whose rules this process has seen applied.
    installed: Mutex<BTreeSet<String>>,
}

impl Firewall {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout,
            changes: Batch::default(),
            installed: Mutex::default(),
        }
    }

    /// Whether this process has applied the rules of all these networks (by id).
    pub(super) fn has_installed<'a>(&self, networks: impl IntoIterator<Item = &'a str>) -> bool {
        let installed = lock(&self.installed);
        networks
            .into_iter()
            .all(|network| installed.contains(network))
    }

    /// Applies `change`, together with those of others that wait. `records` reads what the records ask for.
    pub(super) fn apply(
        &self,
        change: Change,
        records: impl FnOnce() -> Result<(Rules, Vec<String>), NetworkError>,
    ) -> Result<(), NetworkError> {
        if change.is_empty() {
            return Ok(());
        }
        let outcome = self.changes.run(change, |batch| {
            let mut change = Change::default();
            for part in batch {
                change.merge(part);
            }
            self.apply_now(&change, records)
                .map_err(|error| match error {
                    NetworkError::Firewall { message } => message,
                    other => chain(&other),
                })
        });
        outcome.map_err(|message| NetworkError::Firewall { message })
    }

    fn apply_now(
        &self,
        change: &Change,
        records: impl FnOnce() -> Result<(Rules, Vec<String>), NetworkError>,
    ) -> Result<(), NetworkError> {
        if change.touches_rules() {
            self.change_rules(change, records)?;
        }
        if let Err(error) = conntrack::forget(&change.forget) {
            // Kernels without that interface only keep old connections until they time out.
            tracing::warn!(%error, "cannot delete old connections");
        }
        Ok(())
    }

    fn change_rules(
        &self,
        change: &Change,
        records: impl FnOnce() -> Result<(Rules, Vec<String>), NetworkError>,
    ) -> Result<(), NetworkError> {
        let _turn = self.turn()?;
        let Change {
            add,
            remove,
            switch,
            ..
        } = change;
        let elements = || {
            let before = switch.iter().map(|(before, _)| before);
            let after = switch.iter().map(|(_, after)| after);
            let gone: Vec<Element> = remove.iter().chain(before).map(live::element).collect();
            let new: Vec<Element> = add.iter().chain(after).map(live::element).collect();
            let changed = nftables::change(&self.layout.table(), &gone, &new);
            changed.inspect_err(|error| tracing::debug!(%error, "the firewall is written anew"))
        };
        // What only grows needs no look at the records.
        let grows = remove.is_empty() && !change.rebuild && !change.check;
        if grows && elements().is_ok() {
            return Ok(());
        }
        let (rules, networks) = records()?;
        // A record may claim the port of one that goes; only the records know who has it then.
        let disputed = remove.iter().any(|gone| {
            let mut claims = rules.forwards.iter().chain(add);
            claims.any(|claim| claim.same_key(gone))
        });
        let rebuild =
            grows || disputed || change.rebuild || (change.check && !self.is_whole(&rules)?);
        if rebuild || elements().is_err() {
            self.rebuild(&rules, networks)?;
        }
        Ok(())
    }

    fn is_whole(&self, rules: &Rules) -> Result<bool, NetworkError> {
        Ok(live::read(&self.layout.table())? == live::expected(rules)
            && iptables::is_whole(&self.layout.chain(), &rules.bridges)?)
    }

    /// While it is held no process changes the rules.
    pub(super) fn turn(&self) -> Result<File, NetworkError> {
        let file = self.layout.lock_file("firewall")?;
        file.lock().map_err(io_failed("lock the firewall"))?;
        Ok(file)
    }

    /// Whether all is as the records ask for, as far as that is seen without starting a program. It may be told no while
    /// another process is just changing the rules.
    pub(super) fn seems_whole(
        &self,
        records: impl FnOnce() -> Result<(Rules, Vec<String>), NetworkError>,
    ) -> Result<bool, NetworkError> {
        let (rules, _) = records()?;
        let accepts = iptables::is_whole_in_nftables(&self.layout.chain(), &rules.bridges)?;
        Ok(accepts != Some(false) && live::read(&self.layout.table())? == live::expected(&rules))
    }

    /// Deletes what the records do not ask for, and returns what it was.
    pub(super) fn collect_garbage(
        &self,
        records: impl FnOnce() -> Result<(Rules, Vec<String>), NetworkError>,
    ) -> Result<Vec<String>, NetworkError> {
        let _turn = self.turn()?;
        let (rules, networks) = records()?;
        let found = live::read(&self.layout.table())?;
        let expected = live::expected(&rules);
        if found == expected && iptables::is_whole(&self.layout.chain(), &rules.bridges)? {
            return Ok(Vec::new());
        }
        self.rebuild(&rules, networks)?;
        Ok(found.surplus(&expected))
    }

    fn rebuild(&self, rules: &Rules, networks: Vec<String>) -> Result<(), NetworkError> {
        run_nft(&nft::replace(&self.layout.table(), rules))?;
        iptables::apply(&self.layout.chain(), &rules.bridges)?;
        *lock(&self.installed) = networks.into_iter().collect();
        Ok(())
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Runs `nft -f -`.
fn run_nft(script: &str) -> Result<(), NetworkError> {
    let failed = |message: String| NetworkError::Firewall { message };
    let program = process::find("nft").ok_or_else(|| failed("`nft` is not installed".into()))?;
    let mut command = process::command(&program);
    let finished = process::run(command.args(["-f", "-"]), script.as_bytes(), LIMIT)
        .map_err(|error| failed(format!("{}: {error}", program.display())))?;
    if finished.status.success() {
        Ok(())
    } else {
        Err(failed(process::complaint(&finished)))
    }
}
