//! Two sandboxes of one slot: one has the names and the published ports, the other stands by to come in its place.

use super::firewall::Change;
use super::host::Host;
use super::join::{join, ports_index};
use super::netlink::conntrack::Forget;
use super::record::{self, Stored};
use super::sandbox::{port_key, udp_ports};
use super::{
    Held, NetworkError, PortRequest, PublishedPort, SandboxRecord, Switched, namespace, options,
    ports,
};
use crate::failpoint::boundary;

impl Host {
    /// Those ports of a sandbox that the one for which it stands by publishes.
    pub(super) fn kept_by_other(
        &self,
        stored: &SandboxRecord,
    ) -> Result<Vec<PortRequest>, NetworkError> {
        let other = match &stored.stands_by_for {
            Some(other) => record::sandbox(&self.layout, other)?,
            None => None,
        };
        let Some(other) = other else {
            return Ok(Vec::new());
        };
        let mut published = other.record.ports.clone();
        let requests = stored.spec.ports.iter();
        Ok(requests
            .filter(|request| take(&mut published, request, &other.record).is_some())
            .cloned()
            .collect())
    }

    /// See `Networks::switch_sandbox`.
    pub(super) fn switch_sandbox(&self, from: &str, to: &str) -> Result<Switched, NetworkError> {
        let _use = self.layout.lock_use()?;
        let mut new = self.stored(to)?;
        let mut old = record::sandbox(&self.layout, from)?;
        if new.is_released() {
            // It has nothing that could be led to; what it takes back is its own if nobody else has it.
            return self.succeed(new, old).map(|()| Switched::default());
        }
        let before = old.as_ref().map_or_else(Vec::new, Stored::forwards);
        let (ports, mut switched) = self.divide(&mut new.record, old.as_mut())?;
        new.record.ports = ports;
        if new.forward_to.is_none() {
            new.forward_to = self.target(&new)?;
        }
        // New connections may lead to either until the other one's record is written.
        new.record.stands_by_for = None;
        new.save(&self.layout)?;
        boundary("switch sandbox: one record");
        if let Some(old) = &mut old {
            old.record.stands_by_for = Some(to.to_owned());
            old.save(&self.layout)?;
        }
        boundary("switch sandbox: both records");
        let (mut switch, mut add) = (Vec::new(), Vec::new());
        for forward in new.forwards() {
            match before.iter().find(|before| before.same_key(&forward)) {
                Some(before) => switch.push((before.clone(), forward)),
                None => add.push(forward),
            }
        }
        let udp = udp_ports(&new.record.ports);
        let change = Change {
            switch,
            add,
            forget: Forget {
                // A client goes on sending from one port, and would reach the old one for ever.
                udp,
                closed: before.iter().map(|before| before.target).collect(),
                ..Forget::default()
            },
            ..Change::default()
        };
        self.firewall
            .apply(change, || record::rules(&self.layout))?;
        switched.moved.retain(|(before, after)| before != after);
        Ok(switched)
    }

    /// See `Networks::half_switched`.
    pub(super) fn half_switched(&self) -> Result<Vec<(String, String)>, NetworkError> {
        let mut serving = record::sandboxes(&self.layout)?;
        serving.retain(|record| {
            // One whose kernel half is gone has nothing that somebody else could not have by now.
            record.stands_by_for.is_none() && namespace::exists(&record.netns)
        });
        let mut found = Vec::new();
        for (index, one) in serving.iter().enumerate() {
            for other in &serving[index + 1..] {
                if other.ports.iter().any(|port| one.ports.contains(port)) {
                    let is_other = other.active && !one.active;
                    let (from, to) = if is_other { (one, other) } else { (other, one) };
                    found.push((from.spec.id.clone(), to.spec.id.clone()));
                }
            }
        }
        Ok(found)
    }

    /// Changes nothing but the records.
    fn succeed(&self, mut new: Stored, old: Option<Stored>) -> Result<(), NetworkError> {
        let id = new.record.spec.id.clone();
        new.record.stands_by_for = None;
        new.save(&self.layout)?;
        if let Some(mut old) = old {
            old.record.stands_by_for = Some(id);
            old.save(&self.layout)?;
        }
        Ok(())
    }

