//! Who reaches whom.

use std::net::{Ipv4Addr, UdpSocket};

use super::world::{At, OUTSIDE, UPLINK, World, on_private_host, port, run};
use crate::network::NetworkSpec;

#[test]
fn networks_do_not_reach_each_other_in_either_direction() {
    on_private_host(|world| async move {
        world.network("a").await;
        world.network("b").await;
        let a = world.sandbox("a-1", &["a"], &[]).await;
        let b = world.sandbox("b-1", &["b"], &[]).await;
        let both = world.sandbox("both-1", &["a", "b"], &[]).await;
        for sandbox in [&a, &b, &both] {
            sandbox.at.serve(80, "here");
        }
        assert!(a.at.is_refused(b.address(), 80));
        assert!(b.at.is_refused(a.address(), 80));
        // Nor by an address of a member of both, on the side that is not theirs.
        assert!(a.at.is_refused(both.address_on(1), 80));
        assert_eq!(
            a.at.ask(both.address_on(0), 80),
            format!("here {}", a.address())
        );
        assert_eq!(
            b.at.ask(both.address_on(1), 80),
            format!("here {}", b.address())
        );
        assert_eq!(
            both.at.ask(b.address(), 80),
            format!("here {}", both.address_on(1))
        );
    });
}

#[test]
fn an_unpublished_port_is_not_reachable_from_outside() {
    on_private_host(|world| async move {
        world.network("a").await;
        let a = world.sandbox("a-1", &["a"], &[port(None, 8080, 80)]).await;
        a.at.serve(80, "published");
        a.at.serve(81, "hidden");
        assert!(world.outside.is_refused(a.address(), 81));
        assert!(world.outside.is_refused(a.address(), 80));
        assert!(world.outside.ask(UPLINK, 8080).starts_with("published"));
        assert!(At::Host.ask(a.address(), 81).starts_with("hidden"));
    });
}

#[test]
fn an_internal_network_is_closed_even_with_a_route() {
    on_private_host(|world| async move {
        world.internal_network("inner").await;
        world.network("open").await;
        let requests = [port(None, 8081, 80)];
        let inner = world.sandbox("inner-1", &["inner"], &requests).await;
        let peer = world.sandbox("inner-2", &["inner"], &[]).await;
        let open = world
            .sandbox("open-1", &["open"], &[port(None, 8080, 80)])
            .await;
        for at in [&inner.at, &peer.at, &open.at, &world.outside] {
            at.serve(80, "here");
        }
        assert_eq!(inner.at.shell("ip route show default"), "");
        inner
            .at
            .shell(&format!("ip route add default via {}", inner.gateway()));
        assert!(inner.at.is_refused(OUTSIDE, 80));
        assert!(inner.at.is_refused(open.address(), 80));
        assert!(inner.at.is_refused(UPLINK, 8080));
        assert!(open.at.is_refused(inner.address(), 80));
        assert!(world.outside.is_refused(inner.address(), 80));
        // Its published port is the host's alone.
        assert!(world.outside.is_refused(UPLINK, 8081));
        assert!(open.at.is_refused(UPLINK, 8081));
        assert!(At::Host.ask(Ipv4Addr::LOCALHOST, 8081).starts_with("here"));
        assert!(At::Host.ask(UPLINK, 8081).starts_with("here"));
        assert_eq!(
            inner.at.ask(peer.address(), 80),
            format!("here {}", inner.address())
        );
        assert!(At::Host.ask(inner.address(), 80).starts_with("here"));
    });
}

#[test]
fn a_sandbox_on_an_internal_and_an_open_network_goes_out_by_the_open_one() {
    on_private_host(|world| async move {
        world.internal_network("inner").await;
        world.network("open").await;
        let both = world
            .sandbox("both-1", &["inner", "open"], &[port(None, 8080, 80)])
            .await;
        both.at.serve(80, "both");
        world.outside.serve(80, "outside");
        assert_eq!(both.at.ask(OUTSIDE, 80), format!("outside {UPLINK}"));
        assert!(world.outside.ask(UPLINK, 8080).starts_with("both"));
    });
}

