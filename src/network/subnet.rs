//! The choice of subnets.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::error::invalid;
use super::{NetworkError, Subnet};
use crate::model::IpamPool;

/// Private ranges that subnets are taken from, in this order. They are away from the usual ranges of home routers,
/// Docker and nerdctl.
const RANGES: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(172, 28, 0, 0), 14),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 208, 0, 0), 12),
];

/// Length of the prefix of a chosen subnet: 253 containers.
const PREFIX: u8 = 24;

/// A subnet that is in use, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Occupied {
    pub(super) subnet: IpNet,
    pub(super) by: String,
}

fn overlap(a: Ipv4Net, b: IpNet) -> bool {
    match b {
        IpNet::V4(b) => a.contains(&b.network()) || b.contains(&a.network()),
        IpNet::V6(_) => false,
    }
}

/// The first free subnet of the ranges, counted from the `spread`th of the first range on.
pub(super) fn choose(occupied: &[Occupied], spread: usize) -> Option<Ipv4Net> {
    RANGES.iter().find_map(|range| {
        let count = 1_usize << (PREFIX - range.prefix_len());
        let base = u32::from(range.network());
        (0..count)
            .filter_map(|step| u32::try_from((spread + step) % count).ok())
            .filter_map(|index| Ipv4Net::new((base + (index << (32 - PREFIX))).into(), PREFIX).ok())
            .find(|subnet| !occupied.iter().any(|other| overlap(*subnet, other.subnet)))
    })
}

/// What a pool of the file says, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pool {
    pub(super) subnet: Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    /// Addresses are chosen from here.
    pub(super) range: Option<Ipv4Net>,
    /// Never given to containers; name and address.
    pub(super) reserved: Vec<(String, Ipv4Addr)>,
}

impl Pool {
    /// The first address is the gateway's, as in Docker.
    pub(super) fn new(subnet: Ipv4Net) -> Self {
        Self {
            subnet,
            gateway: Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1)),
            range: None,
            reserved: Vec::new(),
        }
    }

    /// Reads the first IPv4 pool; `None` if a subnet is to be chosen.
    pub(super) fn read(pools: &[IpamPool]) -> Result<Option<Self>, NetworkError> {
        let is_ipv6 = |pool: &IpamPool| {
            let subnet = pool.subnet.as_deref().and_then(|text| text.parse().ok());
            matches!(subnet, Some(IpNet::V6(_)))
        };
        let Some(pool) = pools.iter().find(|pool| !is_ipv6(pool)) else {
            return Ok(None);
        };
        let Some(text) = &pool.subnet else {
            if let Some(gateway) = pool.gateway {
                return Err(invalid("a gateway without a subnet", gateway.to_string()));
            }
            if let Some(range) = &pool.ip_range {
                return Err(invalid("an ip_range without a subnet", range));
            }
            return Ok(None);
        };
        let subnet: Ipv4Net = text.parse().map_err(|_| invalid("a subnet", text))?;
        let subnet = subnet.trunc();
        if subnet.prefix_len() > 30 || subnet.prefix_len() < 8 {
            return Err(invalid("a subnet (from /8 to /30)", text));
        }
        let mut read = Self::new(subnet);
        let usable = |address: IpAddr, what: &str| match address {
            IpAddr::V4(address) if is_host(subnet, address) => Ok(address),
            other => Err(invalid(format!("{what} in {subnet}"), other.to_string())),
        };
        if let Some(gateway) = pool.gateway {
            read.gateway = usable(gateway, "a gateway")?;
        }
        if let Some(text) = &pool.ip_range {
            let range: Ipv4Net = text.parse().map_err(|_| invalid("an ip_range", text))?;
            if !subnet.contains(&range) {
                return Err(invalid(format!("an ip_range in {subnet}"), text));
            }
            read.range = Some(range.trunc());
        }
        for (name, text) in &pool.aux_addresses {
            let address = text
                .parse()
                .map_err(|_| invalid("an auxiliary address", text))?;
            read.reserved
                .push((name.clone(), usable(address, "an auxiliary address")?));
        }
        Ok(Some(read))
    }

    /// First and last address that is chosen.
    pub(super) fn bounds(&self) -> (Ipv4Addr, Ipv4Addr) {
        let network = u32::from(self.subnet.network());
        let broadcast = u32::from(self.subnet.broadcast());
        let (first, last) = self.range.map_or((network, broadcast), |range| {
            (u32::from(range.network()), u32::from(range.broadcast()))
        });
        (
            first.max(network + 1).into(),
            last.min(broadcast - 1).into(),
        )
    }

    pub(super) fn record(&self) -> Subnet {
        Subnet {
            subnet: self.subnet.into(),
            gateway: self.gateway.into(),
        }
    }

    /// Refuses the subnet if something else has it.
    pub(super) fn check(&self, network: &str, occupied: &[Occupied]) -> Result<(), NetworkError> {
        match occupied
            .iter()
            .find(|other| overlap(self.subnet, other.subnet))
        {
            Some(other) => Err(NetworkError::SubnetTaken {
                network: network.into(),
                subnet: self.subnet.to_string(),
                other: format!("{} ({})", other.by, other.subnet),
            }),
            None => Ok(()),
        }
    }
}

