//! Removal of sandboxes.

use std::io;

use super::address;
use super::cni;
use super::error::netlink_failed;
use super::firewall::Change;
use super::host::Host;
use super::join::interfaces;
use super::layout::Layout;
use super::netlink::conntrack::Forget;
use super::netlink::route::{delete_doomed, doom};
use super::netlink::{Socket, accept_missing};
use super::record::{self, Stored};
use super::sandbox::udp_ports;
use super::{NetworkError, namespace};
use crate::failpoint::boundary;

/// What goes with a sandbox and is done for several at once.
#[derive(Debug)]
pub(super) struct Teardown {
    links: Vec<String>,
    change: Change,
}

/// What failed in a batch.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Links(String),
    Rules(String),
}

impl Host {
    /// Removes whatever there is of a sandbox, recorded or not.
    pub(super) fn dismantle(&self, id: &str) -> Result<(), NetworkError> {
        let layout = &self.layout;
        if let Some(stored) = record::sandbox(layout, id)? {
            if !stored.is_released() {
                return self.take_apart(&stored, None);
            }
            record::remove_sandbox(layout, id)?;
            if !layout.namespace(id).exists() {
                return Ok(());
            }
        }
        self.sweep(id)
    }

    /// Removes the kernel half of a sandbox of which no record speaks: whoever made it or gave it up was killed.
    pub(super) fn sweep(&self, id: &str) -> Result<(), NetworkError> {
        let layout = &self.layout;
        let mut outcome = self.detach_cached(id);
        let mut keep = |result: Result<(), NetworkError>| {
            outcome = std::mem::replace(&mut outcome, Ok(())).and(result);
        };
        keep(
            self.delete_links(|alias| alias == layout.alias(id))
                .map(drop),
        );
        keep(namespace::remove(&layout.namespace(id)));
        for network in record::names(&layout.addresses())? {
            let owner = Layout::container_id(id);
            keep(address::release(&layout.addresses(), &network, &owner));
        }
        outcome
    }

    /// Runs DEL for attachments by plugins of a sandbox without a record.
    pub(super) fn detach_cached(&self, id: &str) -> Result<(), NetworkError> {
        let cache = self.layout.results();
        let owner = Layout::container_id(id);
        let netns = self.layout.namespace(id);
        let netns = namespace::exists(&netns).then_some(netns.as_path());
        let mut outcome = Ok(());
        for (network, container, interface) in cni::cached(&cache, &owner) {
            if container == owner {
                let done = cni::detach(&network, &container, &interface, netns, &cache);
                outcome = outcome.and(done);
            }
        }
        outcome
    }

    /// Deletes the interfaces whose alias `matches`; returns their names.
    pub(super) fn delete_links(
        &self,
        matches: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, NetworkError> {
        let failed = || netlink_failed::<io::Error>("delete interfaces");
        let mut socket = Socket::route().map_err(failed())?;
        let prefix = self.layout.alias_prefix();
        let links = socket.links().map_err(failed())?.into_iter();
        let names: Vec<String> = links
            .filter(|link| link.alias.starts_with(&prefix) && matches(&link.alias))
            .map(|link| link.name)
            .collect();
        delete_all(&names).map_err(failed())?;
        Ok(names)
    }

    /// Removes a sandbox by its record, of which `remains` is what is kept. Goes on after a failure and returns the first.
    pub(super) fn take_apart(
        &self,
        stored: &Stored,
        remains: Option<&Stored>,
    ) -> Result<(), NetworkError> {
        // From here on a rewrite of the rules from the records leaves its ports out.
        let recorded = match remains {
            Some(remains) => remains.save(&self.layout),
            None => record::remove_sandbox(&self.layout, &stored.record.spec.id),
        };
        let stripped = self.strip(stored);
        recorded.and(stripped)
    }

    /// Removes the kernel half of a sandbox whose record says so already. Goes on after a failure and returns the first.
    pub(super) fn strip(&self, stored: &Stored) -> Result<(), NetworkError> {
        boundary("take sandbox apart: record");
        let layout = &self.layout;
        let record = &stored.record;
        let id = &record.spec.id;
        let owner = Layout::container_id(id);
        let mut outcome = self.detach_cached(id);
        let mut keep = |result: Result<(), NetworkError>| {
            if let Err(error) = result {
                tracing::debug!(%error, sandbox = id, "cannot remove all of a sandbox");
                outcome = std::mem::replace(&mut outcome, Ok(())).and(Err(error));
            }
        };
        let names = interfaces(&record.spec.attachments).unwrap_or_default();
        let teardown = Teardown {
            links: names.iter().map(|name| layout.veth(id, name)).collect(),
            change: Change {
                remove: stored.forwards(),
                forget: Forget {
                    addresses: record
                        .endpoints
                        .iter()
                        .filter_map(record::address)
                        .collect(),
                    udp: udp_ports(&record.ports),
                    ..Forget::default()
                },
                ..Change::default()
            },
        };
        keep(self.tear_down(teardown));
        boundary("take sandbox apart: links and rules");
        // The kernel takes namespaces down in the background, under the lock that interfaces need too.
        keep(namespace::remove(&record.netns));
        boundary("take sandbox apart: namespace");
        for attachment in &record.spec.attachments {
            keep(address::release(
                &layout.addresses(),
                &attachment.network,
                &owner,
            ));
        }
        outcome
    }

    /// Deletes interfaces and rules, together with those of calls that run at the same time.
    fn tear_down(&self, teardown: Teardown) -> Result<(), NetworkError> {
        let outcome = self.teardowns.run(teardown, |batch| {
            let mut links = Vec::new();
            let mut change = Change::default();
            for teardown in batch {
                links.extend(teardown.links);
                change.merge(teardown.change);
            }
            let links = delete_all(&links).map_err(|error| Failure::Links(error.to_string()));
            let rules = self
                .firewall
                .apply(change, || record::rules(&self.layout))
                .map_err(|error| match error {
                    NetworkError::Firewall { message } => Failure::Rules(message),
                    other => Failure::Rules(other.to_string()),
                });
            links.and(rules)
        });
        outcome.map_err(|failure| match failure {
            Failure::Links(message) => NetworkError::Netlink {
                operation: "delete interfaces".into(),
                source: message.into(),
            },
            Failure::Rules(message) => NetworkError::Firewall { message },
        })
    }
}

/// Deletes interfaces; one that is gone is fine.
pub(super) fn delete_all(names: &[String]) -> io::Result<()> {
    let mut socket = Socket::route()?;
    let mut any = false;
    for result in socket.execute_each(names.iter().map(|name| doom(name)).collect())? {
        any |= result.is_ok();
        accept_missing(result)?;
    }
    if any {
        accept_missing(socket.execute(vec![delete_doomed()]))?;
    }
    Ok(())
}
