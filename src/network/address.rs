//! Address files in the layout of the `host-local` plugin, under its lock, so that a plugin on the same network cannot
//! give an address twice.
//!
//! A folder per network holds a file per address (owner, CR LF, interface), `last_reserved_ip.0` and `lock`.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::NetworkError;
use super::error::io_failed;
use super::layout::CONTAINER_PREFIX;
use super::subnet::{Pool, is_host};

const LAST: &str = "last_reserved_ip.0";
const LOCK: &str = "lock";
/// Owners of auxiliary addresses start with this.
const AUXILIARY: &str = "auxiliary-";

/// The addresses of one network, locked.
#[derive(Debug)]
pub(super) struct Addresses<'a> {
    network: &'a str,
    folder: PathBuf,
    _lock: File,
}

/// The file of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    pub(super) owner: String,
    pub(super) interface: String,
}

impl<'a> Addresses<'a> {
    /// Opens the folder of `network` below `root` and waits for its lock.
    pub(super) fn open(root: &Path, network: &'a str) -> Result<Self, NetworkError> {
        let folder = root.join(network);
        let path = folder.join(LOCK);
        loop {
            std::fs::create_dir_all(&folder)
                .map_err(io_failed(format!("make {}", folder.display())))?;
            let opened = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let lock = match opened {
                // The folder went with its network just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(io_failed(format!("open {}", path.display())))?,
            };
            lock.lock()
                .map_err(io_failed(format!("lock {}", path.display())))?;
            if path.exists() {
                return Ok(Self {
                    network,
                    folder,
                    _lock: lock,
                });
            }
        }
    }

    fn path(&self, address: Ipv4Addr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    /// Every address that is given.
    pub(super) fn leases(&self) -> Result<Vec<Lease>, NetworkError> {
        let failed = || io_failed(format!("read {}", self.folder.display()));
        let mut leases = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let Some(address) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let text = std::fs::read_to_string(entry.path()).map_err(failed())?;
            let mut lines = text.lines();
            leases.push(Lease {
                address,
                owner: lines.next().unwrap_or_default().trim().to_owned(),
                interface: lines.next().unwrap_or_default().trim().to_owned(),
            });
        }
        leases.sort_by_key(|lease| lease.address);
        Ok(leases)
    }

