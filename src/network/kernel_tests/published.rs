//! Published ports.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use super::world::{
    At, OUTSIDE, UPLINK, World, ask_with, describe, on_private_host, port, run, spec, udp,
    within_ten_seconds,
};
use crate::network::{NetworkError, PortRequest};

#[test]
fn a_port_answers_on_every_address_and_from_every_network() {
    on_private_host(|world| async move {
        World::filter_frames(true);
        answers_everywhere(world).await;
    });
}

#[test]
fn a_port_answers_on_every_address_where_frames_are_not_filtered() {
    on_private_host(|world| async move {
        World::filter_frames(false);
        // Many distributions check that packets come from where answers would go.
        run("sysctl", &["-qw", "net.ipv4.conf.all.rp_filter=1"]);
        answers_everywhere(world).await;
    });
}

async fn answers_everywhere(world: World) {
    world.network("a").await;
    world.network("b").await;
    let requests = [port(None, 8080, 80), udp(port(None, 8053, 53))];
    let web = world.sandbox("web-1", &["a"], &requests).await;
    let peer = world.sandbox("peer-1", &["a"], &[]).await;
    let other = world.sandbox("other-1", &["b"], &[]).await;
    web.at.serve(80, "web");
    web.at.serve_udp(53, "names");
    let places = [&At::Host, &world.outside, &web.at, &peer.at, &other.at];
    for at in places {
        assert!(at.ask(UPLINK, 8080).starts_with("web"), "{at:?}");
        let answer = at.ask_udp(UPLINK, 8053).expect("an answer");
        assert!(answer.starts_with("names"), "{at:?}: {answer}");
    }
    assert!(At::Host.ask(Ipv4Addr::LOCALHOST, 8080).starts_with("web"));
    assert!(At::Host.ask_udp(Ipv4Addr::LOCALHOST, 8053).is_ok());
    assert!(peer.at.ask(peer.gateway(), 8080).starts_with("web"));
    // The outside is seen as what it is.
    assert_eq!(world.outside.ask(UPLINK, 8080), format!("web {OUTSIDE}"));
    let keys: Vec<&str> = web.held.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "port/web-1/tcp/0.0.0.0:8080",
            "port/web-1/udp/0.0.0.0:8053",
            "dns/web-1/udp",
            "dns/web-1/tcp"
        ]
    );
}

#[test]
fn a_port_on_loopback_is_the_hosts_alone() {
    on_private_host(|world| async move {
        world.network("a").await;
        let web = world
            .sandbox("web-1", &["a"], &[port(Some("127.0.0.1"), 8080, 80)])
            .await;
        web.at.serve(80, "web");
        assert!(At::Host.ask(Ipv4Addr::LOCALHOST, 8080).starts_with("web"));
        assert!(world.outside.is_refused(UPLINK, 8080));
        assert!(web.at.is_refused(UPLINK, 8080));
        // A neighbour on the wire that sends to 127.0.0.1 of the host.
        world.outside.shell(&format!(
            "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
             ip route del local 127.0.0.0/8 table local
             ip route del local 127.0.0.1 table local
             ip route add 127.0.0.1 via {UPLINK} src {OUTSIDE}"
        ));
        run("sysctl", &["-qw", "net.ipv4.conf.wan0.route_localnet=1"]);
        let secret = UdpSocket::bind("127.0.0.1:0").expect("bind");
        assert!(!world.outside.delivers(Ipv4Addr::LOCALHOST, &secret));
        assert!(world.outside.is_refused(Ipv4Addr::LOCALHOST, 8080));
        assert!(world.outside.is_refused(web.address(), 80));
        // Without the rule it would be delivered.
        At::Host.shell(&format!("nft flush chain {} loopback", World::table()));
        assert!(world.outside.delivers(Ipv4Addr::LOCALHOST, &secret));
    });
}

#[test]
fn a_port_on_one_address_answers_there_only() {
    on_private_host(|world| async move {
        world.network("a").await;
        let web = world
            .sandbox("web-1", &["a"], &[port(Some("192.0.2.1"), 8080, 80)])
            .await;
        web.at.serve(80, "web");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
        assert!(At::Host.is_refused(Ipv4Addr::LOCALHOST, 8080));
        let elsewhere = world
            .sandbox("web-2", &["a"], &[port(Some("127.0.0.1"), 8080, 80)])
            .await;
        elsewhere.at.serve(80, "elsewhere");
        assert!(
            At::Host
                .ask(Ipv4Addr::LOCALHOST, 8080)
                .starts_with("elsewhere")
        );
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
    });
}

