//! Which networks a sandbox joins, by which interfaces, and where its default route and its ports lead.

use std::collections::BTreeSet;

use super::error::invalid;
use super::layout::Layout;
use super::{Attachment, NetworkError, NetworkRecord, options, record};

/// An attachment with its network and the name of its interface.
pub(super) struct Joined<'a> {
    pub(super) attachment: &'a Attachment,
    pub(super) network: NetworkRecord,
    pub(super) interface: String,
    /// The default route goes here.
    pub(super) is_gateway: bool,
}

impl Joined<'_> {
    pub(super) fn in_process(&self) -> bool {
        record::is_ours(&self.network)
    }
}

/// Names of the interfaces: those asked for, else `eth0`, `eth1` … in order.
pub(super) fn interfaces(attachments: &[Attachment]) -> Result<Vec<String>, NetworkError> {
    let mut taken = BTreeSet::new();
    for name in attachments
        .iter()
        .filter_map(|join| join.interface.as_deref())
    {
        if !options::is_interface_name(name) || !taken.insert(name.to_owned()) {
            return Err(invalid("the name of an interface", name));
        }
    }
    let mut names = Vec::new();
    let mut number = 0..;
    for attachment in attachments {
        names.push(match &attachment.interface {
            Some(name) => name.clone(),
            None => number
                .by_ref()
                .map(|number: u32| format!("eth{number}"))
                .find(|name| !taken.contains(name))
                .unwrap_or_default(),
        });
    }
    Ok(names)
}

/// Looks up the networks and checks what is asked of them.
pub(super) fn join<'a>(
    attachments: &'a [Attachment],
    layout: &Layout,
) -> Result<Vec<Joined<'a>>, NetworkError> {
    let mut joined: Vec<Joined<'_>> = Vec::new();
    for (attachment, interface) in attachments.iter().zip(interfaces(attachments)?) {
        let name = &attachment.network;
        if joined.iter().any(|other| &other.attachment.network == name) {
            return Err(invalid("a second attachment to one network", name));
        }
        if let Some(address) = attachment.ipv6 {
            return Err(invalid("a fixed address (IPv4 only)", address.to_string()));
        }
        let network = record::network(layout, name)?.ok_or_else(|| NetworkError::Missing {
            network: name.clone(),
        })?;
        joined.push(Joined {
            attachment,
            network,
            interface,
            is_gateway: false,
        });
    }
    let marked = joined
        .iter()
        .position(|join| join.attachment.default_gateway);
    let open = |join: &Joined<'_>| !join.network.spec.internal;
    let gateway = marked
        .filter(|index| joined.get(*index).is_some_and(open))
        .or_else(|| joined.iter().position(open));
    if let Some(join) = gateway.and_then(|index| joined.get_mut(index)) {
        join.is_gateway = true;
    }
    Ok(joined)
}

/// Index of the attachment that published ports lead to. The host does not reach children of a `macvlan` or `ipvlan`.
pub(super) fn ports_index(joined: &[Joined<'_>]) -> Option<usize> {
    let reachable = |join: &Joined<'_>| {
        !matches!(
            options::plugin(&join.network.spec),
            Some("macvlan" | "ipvlan")
        )
    };
    joined
        .iter()
        .position(|join| join.is_gateway && reachable(join))
        .or_else(|| {
            joined
                .iter()
                .position(|join| reachable(join) && !join.network.spec.internal)
        })
        .or_else(|| joined.iter().position(reachable))
}