    /// Creates the file of `address`; false if it is given already.
    fn take(&self, address: Ipv4Addr, owner: &str, interface: &str) -> Result<bool, NetworkError> {
        let path = self.path(address);
        let failed = || io_failed(format!("write {}", path.display()));
        match File::create_new(&path) {
            Ok(mut file) => {
                if let Err(error) = write!(file, "{owner}\r\n{interface}") {
                    drop(std::fs::remove_file(&path));
                    return Err(failed()(error));
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed()(error)),
        }
    }

    /// Gives the next free address after the one given last.
    pub(super) fn next(
        &self,
        pool: &Pool,
        owner: &str,
        interface: &str,
    ) -> Result<Ipv4Addr, NetworkError> {
        let (first, last) = pool.bounds();
        let (first, last) = (u32::from(first), u32::from(last));
        let start = std::fs::read_to_string(self.folder.join(LAST))
            .ok()
            .and_then(|text| text.trim().parse::<Ipv4Addr>().ok())
            .map(u32::from)
            .filter(|given| (first..last).contains(given))
            .map_or(first, |given| given + 1);
        for candidate in (start..=last).chain(first..start) {
            let address = Ipv4Addr::from(candidate);
            let reserved = pool.reserved.iter().any(|(_, taken)| *taken == address);
            if address == pool.gateway || reserved || !self.take(address, owner, interface)? {
                continue;
            }
            let path = self.folder.join(LAST);
            std::fs::write(&path, address.to_string())
                .map_err(io_failed(format!("write {}", path.display())))?;
            return Ok(address);
        }
        Err(NetworkError::Full {
            network: self.network.into(),
            subnet: pool.subnet.to_string(),
        })
    }

    /// Gives `address`, or confirms that the owner has it.
    pub(super) fn reserve(
        &self,
        pool: &Pool,
        address: Ipv4Addr,
        owner: &str,
        interface: &str,
    ) -> Result<(), NetworkError> {
        if !is_host(pool.subnet, address) {
            return Err(NetworkError::AddressOutside {
                network: self.network.into(),
                address: address.into(),
            });
        }
        let taken = |owner: String| NetworkError::AddressTaken {
            network: self.network.into(),
            address: address.into(),
            owner,
        };
        if address == pool.gateway {
            return Err(taken("the gateway".into()));
        }
        if let Some((name, _)) = pool.reserved.iter().find(|(_, other)| *other == address) {
            return Err(taken(format!("auxiliary address `{name}`")));
        }
        if self.take(address, owner, interface)? {
            return Ok(());
        }
        let text = std::fs::read_to_string(self.path(address)).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        let (other, line) = (lines.next().unwrap_or_default(), lines.next());
        // A plugin of an old version wrote no interface.
        if other == owner && line.is_none_or(|line| line == interface) {
            return Ok(());
        }
        let other = other.strip_prefix(CONTAINER_PREFIX).unwrap_or(other);
        Err(taken(format!("`{other}`")))
    }

    /// Writes files for auxiliary addresses, so that plugins keep away from them too.
    pub(super) fn reserve_auxiliary(&self, pool: &Pool) -> Result<(), NetworkError> {
        for (name, address) in &pool.reserved {
            self.take(*address, &format!("{AUXILIARY}{name}"), "")?;
        }
        Ok(())
    }

    /// Gives back what `owner` has.
    pub(super) fn release(&self, owner: &str) -> Result<Vec<Lease>, NetworkError> {
        let mut leases = self.leases()?;
        leases.retain(|lease| lease.owner == owner);
        for lease in &leases {
            let path = self.path(lease.address);
            std::fs::remove_file(&path).map_err(io_failed(format!("remove {}", path.display())))?;
        }
        Ok(leases)
    }

    /// Removes the folder if no container of anybody has an address.
    pub(super) fn remove(self) -> Result<(), NetworkError> {
        let used = self
            .leases()?
            .iter()
            .any(|lease| !lease.owner.starts_with(AUXILIARY));
        if used {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.folder)
            .map_err(io_failed(format!("remove {}", self.folder.display())))
    }
}

/// Gives back what `owner` has in `network`, if there is such a folder at all.
pub(super) fn release(root: &Path, network: &str, owner: &str) -> Result<(), NetworkError> {
    if root.join(network).exists() {
        Addresses::open(root, network)?.release(owner)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn pool(subnet: &str) -> Pool {
        Pool::new(subnet.parse().expect("a subnet"))
    }

    fn root() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn the_first_container_gets_the_second_address() {
        let root = root();
        let addresses = Addresses::open(root.path(), "net").expect("open");
        let address = addresses
            .next(&pool("10.1.0.0/24"), "a", "eth0")
            .expect("free");
        assert_eq!(address, Ipv4Addr::new(10, 1, 0, 2));
        let file = root.path().join("net/10.1.0.2");
        assert_eq!(
            std::fs::read_to_string(file).expect("the file"),
            "a\r\neth0"
        );
        let last = root.path().join("net/last_reserved_ip.0");
        assert_eq!(std::fs::read_to_string(last).expect("the file"), "10.1.0.2");
    }

    #[test]
    fn a_released_address_is_not_given_again_at_once() {
        let root = root();
        let pool = pool("10.1.0.0/29");
        let addresses = Addresses::open(root.path(), "net").expect("open");
        let give = |owner| addresses.next(&pool, owner, "eth0").expect("free").octets()[3];
        assert_eq!([give("a"), give("b")], [2, 3]);
        addresses.release("a").expect("release");
        assert_eq!([give("c"), give("d"), give("e"), give("f")], [4, 5, 6, 2]);
        let full = addresses
            .next(&pool, "g", "eth0")
            .expect_err("all are given");
        assert!(matches!(full, NetworkError::Full { .. }));
    }

    #[test]
    fn a_fixed_address_is_given_once() {
        let root = root();
        let pool = pool("10.1.0.0/24");
        let addresses = Addresses::open(root.path(), "net").expect("open");
        let fixed = Ipv4Addr::new(10, 1, 0, 2);
        addresses
            .reserve(&pool, fixed, "compose-a", "eth0")
            .expect("free");
        addresses
            .reserve(&pool, fixed, "compose-a", "eth0")
            .expect("already ours");
        let error = addresses
            .reserve(&pool, fixed, "b", "eth0")
            .expect_err("taken");
        assert_eq!(
            error.to_string(),
            "address 10.1.0.2 of network `net` is taken by `a`"
        );
        let next = addresses.next(&pool, "c", "eth0").expect("free");
        assert_eq!(next, Ipv4Addr::new(10, 1, 0, 3));
        for outside in [[10, 1, 0, 0], [10, 1, 0, 255], [10, 2, 0, 1]] {
            let error = addresses.reserve(&pool, outside.into(), "b", "eth0");
            assert!(matches!(error, Err(NetworkError::AddressOutside { .. })));
        }
        assert!(addresses.reserve(&pool, pool.gateway, "b", "eth0").is_err());
    }

    #[test]
    fn auxiliary_addresses_are_kept_from_containers_and_go_with_the_network() {
        let root = root();
        let mut pool = pool("10.1.0.0/29");
        pool.reserved = vec![("router".into(), Ipv4Addr::new(10, 1, 0, 2))];
        let addresses = Addresses::open(root.path(), "net").expect("open");
        addresses.reserve_auxiliary(&pool).expect("write");
        let next = addresses.next(&pool, "a", "eth0").expect("free");
        assert_eq!(next, Ipv4Addr::new(10, 1, 0, 3));
        addresses.release("a").expect("release");
        addresses.remove().expect("remove");
        assert!(!root.path().join("net").exists());
    }

    #[test]
    fn the_addresses_of_another_tool_stay() {
        let root = root();
        let folder = root.path().join("net");
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("10.1.0.2"), "default-abc\r\neth0").expect("file");
        let addresses = Addresses::open(root.path(), "net").expect("open");
        assert_eq!(
            addresses
                .next(&pool("10.1.0.0/24"), "a", "eth0")
                .expect("free")
                .octets()[3],
            3
        );
        addresses.release("a").expect("release");
        addresses.remove().expect("nothing to do");
        assert!(folder.join("10.1.0.2").exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn no_address_is_given_twice(steps in proptest::collection::vec((0_u8..12, any::<bool>()), 1..40)) {
            let root = root();
            let pool = pool("10.1.0.0/28");
            let addresses = Addresses::open(root.path(), "net").expect("open");
            let mut given: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
            for (number, add) in steps {
                let owner = format!("c{number}");
                if !add {
                    addresses.release(&owner).expect("release");
                    given.retain(|_, other| *other != owner);
                    continue;
                }
                match addresses.next(&pool, &owner, "eth0") {
                    Ok(address) => {
                        prop_assert!(address != pool.gateway && is_host(pool.subnet, address));
                        prop_assert_eq!(given.insert(address, owner), None);
                    }
                    Err(error) => {
                        prop_assert!(matches!(error, NetworkError::Full { .. }), "{}", error);
                        prop_assert_eq!(given.len(), 13);
                    }
                }
            }
            let owners: BTreeMap<_, _> = addresses
                .leases()
                .expect("leases")
                .into_iter()
                .map(|lease| (lease.address, lease.owner))
                .collect();
            prop_assert_eq!(owners, given);
        }
    }
}