#[test]
fn replicas_share_a_range_and_the_one_too_many_is_refused() {
    on_private_host(|world| async move {
        world.network("a").await;
        let range = PortRequest {
            host_ports: Some((8000, 8002)),
            ..port(None, 0, 80)
        };
        let networks = &world.networks;
        let make = |number: u32| {
            let spec = spec(
                &format!("web-{number}"),
                &["a"],
                std::slice::from_ref(&range),
            );
            async move { networks.create_sandbox(&spec).await }
        };
        let (first, second, third) = tokio::join!(make(1), make(2), make(3));
        let made = [first, second, third].map(|made| made.expect("a port is free"));
        let mut ports: Vec<u16> = made
            .iter()
            .map(|(record, _)| record.ports[0].host_port)
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [8000, 8001, 8002]);
        let error = make(4).await.expect_err("none is left").to_string();
        assert!(
            error.starts_with("port 0.0.0.0:8000-8002/tcp is in use by web-"),
            "{error}"
        );
        let left = world.networks.sandbox("web-4").expect("readable");
        assert_eq!(left, None);
    });
}

#[test]
fn any_free_port_is_chosen_by_the_kernel() {
    on_private_host(|world| async move {
        world.network("a").await;
        let any = PortRequest {
            host_ports: None,
            ..port(None, 0, 80)
        };
        let requests = [any.clone(), udp(any)];
        let web = world.sandbox("web-1", &["a"], &requests).await;
        web.at.serve(80, "web");
        let ports: Vec<u16> = web.record.ports.iter().map(|port| port.host_port).collect();
        assert!(ports.iter().all(|port| *port >= 1024));
        assert!(world.outside.ask(UPLINK, ports[0]).starts_with("web"));
    });
}

#[test]
fn a_taken_port_is_refused_with_its_owner() {
    on_private_host(|world| async move {
        world.network("a").await;
        let web = world
            .sandbox("shop-web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        for address in [None, Some("127.0.0.1"), Some("192.0.2.1")] {
            let spec = spec("blog-web-1", &["a"], &[port(address, 8080, 80)]);
            let error = world
                .networks
                .create_sandbox(&spec)
                .await
                .expect_err("taken");
            assert!(
                error.to_string().ends_with("is in use by shop-web-1"),
                "{error}"
            );
        }
        let _listener = TcpListener::bind("0.0.0.0:9090").expect("bind");
        let spec = spec("blog-web-1", &["a"], &[port(None, 9090, 80)]);
        let error = world
            .networks
            .create_sandbox(&spec)
            .await
            .expect_err("taken");
        assert_eq!(error.to_string(), "port 0.0.0.0:9090/tcp is in use");
        let hints = error.hints().join("\n");
        assert!(
            hints.contains(&format!("process {}", std::process::id())),
            "{hints}"
        );
        // A program of the host cannot take a published port either.
        TcpListener::bind("127.0.0.1:8080").expect_err("held");
        drop(web);
        TcpListener::bind("0.0.0.0:8080").expect("free once nobody holds it");
    });
}

#[test]
fn a_port_leads_to_the_sandbox_that_stood_by_and_open_connections_stay() {
    on_private_host(|world| async move {
        world.network("a").await;
        let requests = [port(None, 8080, 80), udp(port(None, 8080, 80))];
        let old = world.sandbox("web-1", &["a"], &requests).await;
        old.at.serve(80, "old");
        let new = world.standby("web-1+", &["a"], &requests, "web-1").await;
        new.at.serve(80, "new");
        assert!(new.record.ports.is_empty());
        assert!(world.outside.ask(UPLINK, 8080).starts_with("old"));

        let stands_by = |id: &str| {
            let record = world.networks.sandbox(id).expect("readable");
            record.expect("recorded").stands_by_for
        };
        for _ in 0..2 {
            let switched = world.networks.switch_sandbox("web-1", "web-1+").await;
            switched.expect("switched");
            assert!(world.outside.ask(UPLINK, 8080).starts_with("new"));
            assert!(At::Host.ask(Ipv4Addr::LOCALHOST, 8080).starts_with("new"));
        }
        assert_eq!(stands_by("web-1+"), None);
        assert_eq!(stands_by("web-1").as_deref(), Some("web-1+"));

        let back = world.networks.switch_sandbox("web-1+", "web-1").await;
        assert_eq!(back.expect("switched back").moved.len(), 2);
        assert!(world.outside.ask(UPLINK, 8080).starts_with("old"));
        let removed = world.networks.remove_sandbox("web-1+").await;
        removed.expect("removed");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("old"));
        let garbage = world.networks.collect_garbage().await.expect("collected");
        assert!(garbage.is_empty(), "{garbage:?}");
    });
}

