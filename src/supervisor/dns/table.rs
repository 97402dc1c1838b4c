//! Who has which name on which network, as seen from each sandbox.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use crate::network::{LABEL_DNS, SandboxRecord};

/// Port of name servers.
const PORT: u16 = 53;

/// What one sandbox may ask for.
#[derive(Debug, Default)]
struct Viewer {
    /// Networks that it is attached to, in order.
    networks: Vec<String>,
    /// It reaches nothing but internal networks.
    confined: bool,
    /// Servers of its own for foreign names.
    servers: Option<Vec<SocketAddr>>,
}

/// All names of all sandboxes of this host, of every project.
#[derive(Debug, Default)]
pub(super) struct Table {
    viewers: HashMap<String, Viewer>,
    /// Addresses of those that run, by network and name in lower case. A name whose owners all stand still has none.
    names: HashMap<String, HashMap<String, Vec<IpAddr>>>,
    /// Full names by network and address.
    owners: HashMap<String, HashMap<IpAddr, String>>,
}

/// Where questions for foreign names go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Nowhere: such names do not exist there.
    None,
    /// To the servers of the host.
    Host,
    Servers(Vec<SocketAddr>),
}

impl Table {
    /// From the records of all sandboxes. `internal`: names of networks without a way out. `boot`: records of another
    /// one have names and no addresses any more.
    pub(super) fn new<'a>(
        records: impl IntoIterator<Item = &'a SandboxRecord>,
        internal: &BTreeSet<String>,
        boot: &str,
    ) -> Self {
        let mut table = Self::default();
        for record in records {
            for attachment in &record.spec.attachments {
                let names = table.names.entry(attachment.network.clone()).or_default();
                for name in &attachment.names {
                    names.entry(name.to_lowercase()).or_default();
                }
            }
            if record.boot_id == boot {
                table.add(record, internal);
            }
        }
        table
    }

    fn add(&mut self, record: &SandboxRecord, internal: &BTreeSet<String>) {
        let spec = &record.spec;
        let networks: Vec<_> = record.endpoints.iter().map(|e| e.network.clone()).collect();
        let viewer = Viewer {
            confined: networks.iter().all(|network| internal.contains(network)),
            networks,
            servers: spec.labels.get(LABEL_DNS).map(|text| servers(text)),
        };
        self.viewers.insert(spec.id.clone(), viewer);
        for endpoint in &record.endpoints {
            let addresses = endpoint.addresses.iter().map(ipnet::IpNet::addr);
            let names = self.names.entry(endpoint.network.clone()).or_default();
            for name in endpoint
                .names
                .iter()
                .map(|name| name.to_lowercase())
                .collect::<BTreeSet<_>>()
            {
                let known = names.entry(name).or_default();
                if record.active && record.stands_by_for.is_none() {
                    known.extend(addresses.clone());
                }
            }
            if let Some(name) = full_name(&spec.id, &endpoint.names)
                && record.active
            {
                let owners = self.owners.entry(endpoint.network.clone()).or_default();
                owners.extend(
                    addresses.map(|address| (address, format!("{name}.{}", endpoint.network))),
                );
            }
        }
    }

    /// Addresses of `name` (in any case, without a final dot) as `sandbox` sees it; none if it is not ours. It may be
    /// followed by the name of a network.
    pub(super) fn addresses(&self, sandbox: &str, name: &str) -> Option<&[IpAddr]> {
        let name = name.to_lowercase();
        let mut found = None;
        for network in &self.viewers.get(sandbox)?.networks {
            let Some(names) = self.names.get(network) else {
                continue;
            };
            let within = || {
                name.strip_suffix(&network.to_lowercase())?
                    .strip_suffix('.')
            };
            match names.get(&name).or_else(|| names.get(within()?)) {
                Some(addresses) if !addresses.is_empty() => return Some(addresses),
                // Known, but nobody there runs; perhaps somebody on another network does.
                Some(addresses) => found = Some(&addresses[..]),
                None => {}
            }
        }
        found
    }

    /// Full name of the owner of `address` as `sandbox` sees it.
    pub(super) fn owner(&self, sandbox: &str, address: IpAddr) -> Option<&str> {
        let viewer = self.viewers.get(sandbox)?;
        viewer
            .networks
            .iter()
            .find_map(|network| self.owners.get(network)?.get(&address))
            .map(String::as_str)
    }

    pub(super) fn route(&self, sandbox: &str) -> Route {
        match self.viewers.get(sandbox) {
            None => Route::None,
            Some(viewer) if viewer.confined => Route::None,
            Some(viewer) => match &viewer.servers {
                Some(servers) => Route::Servers(servers.clone()),
                None => Route::Host,
            },
        }
    }
}

