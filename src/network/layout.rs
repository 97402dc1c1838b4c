//! Where this room keeps its files, and the names that it gives to things of the kernel.
//!
//! Names are made from ids, so what has no record can be recognised as ours and removed.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::error::io_failed;
use super::netlink::route::Mac;
use super::{NetworkError, NetworkRecord};
use crate::state::{StateRoot, create_private_dir};

/// Folder of the system's CNI configuration.
const SYSTEM_CONFLISTS: &str = "/etc/cni/net.d";
/// Subfolder for the containerd namespace that we use, as nerdctl does it.
const NAMESPACE: &str = "default";
/// Default folder of the `host-local` plugin.
const SYSTEM_ADDRESSES: &str = "/var/lib/cni/networks";
/// What ids of sandboxes begin with where CNI plugins and address files name them.
pub(super) const CONTAINER_PREFIX: &str = "compose-";
const SYSTEM_RESULTS: &str = "/var/lib/cni/results";

/// Paths and names of one state root.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) state: StateRoot,
    /// Empty for the system's root; else a short digest that keeps two roots on one host apart.
    tag: String,
}

impl Layout {
    pub(super) fn new(state: StateRoot) -> Self {
        let tag = if state == StateRoot::new(None) {
            String::new()
        } else {
            digest(&[state.data().as_os_str().as_encoded_bytes()])[..6].to_owned()
        };
        Self { state, tag }
    }

    pub(super) fn is_system(&self) -> bool {
        self.tag.is_empty()
    }

    /// A number that spreads the subnets of several roots.
    pub(super) fn spread(&self) -> usize {
        usize::from_str_radix(&self.tag, 16).unwrap_or(0)
    }

    /// Name of the nftables table.
    pub(super) fn table(&self) -> String {
        self.tagged("compose")
    }

    /// Name of the iptables chain.
    pub(super) fn chain(&self) -> String {
        self.tagged("COMPOSE")
    }

    fn tagged(&self, name: &str) -> String {
        if self.tag.is_empty() {
            name.to_owned()
        } else {
            format!("{name}-{}", self.tag)
        }
    }

    /// Alias of interfaces that belong to a sandbox or a network (by id).
    pub(super) fn alias(&self, owner: &str) -> String {
        format!("{}{owner}", self.alias_prefix())
    }

    pub(super) fn alias_prefix(&self) -> String {
        format!("{}:", self.tagged("compose"))
    }

    /// Name of the host's end of an interface of a sandbox.
    pub(super) fn veth(&self, sandbox: &str, interface: &str) -> String {
        let digest = digest(&[
            self.tag.as_bytes(),
            sandbox.as_bytes(),
            interface.as_bytes(),
        ]);
        format!("veth{}", &digest[..10])
    }

    /// Id of a sandbox as CNI plugins and address files have it.
    pub(super) fn container_id(sandbox: &str) -> String {
        format!("{CONTAINER_PREFIX}{}", file_name(sandbox))
    }

    pub(super) fn networks(&self) -> PathBuf {
        self.state.networks()
    }

    pub(super) fn network_record(&self, id: &str) -> PathBuf {
        self.networks().join(id).join("network.json")
    }

    pub(super) fn sandboxes(&self) -> PathBuf {
        self.networks().join("sandboxes")
    }

    pub(super) fn sandbox_record(&self, id: &str) -> PathBuf {
        self.sandboxes().join(format!("{}.json", file_name(id)))
    }

    pub(super) fn namespace(&self, sandbox: &str) -> PathBuf {
        self.state.namespaces().join(file_name(sandbox))
    }

    /// Address files of all networks.
    pub(super) fn addresses(&self) -> PathBuf {
        if self.is_system() {
            SYSTEM_ADDRESSES.into()
        } else {
            self.state.data().join("cni/networks")
        }
    }

    /// Cached results of plugins, in the form of libcni.
    pub(super) fn results(&self) -> PathBuf {
        if self.is_system() {
            SYSTEM_RESULTS.into()
        } else {
            self.state.data().join("cni/results")
        }
    }

    /// Folder for the conflists that we write.
    pub(super) fn conflists(&self) -> PathBuf {
        if self.is_system() {
            Path::new(SYSTEM_CONFLISTS).join(NAMESPACE)
        } else {
            self.state.data().join("cni/net.d")
        }
    }

    pub(super) fn conflist(&self, network: &str) -> PathBuf {
        self.conflists().join(format!("nerdctl-{network}.conflist"))
    }

    /// Folders in which conflists of others are looked for.
    pub(super) fn foreign_conflists(&self) -> Vec<PathBuf> {
        let system = PathBuf::from(SYSTEM_CONFLISTS);
        let mut folders = vec![system.join(NAMESPACE), system];
        if !self.is_system() {
            folders.insert(0, self.conflists());
        }
        folders
    }

    /// Lock that nerdctl holds while it reads or writes conflists.
    pub(super) fn conflist_lock(&self) -> PathBuf {
        if self.is_system() {
            Path::new(SYSTEM_CONFLISTS).join(".nerdctl.lock")
        } else {
            self.conflists().join(".nerdctl.lock")
        }
    }

