//! Networks and sandboxes come and go, and leave nothing.

use std::net::Ipv4Addr;

use super::world::{At, UPLINK, on_private_host, port, run};

/// What the kernel and the disk know of us.
fn traces(world: &super::world::World) -> String {
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
