//! Networks and sandboxes come and go, and leave nothing.

use std::net::Ipv4Addr;
use std::path::Path;

use super::world::{At, Sandbox, UPLINK, World, on_private_host, port, run, spec as sandbox};
use crate::network::{NetworkSpec, Networks};
use crate::state::StateRoot;

/// What the kernel and the disk know of us.
fn traces(world: &World) -> String {
    let mut text = run("ip", &["-o", "link", "show"])
        .lines()
        .filter(|line| !line.contains(": lo:") && !line.contains("wan"))
        .collect::<Vec<_>>()
        .join("\n");
    text += &run("nft", &["list", "ruleset"])
        .lines()
        .filter(|line| line.contains("compose") || line.contains("COMPOSE"))
        .collect::<Vec<_>>()
        .join("\n");
    let state = world.path().join("state");
    let find = format!(
        "find {0} -type f ! -name '*.lock'; find {0}/run/netns -mindepth 1; mount | grep {0}/run || true",
        state.display()
    );
    text + &run("sh", &["-c", &find])
}

#[test]
fn a_sandbox_reaches_the_outside_and_leaves_nothing() {
    on_private_host(|world| async move {
        let network = world.network("shop_default").await;
        assert_eq!(
            world.networks.list().expect("a list"),
            std::slice::from_ref(&network)
        );
        let web = world
            .sandbox("shop-web-1", &["shop_default"], &[port(None, 8080, 80)])
            .await;
        assert_eq!(web.address().octets()[3], 2);
        web.at.serve(80, "web");
        world.outside.serve(90, "outside");
        assert_eq!(
            web.at.ask(super::world::OUTSIDE, 90),
            format!("outside {UPLINK}")
        );
        assert!(At::Host.ask(web.address(), 80).starts_with("web"));
        assert!(At::Host.ask(Ipv4Addr::LOCALHOST, 8080).starts_with("web"));
        assert!(At::Host.ask(UPLINK, 8080).starts_with("web"));
        assert_eq!(world.outside.ask(UPLINK, 8080), "web 192.0.2.2");
        assert!(web.at.ask(UPLINK, 8080).starts_with("web"));
        world
            .networks
            .remove("shop_default")
            .await
            .expect_err("in use");
        world
            .networks
            .remove_sandbox("shop-web-1")
            .await
            .expect("removed");
        world
            .networks
            .remove_sandbox("shop-web-1")
            .await
            .expect("still gone");
        world
            .networks
            .remove("shop_default")
            .await
            .expect("removed");
        world
            .networks
            .remove("shop_default")
            .await
            .expect("still gone");
        assert_eq!(traces(&world), "");
    });
}

#[test]
fn the_systems_root_uses_the_systems_folders_and_plain_names() {
    on_private_host(|world| async move {
        // The programs that we run are found by way of /etc/alternatives.
        let keep = world.path().display();
        At::Host.shell(&format!(
            "cp -a /etc/alternatives {keep}
             for folder in /etc /var/lib /run; do mount -t tmpfs hidden $folder; done
             cp -a {keep}/alternatives /etc"
        ));
        let networks = Networks::new(StateRoot::new(None));
        let spec = NetworkSpec {
            name: "shop_default".into(),
            ..NetworkSpec::default()
        };
        let record = networks.create(&spec).await.expect("made");
        let wanted = sandbox("shop-web-1", &["shop_default"], &[port(None, 8080, 80)]);
        let web = Sandbox::new(networks.create_sandbox(&wanted).await.expect("made"));
        web.at.serve(80, "web");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
        assert_eq!(web.record.netns, Path::new("/run/compose/netns/shop-web-1"));
        assert!(Path::new("/etc/cni/net.d/default/nerdctl-shop_default.conflist").exists());
        let lease = format!("/var/lib/cni/networks/shop_default/{}", web.address());
        assert_eq!(
            std::fs::read_to_string(lease).expect("a lease"),
            "compose-shop-web-1\r\neth0"
        );
        assert_eq!(World::table(), "ip compose");
        let link = run("ip", &["link", "show", &record.bridge]);
        assert!(
            link.contains(&format!("alias compose:{}", record.id)),
            "{link}"
        );
        assert!(run("iptables", &["-S", "COMPOSE"]).contains(&record.bridge));
        networks
            .remove_sandbox("shop-web-1")
            .await
            .expect("removed");
        networks.remove("shop_default").await.expect("removed");
        let left = run(
            "find",
            &[
                "/etc/cni",
                "/var/lib/cni",
                "/var/lib/compose",
                "/run/compose",
                "-type",
                "f",
            ],
        );
        let left: Vec<&str> = left
            .lines()
            .filter(|path| path.strip_suffix(".lock").is_none())
            .collect();
        assert_eq!(left, Vec::<&str>::new());
    });
}
