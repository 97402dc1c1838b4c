//! Removal of what no record speaks of: left behind by a crash, or by a state folder that was deleted.

use std::collections::BTreeSet;

use super::address::Addresses;
use super::host::Host;
use super::layout::{CONTAINER_PREFIX, Layout, file_name};
use super::{NetworkError, cni, conflist, namespace, record};

impl Host {
    /// See `Networks::collect_garbage`.
    pub(super) fn collect_garbage(&self) -> Result<Vec<String>, NetworkError> {
        let layout = &self.layout;
        let _networks = layout.lock_networks()?;
        let _removal = layout.lock_removal()?;
        let networks = record::own_networks(layout)?;
        let sandboxes = record::sandboxes(layout)?;
        let ids: Vec<&str> = sandboxes
            .iter()
            .map(|sandbox| sandbox.spec.id.as_str())
            .collect();
        let owners: BTreeSet<String> = ids.iter().map(|id| Layout::container_id(id)).collect();
        let mut removed = Vec::new();

        for (network, container, interface) in cni::cached(&layout.results(), CONTAINER_PREFIX) {
            if !owners.contains(&container) {
                let name = container.strip_prefix(CONTAINER_PREFIX).unwrap_or_default();
                let netns = layout.state.namespaces().join(name);
                let netns = namespace::exists(&netns).then_some(netns);
                let cache = layout.results();
                let done = cni::detach(&network, &container, &interface, netns.as_deref(), &cache);
                if let Err(error) = done {
                    tracing::warn!(%error, container, "cannot detach what is left of a sandbox");
                    continue;
                }
                removed.push(format!("attachment of {container} to network {network}"));
            }
        }

        let aliases: BTreeSet<String> = ids
            .iter()
            .copied()
            .chain(networks.iter().map(|network| network.id.as_str()))
            .map(|owner| layout.alias(owner))
            .collect();
        let links = self.delete_links(|alias| !aliases.contains(alias))?;
        removed.extend(links.into_iter().map(|name| format!("interface {name}")));

        let namespaces: BTreeSet<String> = ids.iter().map(|id| file_name(id)).collect();
        for name in record::names(&layout.state.namespaces())? {
            if !namespaces.contains(&name) {
                namespace::remove(&layout.state.namespaces().join(&name))?;
                removed.push(format!("network namespace {name}"));
            }
        }

        for name in record::names(&layout.addresses())? {
            if !layout.addresses().join(&name).is_dir() {
                continue;
            }
            let addresses = Addresses::open(&layout.addresses(), &name)?;
            let ours: BTreeSet<String> = addresses
                .leases()?
                .into_iter()
                .map(|lease| lease.owner)
                .filter(|owner| owner.starts_with(CONTAINER_PREFIX) && !owners.contains(owner))
                .collect();
            for owner in ours {
                for lease in addresses.release(&owner)? {
                    removed.push(format!("address {} of network {name}", lease.address));
                }
            }
        }

        for (list, _) in conflist::read_folder(&layout.conflists())? {
            let known = networks
                .iter()
                .any(|network| Some(&network.id) == list.mark.as_ref());
            let path = layout.conflist(&list.name);
            if list.mark.is_some() && !known && std::fs::remove_file(&path).is_ok() {
                removed.push(format!("configuration of network {}", list.name));
            }
        }
        // A user or another tool may have removed one of ours; without it plugins and nerdctl do not know the network.
        for network in &networks {
            conflist::write(network, layout)?;
        }

        removed.extend(self.firewall.collect_garbage(|| record::rules(layout))?);
        Ok(removed)
    }
}