#[test]
fn a_port_of_a_client_that_is_used_again_leads_to_the_new_sandbox() {
    on_private_host(|world| async move {
        world.network("a").await;
        let requests = [port(None, 8080, 80)];
        let old = world.sandbox("web-1", &["a"], &requests).await;
        old.at.serve(80, "old");
        let _new = world.standby("web-1+", &["a"], &requests, "web-1").await;
        world.outside.ask(UPLINK, 8080);
        let address = old.address().to_string();
        let remembered = || {
            let entries = run("conntrack", &["-L"]);
            let mut entries = entries.lines();
            entries.any(|entry| entry.contains(&address) && entry.contains("TIME_WAIT"))
        };
        assert!(within_ten_seconds(remembered), "it is not closed");
        let switched = world.networks.switch_sandbox("web-1", "web-1+").await;
        switched.expect("switched");
        assert!(!remembered());
    });
}

#[test]
fn a_switch_that_is_cut_off_between_its_records_is_finished() {
    on_private_host(|world| async move {
        world.network("a").await;
        let requests = [port(None, 8080, 80)];
        let old = world.sandbox("web-1", &["a"], &requests).await;
        old.at.serve(80, "old");
        let new = world.standby("web-1+", &["a"], &requests, "web-1").await;
        new.at.serve(80, "new");
        let record = world.networks.host.layout.sandbox_record("web-1");
        let before = std::fs::read(&record).expect("a record");
        let switched = world.networks.switch_sandbox("web-1", "web-1+").await;
        switched.expect("switched");
        std::fs::write(&record, before).expect("written");

        // Whoever looks after the rules meanwhile can live with it, and so can who holds the ports anew.
        world.networks.mend_firewall().await.expect("rules");
        assert!(!world.outside.ask(UPLINK, 8080).is_empty());
        drop((old.held, new.held));
        let mut held = Vec::new();
        for id in ["web-1", "web-1+"] {
            held.extend(world.networks.reopen(id).await.expect("reopened"));
        }
        let is_port = |key: &&String| key.starts_with("port/");
        assert_eq!(held.iter().map(|(key, _)| key).filter(is_port).count(), 1);

        let id = |text: &str| text.to_owned();
        let half = world.networks.half_switched().await.expect("readable");
        assert_eq!(half, [(id("web-1+"), id("web-1"))]);
        world.networks.set_active("web-1+", true).expect("recorded");
        let half = world.networks.half_switched().await.expect("readable");
        assert_eq!(half, [(id("web-1"), id("web-1+"))]);
        let switched = world.networks.switch_sandbox("web-1", "web-1+").await;
        assert_eq!(switched.expect("switched").moved.len(), 1);
        assert!(world.outside.ask(UPLINK, 8080).starts_with("new"));
        let half = world.networks.half_switched().await.expect("readable");
        assert!(half.is_empty(), "{half:?}");
        let removed = world.networks.remove_sandbox("web-1").await;
        removed.expect("removed");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("new"));
    });
}