    /// Opens the file of one of our locks.
    pub(super) fn lock_file(&self, name: &str) -> Result<File, NetworkError> {
        let folder = self.state.run().join("network");
        create_private_dir(&folder)?;
        let path = folder.join(format!("{name}.lock"));
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_failed(format!("open {}", path.display())))
    }

    /// Taken by whoever adds a network.
    pub(super) fn lock_networks(&self) -> Result<File, NetworkError> {
        let file = self.lock_file("networks")?;
        file.lock().map_err(io_failed("lock the networks"))?;
        Ok(file)
    }

    /// Held while a sandbox is made, repaired or removed; any number at a time.
    pub(super) fn lock_use(&self) -> Result<File, NetworkError> {
        let file = self.lock_file("use")?;
        file.lock_shared()
            .map_err(io_failed("lock the networks for use"))?;
        Ok(file)
    }

    /// Held while a network is removed or garbage collected; no sandbox changes meanwhile.
    pub(super) fn lock_removal(&self) -> Result<File, NetworkError> {
        let file = self.lock_file("use")?;
        file.lock()
            .map_err(io_failed("lock the networks for removal"))?;
        Ok(file)
    }
}

/// Lower-case SHA-256 of the parts, each followed by a zero byte.
pub(super) fn digest(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
        hasher.update([0]);
    }
    HEXLOWER.encode(&hasher.finalize())
}

/// A name for files, unique per id: the id itself if that is safe and short, else a readable part with a digest.
pub(super) fn file_name(id: &str) -> String {
    let safe = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let starts_well = id.starts_with(|character: char| character.is_ascii_alphanumeric());
    // What a replacement looks like is never taken as it is, so that two ids cannot meet.
    if starts_well && id.len() <= 150 && id.chars().all(safe) && !id.contains("--x") {
        return id.to_owned();
    }
    let readable: String = id
        .chars()
        .map(|character| if safe(character) { character } else { '_' })
        .take(100)
        .collect();
    format!("x{readable}--x{}", &digest(&[id.as_bytes()])[..12])
}

/// The hardware address of the interface with this address. As it follows from the address, neighbours that remember
/// the former owner of an address reach the new one at once.
pub(super) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

pub(super) fn format_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads `02:42:ac:11:00:02`; also with dashes.
pub(super) fn parse_mac(text: &str) -> Result<Mac, NetworkError> {
    let invalid = || NetworkError::Invalid {
        what: "a MAC address".into(),
        value: text.into(),
    };
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|part| part.len() == 2)
            .ok_or_else(invalid)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
    }
    // Bit 0 of the first byte marks groups.
    if parts.next().is_some() || mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(invalid());
    }
    Ok(mac)
}

/// Boot of this host.
pub(super) fn boot_id() -> Result<String, NetworkError> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .map_err(io_failed("read the boot id"))
}

/// Name of the bridge of a network that does not name one.
pub(super) fn bridge_name(network: &NetworkRecord) -> String {
    format!("br-{}", network.id.get(..12).unwrap_or(&network.id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_ids_are_file_names_and_odd_ones_are_replaced() {
        assert_eq!(file_name("shop-web-1"), "shop-web-1");
        for odd in ["", "..", "a/b", "-x", "ä", &"long".repeat(50)] {
            let name = file_name(odd);
            assert!(
                name.starts_with('x') && !name.contains('/') && name.len() < 200,
                "{name}"
            );
        }
        assert_ne!(file_name("a/b"), file_name("a_b"));
        assert_ne!(file_name("a/b"), file_name("a?b"));
    }

    #[test]
    fn a_name_made_by_replacement_is_not_an_id() {
        let made = file_name("a/b");
        assert_ne!(file_name(&made), made);
    }

    #[test]
    fn the_system_root_has_plain_names_and_others_are_tagged() {
        let system = Layout::new(StateRoot::new(None));
        assert_eq!((system.table().as_str(), system.spread()), ("compose", 0));
        let other = Layout::new(StateRoot::new(Some(Path::new("/tmp/a"))));
        let third = Layout::new(StateRoot::new(Some(Path::new("/tmp/b"))));
        assert_ne!(other.table(), third.table());
        assert_ne!(other.veth("a-1", "eth0"), third.veth("a-1", "eth0"));
        assert!(other.chain().len() <= 28);
    }

    #[test]
    fn mac_addresses_are_read_and_groups_are_refused() {
        assert_eq!(
            parse_mac("02:42:AC-11:00:02").expect("valid"),
            mac_of([172, 17, 0, 2].into())
        );
        for bad in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "01:00:5e:00:00:01",
            "0:0:0:0:0:0",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn file_names_are_safe_for_any_id(id in ".*") {
            let name = file_name(&id);
            prop_assert!(!name.contains('/') && !name.starts_with('.') && name.len() < 200);
        }

        #[test]
        fn mac_addresses_survive_formatting(address in any::<u32>()) {
            let mac = mac_of(Ipv4Addr::from(address));
            prop_assert_eq!(parse_mac(&format_mac(mac)).expect("our own"), mac);
        }
    }
}