#[test]
fn all_of_it_holds_where_iptables_drops_forwarded_packets() {
    on_private_host(|world| async move {
        run("iptables", &["-P", "FORWARD", "DROP"]);
        run(
            "iptables",
            &[
                "-A",
                "FORWARD",
                "-m",
                "comment",
                "--comment",
                "other",
                "-j",
                "DROP",
            ],
        );
        world.network("a").await;
        world.network("b").await;
        let a = world.sandbox("a-1", &["a"], &[port(None, 8080, 80)]).await;
        let peer = world.sandbox("a-2", &["a"], &[]).await;
        let b = world.sandbox("b-1", &["b"], &[]).await;
        for at in [&a.at, &peer.at, &b.at, &world.outside] {
            at.serve(80, "here");
        }
        assert_eq!(a.at.ask(OUTSIDE, 80), format!("here {UPLINK}"));
        assert!(a.at.ask(peer.address(), 80).starts_with("here"));
        assert!(a.at.is_refused(b.address(), 80));
        assert!(b.at.is_refused(a.address(), 80));
        assert!(world.outside.ask(UPLINK, 8080).starts_with("here"));
        assert!(At::Host.ask(Ipv4Addr::LOCALHOST, 8080).starts_with("here"));
        for client in [&a, &peer, &b] {
            assert!(client.at.ask(UPLINK, 8080).starts_with("here"));
        }
        assert!(world.outside.is_refused(a.address(), 80));
        for (id, network) in [("a-1", "a"), ("a-2", "a"), ("b-1", "b")] {
            world.networks.remove_sandbox(id).await.expect("removed");
            if id != "a-1" {
                world.networks.remove(network).await.expect("removed");
            }
        }
        let rules = run("iptables", &["-S"]);
        assert!(
            !rules.contains("COMPOSE") && rules.contains("--comment other"),
            "{rules}"
        );
    });
}

#[test]
fn a_container_does_not_reach_services_of_the_hosts_loopback() {
    on_private_host(|world| async move {
        world.network("a").await;
        let a = world
            .sandbox("a-1", &["a"], &[port(Some("127.0.0.1"), 8080, 80)])
            .await;
        a.at.serve(80, "published");
        let secret = UdpSocket::bind("127.0.0.1:0").expect("bind");
        assert!(At::Host.delivers(Ipv4Addr::LOCALHOST, &secret));
        // What a container with NET_ADMIN can do.
        a.at.shell(&format!(
            "ip route add 127.0.0.1/32 via {0} dev eth0 src {1}
             ip route del local 127.0.0.1 table local || true
             ip route del local 127.0.0.0/8 table local || true
             echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet",
            a.gateway(),
            a.address()
        ));
        assert!(!a.at.delivers(Ipv4Addr::LOCALHOST, &secret));
        assert!(a.at.is_refused(Ipv4Addr::LOCALHOST, 8080));
        assert!(
            At::Host
                .ask(Ipv4Addr::LOCALHOST, 8080)
                .starts_with("published")
        );
        // Without the rule it would be delivered.
        At::Host.shell(&format!("nft flush chain {} loopback", World::table()));
        assert!(a.at.delivers(Ipv4Addr::LOCALHOST, &secret));
    });
}

#[test]
fn without_inter_container_traffic_only_published_ports_answer() {
    on_private_host(|world| async move {
        World::filter_frames(true);
        only_published_ports_answer(world).await;
    });
}

#[test]
fn without_inter_container_traffic_only_published_ports_answer_unfiltered() {
    on_private_host(|world| async move {
        World::filter_frames(false);
        only_published_ports_answer(world).await;
    });
}

async fn only_published_ports_answer(world: World) {
    let mut spec = NetworkSpec {
        name: "a".into(),
        ..NetworkSpec::default()
    };
    let option = "com.docker.network.bridge.enable_icc";
    spec.driver_opts.insert(option.into(), "false".into());
    world.network_of(spec).await;
    let first = world.sandbox("a-1", &["a"], &[port(None, 8080, 80)]).await;
    let second = world.sandbox("a-2", &["a"], &[]).await;
    first.at.serve(80, "first");
    first.at.serve(81, "hidden");
    world.outside.serve(80, "outside");
    assert!(second.at.is_refused(first.address(), 80));
    // Nor by way of the host.
    second.at.shell(&format!(
        "ip route add {}/32 via {}",
        first.address(),
        first.gateway()
    ));
    assert!(second.at.is_refused(first.address(), 81));
    assert!(second.at.ask(UPLINK, 8080).starts_with("first"));
    assert!(second.at.ask(OUTSIDE, 80).starts_with("outside"));
}

#[test]
fn without_masquerade_the_outside_sees_the_containers_address() {
    on_private_host(|world| async move {
        let mut spec = NetworkSpec {
            name: "a".into(),
            ..NetworkSpec::default()
        };
        let option = "com.docker.network.bridge.enable_ip_masquerade";
        spec.driver_opts.insert(option.into(), "false".into());
        world.network_of(spec).await;
        let first = world.sandbox("a-1", &["a"], &[]).await;
        world.outside.serve(80, "outside");
        assert_eq!(
            first.at.ask(OUTSIDE, 80),
            format!("outside {}", first.address())
        );
    });
}