/// The addresses in `text`, separated by commas, each with a port if it is not 53. What is none is left out.
fn servers(text: &str) -> Vec<SocketAddr> {
    let server = |text: &str| {
        let address = text.parse().map(|address| SocketAddr::new(address, PORT));
        address.or_else(|_| text.parse()).ok()
    };
    text.split(',')
        .filter_map(|text| server(text.trim()))
        .collect()
}

/// The name of the container among `names`: the sandbox is called after it, perhaps with a suffix.
fn full_name<'a>(sandbox: &str, names: &'a [String]) -> Option<&'a String> {
    names
        .iter()
        .filter(|name| sandbox.starts_with(name.as_str()))
        .max_by_key(|name| name.len())
        .or(names.first())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::network::{Endpoint, SandboxSpec};

    pub(in super::super) const BOOT: &str = "this boot";

    /// A record of a running sandbox; networks as `name=address,address`.
    pub(in super::super) fn record(id: &str, names: &[&str], networks: &[&str]) -> SandboxRecord {
        let endpoints = networks.iter().map(|text| {
            let (network, addresses) = text.split_once('=').unwrap();
            Endpoint {
                network: network.into(),
                names: names.iter().map(ToString::to_string).collect(),
                interface: "eth0".into(),
                host_interface: None,
                addresses: addresses
                    .split(',')
                    .map(|text| text.parse().unwrap())
                    .collect(),
                gateways: Vec::new(),
                mac: String::new(),
                result: serde_json::Value::Null,
            }
        });
        SandboxRecord {
            spec: SandboxSpec {
                id: id.into(),
                ..SandboxSpec::default()
            },
            netns: "/nowhere".into(),
            endpoints: endpoints.collect(),
            ports: Vec::new(),
            active: true,
            boot_id: BOOT.into(),
            stands_by_for: None,
        }
    }

    fn table() -> Table {
        let mut stopped = record("shop-old-1", &["old"], &["shop_default=10.0.0.9/24"]);
        stopped.active = false;
        let mut labelled = record("shop-own-1", &["own"], &["shop_default=10.0.0.7/24"]);
        labelled
            .spec
            .labels
            .insert(LABEL_DNS.into(), "9.9.9.9, ::1,x,1.1.1.1:54".into());
        let records = [
            record(
                "shop-web-1",
                &["web", "shop-web-1"],
                &["shop_default=10.0.0.2/24"],
            ),
            record(
                "shop-web-2-b",
                &["web", "shop-web-2"],
                &["shop_default=10.0.0.3/24,fd00::3/64"],
            ),
            record(
                "shop-db-1",
                &["db", "Data.Base"],
                &["back=10.1.0.2/24", "shop_default=10.0.0.4/24"],
            ),
            record("shop-job-1", &["job"], &["back=10.1.0.3/24"]),
            record("shop-none-1", &["none"], &[]),
            record("other-web-1", &["web"], &["other=10.2.0.2/24"]),
            stopped,
            labelled,
        ];
        let mut earlier = record(
            "shop-gone-1",
            &["gone", "db"],
            &["shop_default=10.0.0.8/24"],
        );
        earlier.boot_id = "earlier".into();
        earlier.spec.attachments.push(crate::network::Attachment {
            network: "shop_default".into(),
            names: vec!["gone".into(), "db".into()],
            ..crate::network::Attachment::default()
        });
        let records = records.into_iter().chain([earlier]).collect::<Vec<_>>();
        Table::new(&records, &BTreeSet::from(["back".to_owned()]), BOOT)
    }

    fn addresses(sandbox: &str, name: &str) -> Option<Vec<String>> {
        let table = table();
        let found = table.addresses(sandbox, name)?;
        Some(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_sandbox_sees_the_names_on_its_own_networks() {
        let web = ["10.0.0.2", "10.0.0.3", "fd00::3"].map(String::from);
        assert_eq!(addresses("shop-db-1", "web").unwrap(), web);
        assert_eq!(addresses("shop-db-1", "WEB.Shop_Default").unwrap(), web);
        assert_eq!(addresses("other-web-1", "web").unwrap(), ["10.2.0.2"]);
        assert_eq!(addresses("shop-web-1", "data.base").unwrap(), ["10.0.0.4"]);
        assert_eq!(addresses("shop-web-1", "shop-web-2").unwrap().len(), 2);
        for (sandbox, name) in [
            ("shop-web-1", "job"),
            ("shop-web-1", "db.back"),
            ("shop-web-1", "example.com"),
            ("shop-web-1", "xshop_default"),
            ("shop-web-1", ".shop_default"),
            ("shop-none-1", "web"),
            ("nobody", "web"),
        ] {
            assert_eq!(addresses(sandbox, name), None, "{sandbox} {name}");
        }
    }

    #[test]
    fn who_stands_by_is_not_found() {
        let mut next = record("shop-web-1+", &["web"], &["shop_default=10.0.0.9/24"]);
        next.stands_by_for = Some("shop-web-1".into());
        let records = [
            record("shop-web-1", &["web"], &["shop_default=10.0.0.2/24"]),
            next,
        ];
        let table = Table::new(&records, &BTreeSet::new(), BOOT);
        let found = table.addresses("shop-web-1+", "web").unwrap();
        assert_eq!(found, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn on_two_networks_the_first_that_has_it_answers() {
        assert_eq!(addresses("shop-job-1", "db").unwrap(), ["10.1.0.2"]);
        assert_eq!(addresses("shop-db-1", "db").unwrap(), ["10.1.0.2"]);
        assert_eq!(
            addresses("shop-db-1", "db.shop_default").unwrap(),
            ["10.0.0.4"]
        );
    }

    #[test]
    fn a_name_whose_owner_stands_still_is_known_and_has_no_address() {
        for name in ["old", "gone"] {
            assert_eq!(addresses("shop-web-1", name).unwrap(), [""; 0], "{name}");
        }
    }

    #[test]
    fn an_address_leads_to_the_name_of_its_container() {
        let table = table();
        let owner = |sandbox, address: &str| table.owner(sandbox, address.parse().unwrap());
        assert_eq!(
            owner("shop-web-1", "10.0.0.3"),
            Some("shop-web-2.shop_default")
        );
        assert_eq!(
            owner("shop-web-1", "fd00::3"),
            Some("shop-web-2.shop_default")
        );
        assert_eq!(owner("shop-job-1", "10.1.0.2"), Some("db.back"));
        assert_eq!(owner("shop-web-1", "10.1.0.2"), None);
        assert_eq!(owner("shop-web-1", "10.0.0.9"), None);
    }

    #[test]
    fn foreign_names_go_where_the_container_says_unless_it_is_confined() {
        let table = table();
        assert_eq!(table.route("shop-web-1"), Route::Host);
        assert_eq!(table.route("shop-db-1"), Route::Host);
        assert_eq!(table.route("shop-job-1"), Route::None);
        assert_eq!(table.route("nobody"), Route::None);
        let servers = ["9.9.9.9:53", "[::1]:53", "1.1.1.1:54"].map(|text| text.parse().unwrap());
        assert_eq!(table.route("shop-own-1"), Route::Servers(servers.into()));
    }
}
