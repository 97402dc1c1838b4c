//! What a sandbox looks like inside, and many of them at once.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::world::{At, Sandbox, UPLINK, describe, on_private_host, port, spec};
use crate::model::IpamPool;
use crate::network::{Attachment, NetworkError, NetworkSpec, Networks, SandboxSpec};
use crate::state::StateRoot;

#[test]
fn addresses_names_and_settings_are_as_asked() {
    on_private_host(|world| async move {
        let pool = IpamPool {
            subnet: Some("10.77.0.0/16".into()),
            gateway: Some([10, 77, 0, 254].into()),
            ip_range: Some("10.77.5.0/24".into()),
            ..IpamPool::default()
        };
        let mut network = NetworkSpec {
            name: "fixed".into(),
            pools: vec![pool],
            ..NetworkSpec::default()
        };
        network
            .driver_opts
            .insert("com.docker.network.driver.mtu".into(), "1400".into());
        network
            .driver_opts
            .insert("com.docker.network.bridge.name".into(), "shop0".into());
        let record = world.network_of(network).await;
        assert_eq!(record.bridge, "shop0");
        world.network("other").await;
        let mut wanted = spec("web-1", &["fixed", "other"], &[]);
        wanted.attachments[0].ipv4 = Some([10, 77, 9, 9].into());
        wanted.attachments[0].mac = Some("02:aa:bb:cc:dd:ee".into());
        wanted.attachments[0].interface = Some("front".into());
        wanted.attachments[1].default_gateway = true;
        wanted
            .sysctls
            .insert("net.core.somaxconn".into(), "77".into());
        wanted
            .sysctls
            .insert("net.ipv4.conf.front.accept_local".into(), "1".into());
        let made = world.networks.create_sandbox(&wanted).await.expect("made");
        let web = Sandbox::new(made);
        assert_eq!(web.address(), Ipv4Addr::new(10, 77, 9, 9));
        let front = web
            .at
            .shell("ip -o link show front; ip -o -4 addr show front");
        for part in [
            "mtu 1400",
            "02:aa:bb:cc:dd:ee",
            "10.77.9.9/16",
            "brd 10.77.255.255",
        ] {
            assert!(front.contains(part), "{part} in {front}");
        }
        // The one without a name of its own is the first of the others.
        assert_eq!(web.record.endpoints[1].interface, "eth0");
        let second = web.record.endpoints[1].gateways[0];
        assert_eq!(
            web.at.shell("ip route show default").trim(),
            format!("default via {second} dev eth0")
        );
        let settings = web.at.shell(
            "cd /proc/sys/net; cat core/somaxconn ipv4/conf/front/accept_local \
             ipv4/ip_unprivileged_port_start ipv4/ping_group_range",
        );
        assert_eq!(
            settings.split_whitespace().collect::<Vec<_>>(),
            ["77", "1", "0", "0", "2147483647"]
        );
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .expect("read")
                .trim(),
            "1"
        );
        let next = world.sandbox("web-2", &["fixed"], &[]).await;
        assert_eq!(next.address(), Ipv4Addr::new(10, 77, 5, 0));
        assert_eq!(
            web.record.endpoints[0].result["ips"][0]["address"],
            "10.77.9.9/16"
        );
    });
}