#[test]
fn a_port_whose_closed_connections_linger_is_free() {
    on_private_host(|world| async move {
        world.network("a").await;
        let listener = TcpListener::bind("0.0.0.0:8080").expect("bind");
        let client = std::net::TcpStream::connect("127.0.0.1:8080").expect("connect");
        let (server, _) = listener.accept().expect("accept");
        drop(server);
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop((client, listener));
        let web = world
            .sandbox("web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        web.at.serve(80, "web");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
        let error = world
            .networks
            .create_sandbox(&spec("web-2", &["a"], &[port(None, 8080, 80)]))
            .await;
        assert!(matches!(error, Err(NetworkError::PortTaken { .. })));
        TcpListener::bind("0.0.0.0:8080").expect_err("held");
    });
}

#[test]
fn ports_that_cannot_be_are_refused_and_leave_nothing() {
    on_private_host(|world| async move {
        world.network("a").await;
        let request = |host_ip: &str, protocol: &str| PortRequest {
            protocol: protocol.into(),
            ..port(Some(host_ip), 8080, 80)
        };
        for (request, part) in [
            (request("::1", "tcp"), "IPv4 only"),
            (request("[::]", "tcp"), "IPv4 only"),
            (request("198.51.100.7", "tcp"), "no interface has it"),
            (request("example.org", "tcp"), "a host address"),
            (request("127.0.0.1", "icmp"), "a protocol"),
            (
                PortRequest {
                    host_ports: Some((9, 8)),
                    ..port(None, 0, 80)
                },
                "a range",
            ),
            (port(None, 8080, 0), "a container port"),
        ] {
            let refused = world
                .networks
                .create_sandbox(&spec("web-1", &["a"], &[request]))
                .await;
            let error = describe(&refused.expect_err("impossible"));
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(
            world.networks.collect_garbage().await.expect("collected"),
            Vec::<String>::new()
        );
    });
}

#[test]
fn a_udp_client_goes_on_after_a_recreate() {
    on_private_host(|world| async move {
        world.network("a").await;
        let request = [udp(port(None, 8053, 53))];
        let client = world.outside.udp_client();
        let first = world.sandbox("names-1", &["a"], &request).await;
        first.at.serve_udp(53, "first");
        assert!(
            ask_with(&client, UPLINK, 8053)
                .expect("an answer")
                .starts_with("first")
        );
        world
            .networks
            .remove_sandbox("names-1")
            .await
            .expect("removed");
        drop(first);
        // Sent while nobody is there: connection tracking remembers a flow to the host itself.
        client.send_to(b"?", (UPLINK, 8053)).expect("sent");
        let other = world.sandbox("other-1", &["a"], &[]).await;
        let second = world.sandbox("names-1", &["a"], &request).await;
        assert_ne!(second.address(), other.address());
        second.at.serve_udp(53, "second");
        client.set_nonblocking(true).expect("set");
        while client.recv(&mut [0; 100]).is_ok() {}
        client.set_nonblocking(false).expect("set");
        let answer = (0..3).find_map(|_| ask_with(&client, UPLINK, 8053).ok());
        assert!(answer.is_some_and(|answer| answer.starts_with("second")));
    });
}

#[test]
fn connections_of_a_removed_address_are_forgotten() {
    on_private_host(|world| async move {
        world.network("a").await;
        let web = world
            .sandbox("web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        web.at.serve(80, "web");
        world.outside.ask(UPLINK, 8080);
        let entries = || run("conntrack", &["-L"]);
        let address = web.address().to_string();
        assert!(entries().contains(&address));
        world
            .networks
            .remove_sandbox("web-1")
            .await
            .expect("removed");
        assert!(!entries().contains(&address), "{}", entries());
    });
}

#[test]
fn the_resolver_sockets_answer_on_port_53_which_stays_free() {
    on_private_host(|world| async move {
        world.network("a").await;
        let mut web = world.sandbox("web-1", &["a"], &[]).await;
        let address = Ipv4Addr::new(127, 0, 0, 11);
        let own = web
            .at
            .run(|| UdpSocket::bind("0.0.0.0:53").expect("port 53 is free"));
        let mut take = |key: &str| -> OwnedFd {
            let position = web
                .held
                .iter()
                .position(|(name, _)| name == key)
                .expect("held");
            web.held.remove(position).1
        };
        let udp = UdpSocket::from(take("dns/web-1/udp"));
        let tcp = TcpListener::from(take("dns/web-1/tcp"));
        udp.set_nonblocking(false).expect("set");
        tcp.set_nonblocking(false).expect("set");
        std::thread::spawn(move || {
            let (_, peer) = udp.recv_from(&mut [0; 100]).expect("a question");
            udp.send_to(b"answer", peer).expect("sent");
        });
        std::thread::spawn(move || {
            let (mut stream, _) = tcp.accept().expect("a client");
            std::io::Write::write_all(&mut stream, b"stream").expect("sent");
        });
        let client = web.at.udp_client();
        web.at
            .run(|| client.connect((address, 53)).expect("connect"));
        client.send(b"?").expect("sent");
        let mut buffer = [0; 100];
        // A connected socket takes answers from port 53 only.
        let length = client.recv(&mut buffer).expect("an answer");
        assert_eq!(&buffer[..length], b"answer");
        assert_eq!(web.at.ask(address, 53), "stream");
        // The container's own service.
        std::thread::spawn(move || {
            let (_, peer) = own.recv_from(&mut [0; 100]).expect("a question");
            own.send_to(b"own", peer).expect("sent");
        });
        assert_eq!(
            At::Host.ask_udp(web.address(), 53).expect("an answer"),
            "own"
        );
    });
}
