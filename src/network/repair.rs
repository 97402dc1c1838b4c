//! Making a recorded sandbox whole again.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::error::{invalid, netlink_failed};
use super::firewall::Change;
use super::host::Host;
use super::join::{Joined, join};
use super::layout::boot_id;
use super::netlink::Socket;
use super::netlink::route::{set_master, set_port};
use super::record::{self, Stored};
use super::sandbox::port_key;
use super::{
    Attachment, Endpoint, Held, NetworkError, PublishedPort, bridge, namespace, ports, resolver,
};

impl Host {
    pub(super) fn stored(&self, id: &str) -> Result<Stored, NetworkError> {
        record::sandbox(&self.layout, id)?.ok_or_else(|| invalid("a sandbox that exists", id))
    }

    /// See `Networks::set_active`.
    pub(super) fn set_active(&self, id: &str, active: bool) -> Result<(), NetworkError> {
        let mut stored = self.stored(id)?;
        if stored.record.active != active {
            stored.record.active = active;
            stored.save(&self.layout)?;
        }
        Ok(())
    }

    /// See `Networks::remove_sandbox`.
    pub(super) fn remove_sandbox(&self, id: &str) -> Result<(), NetworkError> {
        let _use = self.layout.lock_use()?;
        self.dismantle(id)
    }

    /// See `Networks::reopen`.
    pub(super) fn reopen(&self, id: &str) -> Result<Held, NetworkError> {
        let _use = self.layout.lock_use()?;
        let stored = self.stored(id)?;
        // Looked at only for a port that is taken: every sandbox of a project may be opened again at once.
        let is_shared = |port: &PublishedPort| {
            let others = record::sandboxes(&self.layout).unwrap_or_default();
            let mut others = others.iter().filter(|other| other.spec.id != id);
            others.any(|other| other.ports.contains(port))
        };
        let mut held = hold_recorded(&stored, |port| !is_shared(port))?;
        held.extend(namespace::enter(&stored.record.netns, || {
            resolver::open(id)
        })?);
        Ok(held)
    }

    /// See `Networks::repair_sandbox`.
    pub(super) fn repair_sandbox(&self, id: &str) -> Result<Held, NetworkError> {
        let _use = self.layout.lock_use()?;
        let mut stored = self.stored(id)?;
        if stored.is_released() {
            return self.take_back(&stored);
        }
        let is_gone = !namespace::exists(&stored.record.netns);
        if is_gone && self.is_succeeded(&stored)? {
            return self.take_back(&stored.released());
        }
        let attachments = with_addresses(&stored);
        let joined = join(&attachments, &self.layout)?;
        let boot = boot_id()?;
        if is_gone {
            let rebooted = stored.record.boot_id != boot;
            let mut held = hold_recorded(&stored, |_| rebooted)?;
            stored.record.boot_id = boot;
            self.clear(&stored)?;
            let built = self.build(&joined, &mut stored).inspect_err(|_| {
                // A namespace that stays would be taken for one whose sockets are held.
                if let Err(error) = self.clear(&stored) {
                    tracing::warn!(%error, sandbox = id, "cannot undo a failed repair");
                }
            });
            held.extend(built?);
            return Ok(held);
        }
        self.repair_links(&joined, &mut stored)?;
        self.repair_firewall()?;
        Ok(Vec::new())
    }

    /// Whether another sandbox has a port or an address by now that this one, whose kernel half is gone, had by its record.
    fn is_succeeded(&self, stored: &Stored) -> Result<bool, NetworkError> {
        let record = &stored.record;
        let sandboxes = record::sandboxes(&self.layout)?;
        let mut others = sandboxes
            .iter()
            .filter(|other| other.spec.id != record.spec.id);
        Ok(others.any(|other| {
            let shares_port = |port: &PublishedPort| {
                let address = format!("{}:{}", port.host_ip, port.host_port);
                let mut ports = other.ports.iter();
                ports.any(|other| ports::collide(other, &address, &port.protocol))
            };
            let shares_address = |endpoint: &Endpoint| {
                let address = record::address(endpoint);
                let mut endpoints = other.endpoints.iter();
                address.is_some()
                    && endpoints.any(|other| {
                        other.network == endpoint.network && record::address(other) == address
                    })
            };
            record.ports.iter().any(shares_port) || record.endpoints.iter().any(shares_address)
        }))
    }