#[test]
fn impossible_wishes_are_refused_and_leave_nothing() {
    on_private_host(|world| async move {
        world.network("a").await;
        world.sandbox("here-1", &["a"], &[]).await;
        let with = |change: &dyn Fn(&mut Attachment)| {
            let mut wanted = spec("web-1", &["a"], &[]);
            change(&mut wanted.attachments[0]);
            wanted
        };
        let sysctl = |key: &str| {
            let mut wanted = spec("web-1", &["a"], &[]);
            wanted.sysctls.insert(key.into(), "1".into());
            wanted
        };
        let gateway = world
            .networks
            .get("a")
            .expect("read")
            .expect("there")
            .subnets[0]
            .gateway;
        for (wanted, part) in [
            (spec("", &["a"], &[]), "id of a sandbox"),
            (spec("web-1", &["b"], &[]), "network `b` does not exist"),
            (spec("web-1", &["a", "a"], &[]), "a second attachment"),
            (
                with(&|join| join.ipv4 = Some([9, 9, 9, 9].into())),
                "is not in a subnet",
            ),
            (
                with(&|join| join.ipv4 = Some(gateway)),
                "is taken by the gateway",
            ),
            (
                with(&|join| join.mac = Some("01:00:00:00:00:00".into())),
                "a MAC address",
            ),
            (
                with(&|join| join.interface = Some("a/b".into())),
                "name of an interface",
            ),
            (
                with(&|join| join.ipv6 = Some([0, 0, 0, 0, 0, 0, 0, 1].into())),
                "IPv4 only",
            ),
            (sysctl("kernel.panic"), "a sysctl"),
            (sysctl("net/../kernel/panic"), "a sysctl"),
            (
                sysctl("net.ipv4.no_such_thing"),
                "set net/ipv4/no_such_thing",
            ),
        ] {
            let refused = world.networks.create_sandbox(&wanted).await;
            let error = describe(&refused.expect_err("impossible"));
            assert!(error.contains(part), "{error}");
        }
        let sandboxes = world.networks.sandboxes().expect("read");
        assert_eq!(sandboxes.len(), 1);
        let found = world.networks.collect_garbage().await.expect("collected");
        assert_eq!(found, Vec::<String>::new());
        let leases =
            std::fs::read_dir(world.path().join("state/lib/cni/networks/a")).expect("a folder");
        let leases: BTreeSet<String> = leases
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        assert_eq!(leases.len(), 3, "{leases:?}");
    });
}

#[test]
fn loopback_is_all_without_networks() {
    on_private_host(|world| async move {
        let alone = world.sandbox("alone-1", &[], &[]).await;
        alone.at.serve(80, "here");
        assert!(alone.at.ask(Ipv4Addr::LOCALHOST, 80).starts_with("here"));
        let links = alone.at.shell("ip -o link");
        assert_eq!(
            links.lines().filter(|line| !line.contains("NONE")).count(),
            1,
            "{links}"
        );
    });
}

#[test]
fn a_reused_address_is_reachable_at_once() {
    on_private_host(|world| async move {
        let pool = IpamPool {
            subnet: Some("10.77.0.0/29".into()),
            ..IpamPool::default()
        };
        let network = NetworkSpec {
            name: "a".into(),
            pools: vec![pool],
            ..NetworkSpec::default()
        };
        world.network_of(network).await;
        let peer = world.sandbox("peer-1", &["a"], &[]).await;
        for (round, mac) in [(1, None), (2, Some("02:11:22:33:44:55")), (3, None)] {
            let mut wanted = spec("web-1", &["a"], &[]);
            wanted.attachments[0].ipv4 = Some([10, 77, 0, 5].into());
            wanted.attachments[0].mac = mac.map(Into::into);
            let web = Sandbox::new(world.networks.create_sandbox(&wanted).await.expect("made"));
            web.at.serve(80, "web");
            let start = Instant::now();
            assert!(
                peer.at.ask(web.address(), 80).starts_with("web"),
                "round {round}"
            );
            assert!(
                At::Host.ask(web.address(), 80).starts_with("web"),
                "round {round}"
            );
            assert!(
                start.elapsed().as_millis() < 900,
                "round {round}: {:?}",
                start.elapsed()
            );
            world
                .networks
                .remove_sandbox("web-1")
                .await
                .expect("removed");
        }
    });
}