    /// The ports of `new` in the order of its requests: its own, those that it takes over from `old`, and those that it has to
    /// hold anew.
    fn divide(
        &self,
        new: &mut SandboxRecord,
        mut old: Option<&mut Stored>,
    ) -> Result<(Vec<PublishedPort>, Switched), NetworkError> {
        let joined = join(&new.spec.attachments, &self.layout)?;
        let default = ports_index(&joined)
            .and_then(|index| joined.get(index))
            .and_then(|join| options::host_binding(&join.network.spec));
        let mut own = std::mem::take(&mut new.ports);
        let mut ports = Vec::new();
        let mut switched = Switched::default();
        for request in &new.spec.ports {
            let kept = take(&mut own, request, new);
            // Both claim it after a switch that was cut off.
            let taken = old.as_deref_mut().and_then(|old| {
                let mut published = std::mem::take(&mut old.record.ports);
                let port = take(&mut published, request, &old.record);
                old.record.ports = published;
                port.map(|port| (port_key(&old.record.spec.id, &port), port))
            });
            if let Some((before, port)) = taken {
                let after = port_key(&new.spec.id, &port);
                switched.moved.push((before, after));
                ports.push(port);
                continue;
            }
            if let Some(port) = kept {
                ports.push(port);
                continue;
            }
            if joined.is_empty() {
                continue;
            }
            let bound = ports::hold(request, default).map_err(|error| self.name_owner(error))?;
            let key = port_key(&new.spec.id, &bound.port);
            let held: Held = bound
                .socket
                .map(|socket| (key, socket))
                .into_iter()
                .collect();
            switched.held.extend(held);
            ports.push(bound.port);
        }
        Ok((ports, switched))
    }

    /// Where published ports of a sandbox lead; none if it has none or plugins do that.
    fn target(&self, stored: &Stored) -> Result<Option<std::net::Ipv4Addr>, NetworkError> {
        if stored.record.ports.is_empty() {
            return Ok(None);
        }
        let joined = join(&stored.record.spec.attachments, &self.layout)?;
        let index = ports_index(&joined).filter(|index| joined[*index].in_process());
        let endpoint = index.and_then(|index| stored.record.endpoints.get(index));
        Ok(endpoint.and_then(record::address))
    }
}

/// Takes the port out of `published` that `request` of the sandbox `owner` stands for.
fn take(
    published: &mut Vec<PublishedPort>,
    request: &PortRequest,
    owner: &SandboxRecord,
) -> Option<PublishedPort> {
    if !owner.spec.ports.contains(request) {
        return None;
    }
    let protocol = match request.protocol.as_str() {
        "" => "tcp",
        protocol => protocol,
    };
    let fits = |port: &PublishedPort| {
        let address = request.host_ip.as_deref().filter(|text| !text.is_empty());
        let address = address.and_then(|text| text.trim_matches(['[', ']']).parse().ok());
        let range = request.host_ports.filter(|(_, last)| *last != 0);
        port.container_port == request.container_port
            && port.protocol.eq_ignore_ascii_case(protocol)
            && address.is_none_or(|address: std::net::IpAddr| address == port.host_ip)
            && range.is_none_or(|(first, last)| (first..=last).contains(&port.host_port))
    };
    let index = published.iter().position(fits)?;
    Some(published.remove(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::SandboxSpec;

    fn request(host_ports: Option<(u16, u16)>, container_port: u16) -> PortRequest {
        PortRequest {
            host_ports,
            container_port,
            ..PortRequest::default()
        }
    }

    fn port(host_port: u16, container_port: u16) -> PublishedPort {
        PublishedPort {
            host_ip: [0, 0, 0, 0].into(),
            host_port,
            container_port,
            protocol: "tcp".into(),
        }
    }

    #[test]
    fn each_request_takes_the_port_that_was_chosen_for_it() {
        let requests = [request(Some((8080, 8090)), 80), request(None, 443)];
        let owner = SandboxRecord {
            spec: SandboxSpec {
                ports: requests.to_vec(),
                ..SandboxSpec::default()
            },
            netns: "/nowhere".into(),
            endpoints: Vec::new(),
            ports: Vec::new(),
            active: true,
            boot_id: String::new(),
            stands_by_for: None,
        };
        let mut published = vec![port(32768, 443), port(8081, 80)];
        let other = request(Some((9000, 9000)), 80);
        assert_eq!(take(&mut published, &other, &owner), None);
        assert_eq!(
            take(&mut published, &requests[0], &owner),
            Some(port(8081, 80))
        );
        assert_eq!(take(&mut published, &requests[0], &owner), None);
        assert_eq!(
            take(&mut published, &requests[1], &owner),
            Some(port(32768, 443))
        );
    }
}
