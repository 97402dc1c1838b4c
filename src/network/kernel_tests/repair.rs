//! What was lost is put back, and what nobody records is removed.

use std::net::Ipv4Addr;

use super::world::{At, OUTSIDE, UPLINK, World, on_private_host, port, run};
use crate::network::{PortRequest, namespace};

#[test]
fn nothing_is_done_to_a_whole_sandbox() {
    on_private_host(|world| async move {
        world.network("a").await;
        world
            .sandbox("web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        let rules = || run("nft", &["-a", "list", "ruleset"]);
        let before = rules();
        let held = world.networks.repair_sandbox("web-1").await.expect("whole");
        assert!(held.is_empty());
        assert_eq!(rules(), before);
    });
}

#[test]
fn wiped_rules_are_put_back() {
    on_private_host(|world| async move {
        world.network("a").await;
        world.network("b").await;
        let web = world
            .sandbox("web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        let other = world.sandbox("other-1", &["b"], &[]).await;
        web.at.serve(80, "web");
        other.at.serve(80, "other");
        world.outside.serve(80, "outside");
        let table = World::table();
        for wipe in [
            "nft flush ruleset".to_owned(),
            format!("nft flush table {table}"),
            format!("nft flush chain {table} forward"),
            format!("nft flush map {table} ports_any"),
            format!("nft flush set {table} bridges"),
            "iptables -F FORWARD".to_owned(),
            "echo 0 >/proc/sys/net/ipv4/ip_forward".to_owned(),
            "iptables -P FORWARD DROP; iptables -F".to_owned(),
        ] {
            At::Host.shell(&wipe);
            let held = world
                .networks
                .repair_sandbox("web-1")
                .await
                .expect("repaired");
            assert!(held.is_empty());
            assert!(world.outside.ask(UPLINK, 8080).starts_with("web"), "{wipe}");
            assert!(web.at.ask(OUTSIDE, 80).starts_with("outside"), "{wipe}");
            assert!(web.at.is_refused(other.address(), 80), "{wipe}");
            assert!(
                run("iptables", &["-S"]).contains("FORWARD -j COMPOSE"),
                "{wipe}"
            );
        }
    });
}

#[test]
fn a_lost_bridge_and_a_lost_interface_are_put_back() {
    on_private_host(|world| async move {
        let network = world.network("a").await;
        let web = world
            .sandbox("web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        let peer = world.sandbox("peer-1", &["a"], &[]).await;
        web.at.serve(80, "web");
        for loss in [
            format!("ip link del {}", network.bridge),
            format!(
                "ip link del {}",
                web.record.endpoints[0]
                    .host_interface
                    .as_deref()
                    .expect("veth")
            ),
            format!("ip addr flush dev {}", network.bridge),
            format!("ip link set {} down", network.bridge),
        ] {
            At::Host.shell(&loss);
            for id in ["web-1", "peer-1"] {
                let held = world.networks.repair_sandbox(id).await.expect("repaired");
                assert!(held.is_empty(), "{loss}");
            }
            assert!(peer.at.ask(web.address(), 80).starts_with("web"), "{loss}");
            assert!(world.outside.ask(UPLINK, 8080).starts_with("web"), "{loss}");
        }
    });
}

#[test]
fn a_sandbox_comes_back_after_a_reboot_with_address_and_port() {
    on_private_host(|world| async move {
        world.network("a").await;
        let web = world
            .sandbox("web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        let address = web.address();
        let file = world.path().join("state/lib/networks/sandboxes/web-1.json");
        // What a reboot does, and an old boot id in the record.
        At::Host.shell("nft flush ruleset");
        namespace::remove(&web.record.netns).expect("removed");
        std::fs::File::create(&web.record.netns).expect("an empty file where it was pinned");
        let text = std::fs::read_to_string(&file).expect("the record");
        std::fs::write(&file, text.replace(&web.record.boot_id, "another-boot")).expect("written");
        drop(web);
        let web = world.repaired("web-1").await;
        assert_eq!(web.held.len(), 3);
        assert_eq!(web.address(), address);
        web.at.serve(80, "web");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
        assert!(
            world
                .networks
                .repair_sandbox("web-1")
                .await
                .expect("whole")
                .is_empty()
        );
    });
}

#[test]
fn a_namespace_lost_while_the_ports_are_held_is_made_again() {
    on_private_host(|world| async move {
        world.network("a").await;
        let web = world
            .sandbox("web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        namespace::remove(&web.record.netns).expect("removed");
        let held = world
            .networks
            .repair_sandbox("web-1")
            .await
            .expect("repaired");
        let keys: Vec<&str> = held.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["dns/web-1/udp", "dns/web-1/tcp"]);
        web.at.serve(80, "web");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
    });
}

#[test]
fn what_another_sandbox_has_by_now_is_not_taken_back() {
    on_private_host(|world| async move {
        world.network("a").await;
        let range = PortRequest {
            host_ports: Some((8080, 8081)),
            ..port(None, 8080, 80)
        };
        let ports = std::slice::from_ref(&range);
        let first = world.sandbox("web-1", &["a"], ports).await;
        let file = world.path().join("state/lib/networks/sandboxes/web-1.json");
        let record = std::fs::read_to_string(&file).expect("the record");
        world.release("web-1").await;
        drop(first);
        let second = world.sandbox("web-2", &["a"], ports).await;
        second.at.serve(80, "second");
        // As if nobody could note that the first one was given up.
        std::fs::write(&file, record).expect("written");
        let first = world.repaired("web-1").await;
        first.at.serve(80, "first");
        assert_ne!(first.address(), second.address());
        assert!(world.outside.ask(UPLINK, 8080).starts_with("second"));
        assert!(world.outside.ask(UPLINK, 8081).starts_with("first"));
    });
}

#[test]
fn a_sandbox_that_cannot_be_noted_as_given_up_stays() {
    on_private_host(|world| async move {
        world.network("a").await;
        let web = world
            .sandbox("web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        web.at.serve(80, "web");
        let folder = world.path().join("state/lib/networks/sandboxes");
        let folder = folder.display();
        At::Host.shell(&format!(
            "mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"
        ));
        let released = world.networks.release_sandbox("web-1");
        released.await.expect_err("nothing can be written");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
        At::Host.shell(&format!("umount {folder}"));
        world.release("web-1").await;
        assert!(!namespace::exists(&web.record.netns));
    });
}

#[test]
fn a_dead_holders_sockets_are_opened_again() {
    on_private_host(|world| async move {
        world.network("a").await;
        let web = world
            .sandbox("web-1", &["a"], &[port(None, 8080, 80)])
            .await;
        world
            .networks
            .reopen("web-1")
            .await
            .expect_err("still held");
        let at = web.at.clone();
        drop(web);
        let held = world.networks.reopen("web-1").await.expect("opened");
        let keys: Vec<&str> = held.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "port/web-1/tcp/0.0.0.0:8080",
                "dns/web-1/udp",
                "dns/web-1/tcp"
            ]
        );
        let tcp = held
            .into_iter()
            .find(|(key, _)| key == "dns/web-1/tcp")
            .expect("a socket")
            .1;
        let tcp = std::net::TcpListener::from(tcp);
        tcp.set_nonblocking(false).expect("set");
        std::thread::spawn(move || {
            let (mut stream, _) = tcp.accept().expect("a client");
            std::io::Write::write_all(&mut stream, b"answer").expect("sent");
        });
        assert_eq!(at.ask(Ipv4Addr::new(127, 0, 0, 11), 53), "answer");
    });
}

#[test]
fn an_interface_left_by_a_crash_does_not_stand_in_the_way() {
    on_private_host(|world| async move {
        world.network("a").await;
        let web = world.sandbox("web-1", &["a"], &[]).await;
        let elsewhere = world.path().join("elsewhere");
        std::fs::File::create(&elsewhere).expect("a file");
        rustix::mount::mount_bind(&web.record.netns, &elsewhere).expect("held by somebody");
        namespace::remove(&web.record.netns).expect("removed");
        let record = world.path().join("state/lib/networks/sandboxes/web-1.json");
        std::fs::remove_file(record).expect("removed");
        let web = world.sandbox("web-1", &["a"], &[]).await;
        web.at.serve(80, "web");
        assert!(At::Host.ask(web.address(), 80).starts_with("web"));
    });
}

#[test]
fn what_has_no_record_is_garbage_and_what_has_one_stays() {
    on_private_host(|world| async move {
        let network = world.network("a").await;
        let lost = world.network("lost").await;
        let kept = world
            .sandbox("kept-1", &["a"], &[port(None, 8001, 80)])
            .await;
        world
            .sandbox("gone-1", &["a"], &[port(None, 8002, 80)])
            .await;
        world
            .sandbox("gone-2", &["lost"], &[port(None, 8003, 80)])
            .await;
        kept.at.serve(80, "kept");
        let state = world.path().join("state/lib/networks");
        std::fs::remove_file(state.join("sandboxes/gone-1.json")).expect("removed");
        std::fs::remove_file(state.join("sandboxes/gone-2.json")).expect("removed");
        std::fs::remove_dir_all(state.join(&lost.id)).expect("removed");
        let conflist = world.path().join("state/lib/cni/net.d/nerdctl-a.conflist");
        std::fs::remove_file(&conflist).expect("removed by another tool");
        let mut found = world.networks.collect_garbage().await.expect("collected");
        found.sort();
        let kinds: Vec<&str> = found
            .iter()
            .filter_map(|text| text.split(' ').next())
            .collect();
        assert_eq!(
            kinds,
            [
                "address",
                "address",
                "configuration",
                "interface",
                "interface",
                "interface",
                "network",
                "network",
                "port",
                "port",
                "rules"
            ],
            "{found:?}"
        );
        assert!(conflist.exists());
        assert!(world.outside.ask(UPLINK, 8001).starts_with("kept"));
        let rules = run("nft", &["list", "ruleset"]);
        assert!(
            rules.contains(&network.bridge) && !rules.contains(&lost.bridge),
            "{rules}"
        );
        assert!(
            !rules.contains("8002") && !rules.contains("8003"),
            "{rules}"
        );
        assert_eq!(
            world.networks.collect_garbage().await.expect("collected"),
            Vec::<String>::new()
        );
    });
}