#[test]
fn two_processes_share_networks_and_create_them_once() {
    on_private_host(|world| async move {
        let state = StateRoot::new(Some(&world.path().join("state")));
        let other = Networks::new(state);
        let shared = NetworkSpec {
            name: "shared".into(),
            ..NetworkSpec::default()
        };
        let (one, two) = tokio::join!(world.networks.create(&shared), other.create(&shared));
        let (one, two) = (one.expect("made"), two.expect("made"));
        assert_eq!(one, two);
        let spec_a = spec("a-1", &["shared"], &[port(None, 8001, 80)]);
        let spec_b = spec("b-1", &["shared"], &[port(None, 8002, 80)]);
        let (a, b) = tokio::join!(
            world.networks.create_sandbox(&spec_a),
            other.create_sandbox(&spec_b)
        );
        let (a, b) = (
            Sandbox::new(a.expect("made")),
            Sandbox::new(b.expect("made")),
        );
        a.at.serve(80, "a");
        b.at.serve(80, "b");
        assert!(a.at.ask(b.address(), 80).starts_with('b'));
        assert!(world.outside.ask(UPLINK, 8001).starts_with('a'));
        assert!(world.outside.ask(UPLINK, 8002).starts_with('b'));
        world.networks.remove_sandbox("a-1").await.expect("removed");
        assert!(world.outside.ask(UPLINK, 8002).starts_with('b'));
        assert!(world.outside.is_refused(UPLINK, 8001));
        let error = other.remove("shared").await.expect_err("in use");
        assert!(matches!(error, NetworkError::InUse { users, .. } if users == ["b-1"]));
        other.remove_sandbox("b-1").await.expect("removed");
        world.networks.remove("shared").await.expect("removed");
    });
}

#[test]
fn two_state_roots_on_one_host_do_not_break_one_another() {
    on_private_host(|world| async move {
        let other = Networks::new(StateRoot::new(Some(&world.path().join("second"))));
        let network = NetworkSpec {
            name: "a".into(),
            ..NetworkSpec::default()
        };
        world.network_of(network.clone()).await;
        other.create(&network).await.expect("made");
        let mine = world
            .sandbox("web-1", &["a"], &[port(None, 8001, 80)])
            .await;
        let made = other
            .create_sandbox(&spec("web-1", &["a"], &[port(None, 8002, 80)]))
            .await;
        let theirs = Sandbox::new(made.expect("made"));
        mine.at.serve(80, "mine");
        theirs.at.serve(80, "theirs");
        assert_ne!(mine.address(), theirs.address());
        assert!(mine.at.is_refused(theirs.address(), 80));
        assert!(theirs.at.is_refused(mine.address(), 80));
        assert!(world.outside.ask(UPLINK, 8001).starts_with("mine"));
        assert!(world.outside.ask(UPLINK, 8002).starts_with("theirs"));
        assert_eq!(
            other.collect_garbage().await.expect("collected"),
            Vec::<String>::new()
        );
        other.remove_sandbox("web-1").await.expect("removed");
        other.remove("a").await.expect("removed");
        assert!(world.outside.ask(UPLINK, 8001).starts_with("mine"));
    });
}

#[test]
fn a_sandbox_of_somebody_else_is_not_taken_over() {
    on_private_host(|world| async move {
        world.network("a").await;
        let mine = world.sandbox("web", &["a"], &[port(None, 8001, 80)]).await;
        mine.at.serve(80, "mine");
        let mut theirs = spec("web", &["a"], &[]);
        theirs.labels.insert("project".into(), "other".into());
        let refused = world.networks.create_sandbox(&theirs).await;
        let taken = refused.expect_err("taken");
        assert!(
            matches!(taken, NetworkError::SandboxTaken { .. }),
            "{taken:?}"
        );
        let text = taken.to_string();
        assert!(text.starts_with("the name `web` is already in use by another sandbox ("));
        assert!(world.outside.ask(UPLINK, 8001).starts_with("mine"));
    });
}