/// Whether `address` may belong to a host of `subnet`.
pub(super) fn is_host(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast()
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;
    use proptest::prelude::*;

    use super::*;

    fn occupied(subnets: &[&str]) -> Vec<Occupied> {
        subnets
            .iter()
            .map(|text| Occupied {
                subnet: text.parse().expect("a subnet"),
                by: "test".into(),
            })
            .collect()
    }

    fn pool(subnet: Option<&str>) -> IpamPool {
        IpamPool {
            subnet: subnet.map(Into::into),
            ..IpamPool::default()
        }
    }

    #[test]
    fn the_first_free_subnet_is_chosen() {
        assert_eq!(choose(&[], 0).expect("free").to_string(), "172.28.0.0/24");
        let taken = occupied(&["172.28.0.0/25", "172.28.1.128/30", "fd00::/8"]);
        assert_eq!(
            choose(&taken, 0).expect("free").to_string(),
            "172.28.2.0/24"
        );
    }

    #[test]
    fn a_route_of_a_vpn_moves_the_choice_to_the_other_range() {
        let taken = occupied(&["172.16.0.0/12"]);
        assert_eq!(
            choose(&taken, 0).expect("free").to_string(),
            "10.208.0.0/24"
        );
    }

    #[test]
    fn full_ranges_give_nothing() {
        assert_eq!(choose(&occupied(&["172.16.0.0/12", "10.0.0.0/8"]), 7), None);
    }

    #[test]
    fn the_spread_wraps_around() {
        let taken = occupied(&["172.31.255.0/24"]);
        assert_eq!(
            choose(&taken, 1023).expect("free").to_string(),
            "172.28.0.0/24"
        );
    }

    #[test]
    fn a_pool_is_read_with_its_range_and_reserved_addresses() {
        let mut given = pool(Some("10.1.2.3/24"));
        given.ip_range = Some("10.1.2.128/25".into());
        given.gateway = Some([10, 1, 2, 254].into());
        given.aux_addresses = IndexMap::from([("router".into(), "10.1.2.200".into())]);
        let read = Pool::read(&[given]).expect("valid").expect("a pool");
        assert_eq!(read.subnet.to_string(), "10.1.2.0/24");
        assert_eq!(read.gateway, Ipv4Addr::new(10, 1, 2, 254));
        let bounds = (Ipv4Addr::new(10, 1, 2, 128), Ipv4Addr::new(10, 1, 2, 254));
        assert_eq!(read.bounds(), bounds);
        assert_eq!(
            read.reserved,
            [("router".into(), Ipv4Addr::new(10, 1, 2, 200))]
        );
    }

    #[test]
    fn an_ipv6_pool_is_passed_over() {
        assert_eq!(Pool::read(&[pool(Some("fd00::/64"))]).expect("valid"), None);
        let both = [pool(Some("fd00::/64")), pool(Some("10.1.0.0/16"))];
        assert!(Pool::read(&both).expect("valid").is_some());
    }

    #[test]
    fn impossible_pools_are_refused() {
        for text in ["", "10.1.0.0", "10.1.0.0/31", "10.0.0.0/4", "x/24"] {
            assert!(Pool::read(&[pool(Some(text))]).is_err(), "{text}");
        }
        let mut outside = pool(Some("10.1.0.0/24"));
        outside.gateway = Some([10, 1, 1, 1].into());
        assert!(Pool::read(&[outside]).is_err());
        let mut alone = pool(None);
        alone.gateway = Some([10, 1, 1, 1].into());
        assert!(Pool::read(&[alone]).is_err());
    }

    proptest! {
        #[test]
        fn a_chosen_subnet_never_overlaps(
            taken in proptest::collection::vec((any::<u32>(), 8_u8..=32), 0..20),
            near in proptest::collection::vec((0_u32..1 << 18, 18_u8..=30), 0..30),
            spread in 0_usize..100_000,
        ) {
            let near = near.into_iter().map(|(low, prefix)| (0xac1c_0000 | low, prefix));
            let occupied: Vec<_> = taken
                .into_iter()
                .chain(near)
                .map(|(address, prefix)| Occupied {
                    subnet: IpNet::new(IpAddr::V4(address.into()), prefix).expect("a prefix").trunc(),
                    by: String::new(),
                })
                .collect();
            if let Some(subnet) = choose(&occupied, spread) {
                prop_assert!(!occupied.iter().any(|other| overlap(subnet, other.subnet)));
                prop_assert!(RANGES.iter().any(|range| range.contains(&subnet)));
            }
        }

        #[test]
        fn pools_never_panic(subnet in ".{0,20}", range in ".{0,20}") {
            let mut given = pool(Some(&subnet));
            given.ip_range = Some(range);
            drop(Pool::read(&[given]));
        }
    }
}