    /// Puts interfaces back that were lost from a living namespace, and onto their bridges.
    fn repair_links(&self, joined: &[Joined<'_>], stored: &mut Stored) -> Result<(), NetworkError> {
        let failed = || netlink_failed::<io::Error>("repair interfaces");
        let mut socket = Socket::route().map_err(failed())?;
        let id = stored.record.spec.id.clone();
        for (index, join) in joined
            .iter()
            .enumerate()
            .filter(|(_, join)| join.in_process())
        {
            self.bridges
                .repair(&mut socket, &join.network, &self.layout)?;
            let veth = self.layout.veth(&id, &join.interface);
            let port = socket.link(&veth).map_err(failed())?;
            let bridge = self
                .bridges
                .ensure(&mut socket, &join.network, &self.layout)?;
            match port {
                Some(port) if port.master == Some(bridge.index) && port.is_up => {}
                Some(_) => {
                    let flags = bridge::port_flags(&join.network);
                    let alias = self.layout.alias(&id);
                    socket
                        .execute(vec![
                            set_master(&veth, bridge.index),
                            set_port(&veth, &alias, flags),
                        ])
                        .map_err(failed())?;
                }
                None => {
                    let endpoint = self.plug_again(&mut socket, join, stored)?;
                    if let Some(slot) = stored.record.endpoints.get_mut(index) {
                        *slot = endpoint;
                    }
                    stored.save(&self.layout)?;
                }
            }
        }
        Ok(())
    }

    fn repair_firewall(&self) -> Result<(), NetworkError> {
        let change = Change {
            check: true,
            ..Change::default()
        };
        self.firewall.apply(change, || record::rules(&self.layout))
    }

    /// See `Networks::firewall_seems_whole`.
    pub(super) fn firewall_seems_whole(&self) -> Result<bool, NetworkError> {
        self.firewall.seems_whole(|| record::rules(&self.layout))
    }

    /// See `Networks::mend_firewall`.
    pub(super) fn mend_firewall(&self) -> Result<bool, NetworkError> {
        if self.firewall_seems_whole()? {
            return Ok(false);
        }
        {
            // Another process of ours may just be changing them.
            let _turn = self.firewall.turn()?;
            if self.firewall_seems_whole()? {
                return Ok(false);
            }
        }
        self.repair_firewall()?;
        Ok(true)
    }

    /// Removes what is left of the kernel half of a sandbox whose namespace is gone.
    fn clear(&self, stored: &Stored) -> Result<(), NetworkError> {
        let id = &stored.record.spec.id;
        if let Err(error) = self.detach_cached(id) {
            tracing::debug!(%error, sandbox = id, "cannot detach what a reboot left");
        }
        namespace::remove(&stored.record.netns)?;
        let alias = self.layout.alias(id);
        self.delete_links(|found| found == alias).map(drop)
    }
}

/// The attachments of a sandbox with the addresses that it was given.
fn with_addresses(stored: &Stored) -> Vec<Attachment> {
    let mut attachments = stored.record.spec.attachments.clone();
    for attachment in &mut attachments {
        let endpoints = &stored.record.endpoints;
        let endpoint = endpoints
            .iter()
            .find(|end| end.network == attachment.network);
        if let Some(address) = endpoint.and_then(record::address) {
            attachment.ipv4 = Some(IpAddr::V4(address));
        }
    }
    attachments
}

/// Binds the recorded ports. One that is taken and need not be free is still held by whoever holds it.
fn hold_recorded(
    stored: &Stored,
    is_free: impl Fn(&PublishedPort) -> bool,
) -> Result<Held, NetworkError> {
    let mut held: Vec<(String, OwnedFd)> = Vec::new();
    for port in &stored.record.ports {
        match ports::hold_again(port) {
            Ok(bound) => {
                let key = port_key(&stored.record.spec.id, port);
                held.extend(bound.socket.map(|socket| (key, socket)));
            }
            Err(NetworkError::PortTaken { .. }) if !is_free(port) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(held)
}