#[test]
fn subnets_stay_away_from_routes_networks_and_each_other() {
    on_private_host(|world| async move {
        let first = world.network("a").await.subnets[0].subnet;
        let second = world.network("b").await.subnets[0].subnet;
        assert_ne!(first, second);
        let taken = NetworkSpec {
            name: "c".into(),
            pools: vec![IpamPool {
                subnet: Some(first.to_string()),
                ..IpamPool::default()
            }],
            ..NetworkSpec::default()
        };
        let error = world
            .networks
            .create(&taken)
            .await
            .expect_err("taken")
            .to_string();
        assert!(error.contains("overlaps with network `a`"), "{error}");
        let uplink = NetworkSpec {
            pools: vec![IpamPool {
                subnet: Some("192.0.2.0/25".into()),
                ..IpamPool::default()
            }],
            ..taken.clone()
        };
        let error = world
            .networks
            .create(&uplink)
            .await
            .expect_err("taken")
            .to_string();
        assert!(error.contains("overlaps with interface wan0"), "{error}");
        At::Host.shell("ip route add 172.16.0.0/12 via 192.0.2.2");
        let third = world.network("d").await.subnets[0].subnet;
        assert!(third.to_string().starts_with("10."), "{third}");
        At::Host.shell("ip route add 10.0.0.0/8 via 192.0.2.2");
        let none = NetworkSpec {
            name: "e".into(),
            ..NetworkSpec::default()
        };
        let error = world.networks.create(&none).await.expect_err("full");
        assert!(matches!(error, NetworkError::NoSubnet { .. }));
        assert!(!error.hints().is_empty());
        At::Host.shell(&format!("ip route add {second} via 192.0.2.2"));
        let refused = world
            .networks
            .create_sandbox(&spec("b-1", &["b"], &[]))
            .await;
        assert!(matches!(refused, Err(NetworkError::SubnetTaken { .. })));
    });
}

#[test]
fn a_sandbox_with_an_odd_id_is_made_anew_over_its_left_over() {
    on_private_host(|world| async move {
        world.network("a").await;
        let id = "../odd id/Ä-1";
        world.sandbox(id, &["a"], &[port(None, 8080, 80)]).await;
        world.networks.set_active(id, true).expect("recorded");
        assert!(
            world
                .networks
                .sandbox(id)
                .expect("read")
                .expect("there")
                .active
        );
        let again = world.sandbox(id, &["a"], &[port(None, 8080, 80)]).await;
        again.at.serve(80, "again");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("again"));
        assert!(!again.record.active);
        world.networks.remove_sandbox(id).await.expect("removed");
        world.networks.remove("a").await.expect("removed");
    });
}

#[test]
fn fifty_sandboxes_eight_at_a_time_come_and_go() {
    on_private_host(|world| async move {
        world.network("a").await;
        let specs: Vec<SandboxSpec> = (0..50)
            .map(|number| {
                let ports = [port(None, 8000 + number, 80)];
                let ports = if number % 5 == 0 { &ports[..] } else { &[] };
                spec(&format!("web-{number}"), &["a"], ports)
            })
            .collect();
        let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(8));
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for spec in specs.clone() {
            let (networks, gate) = (world.networks.clone(), gate.clone());
            tasks.spawn(async move {
                let _permit = gate.acquire().await.expect("open");
                networks
                    .create_sandbox(&spec)
                    .await
                    .map_err(|error| describe(&error))
            });
        }
        let made: Vec<Sandbox> = tasks
            .join_all()
            .await
            .into_iter()
            .map(|made| Sandbox::new(made.expect("made")))
            .collect();
        let up = start.elapsed();
        let addresses: BTreeSet<Ipv4Addr> = made.iter().map(Sandbox::address).collect();
        assert_eq!(addresses.len(), 50);
        made[0].at.serve(80, "first");
        assert!(made[49].at.ask(made[0].address(), 80).starts_with("first"));
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for spec in specs {
            let (networks, gate) = (world.networks.clone(), gate.clone());
            tasks.spawn(async move {
                let _permit = gate.acquire().await.expect("open");
                networks
                    .remove_sandbox(&spec.id)
                    .await
                    .map_err(|error| describe(&error))
            });
        }
        for removed in tasks.join_all().await {
            removed.expect("removed");
        }
        let down = start.elapsed();
        world.networks.remove("a").await.expect("removed");
        // Generous, for slow machines: a program per sandbox would take longer.
        assert!(
            up + down < Duration::from_secs(15),
            "up {up:?}, down {down:?}"
        );
        // `--nocapture` shows them.
        let mut output = std::io::stdout().lock();
        writeln!(output, "50 sandboxes: up {up:?}, down {down:?}").expect("written");
    });
}
