//! Networks whose plugins are executed.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::world::{
    At, OUTSIDE, Sandbox, UPLINK, World, describe, on_private_host, port, run, spec,
    within_ten_seconds,
};
use crate::model::IpamPool;
use crate::network::NetworkSpec;

fn driver(name: &str, driver: &str, options: &[(&str, &str)]) -> NetworkSpec {
    NetworkSpec {
        name: name.into(),
        driver: Some(driver.into()),
        driver_opts: options
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        ..NetworkSpec::default()
    }
}

fn conflist(world: &World, file: &str, text: &str) {
    let folder: PathBuf = world.path().join("state/lib/cni/net.d");
    std::fs::create_dir_all(&folder).expect("a folder");
    let addresses = world.path().join("state/lib/cni/networks");
    let text = text.replace("ADDRESSES", &addresses.to_string_lossy());
    std::fs::write(folder.join(file), text).expect("written");
}

fn results(world: &World) -> Vec<String> {
    let folder = world.path().join("state/lib/cni/results");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn links() -> usize {
    run("ip", &["-o", "link"]).lines().count()
}

#[test]
fn a_ptp_network_is_attached_and_detached_by_its_plugin() {
    on_private_host(|world| async move {
        world.network_of(driver("direct", "ptp", &[])).await;
        let before = links();
        let web = world
            .sandbox("web-1", &["direct"], &[port(None, 8080, 80)])
            .await;
        let endpoint = &web.record.endpoints[0];
        assert!(endpoint.host_interface.is_some() && !endpoint.mac.is_empty());
        assert_eq!(results(&world), ["direct-compose-web-1-eth0"]);
        web.at.serve(80, "web");
        world.outside.serve(80, "outside");
        assert_eq!(web.at.ask(OUTSIDE, 80), format!("outside {UPLINK}"));
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
        assert!(At::Host.ask(UPLINK, 8080).starts_with("web"));
        world
            .networks
            .remove_sandbox("web-1")
            .await
            .expect("removed");
        assert_eq!(links(), before);
        assert_eq!(results(&world), Vec::<String>::new());
        let mut fixed = spec("web-1", &["direct"], &[]);
        let network = world.networks.get("direct").expect("read").expect("there");
        let address = network.subnets[0]
            .subnet
            .hosts()
            .nth(76)
            .expect("large enough");
        fixed.attachments[0].ipv4 = Some(address);
        let web = Sandbox::new(world.networks.create_sandbox(&fixed).await.expect("made"));
        assert_eq!(address, web.address());
        world
            .networks
            .remove_sandbox("web-1")
            .await
            .expect("removed");
        world.networks.remove("direct").await.expect("removed");
        let rules = run("iptables-save", &[]);
        assert!(!rules.contains("compose-web-1"), "{rules}");
        assert!(!world.path().join("state/lib/cni/networks/direct").exists());
    });
}

#[test]
fn a_macvlan_network_joins_the_parents_wire() {
    on_private_host(|world| async move {
        At::Host.shell("ip link add wire0 type veth peer name wire1; ip link set wire0 up; ip link set wire1 up; ip addr add 10.66.0.1/24 dev wire0");
        let mut network = driver("wire", "macvlan", &[("parent", "wire0")]);
        network.pools = vec![IpamPool {
            subnet: Some("10.66.0.0/24".into()),
            ip_range: Some("10.66.0.64/26".into()),
            ..IpamPool::default()
        }];
        world.network_of(network).await;
        let one = world.sandbox("one-1", &["wire"], &[]).await;
        let mut wanted = spec("two-1", &["wire"], &[]);
        wanted.attachments[0].mac = Some("02:11:22:33:44:55".into());
        let two = Sandbox::new(world.networks.create_sandbox(&wanted).await.expect("made"));
        assert_eq!(one.address(), Ipv4Addr::new(10, 66, 0, 64));
        assert_eq!(two.record.endpoints[0].mac, "02:11:22:33:44:55");
        two.at.serve(80, "two");
        assert!(one.at.ask(two.address(), 80).starts_with("two"));
        world
            .networks
            .remove_sandbox("one-1")
            .await
            .expect("removed");
        world
            .networks
            .remove_sandbox("two-1")
            .await
            .expect("removed");
        world.networks.remove("wire").await.expect("removed");
        assert!(!world.path().join("state/lib/cni/networks/wire").exists());
    });
}

#[test]
fn a_foreign_chain_is_used_and_never_changed() {
    on_private_host(|world| async move {
        let text = r#"{"cniVersion":"1.0.0","name":"theirs","nerdctlID":"17f29b073143d8cd97b5bbe492bdeffec1c5fee55cc1fe2112c8b9335f8b6121",
            "nerdctlLabels":{"team":"ops"},"plugins":[
            {"type":"bridge","bridge":"theirs0","isGateway":true,"ipMasq":true,"hairpinMode":true,
             "ipam":{"type":"host-local","dataDir":"ADDRESSES","routes":[{"dst":"0.0.0.0/0"}],
                     "ranges":[[{"subnet":"10.55.0.0/24","gateway":"10.55.0.1"}]]}},
            {"type":"portmap","capabilities":{"portMappings":true}},
            {"type":"bandwidth","ingressRate":80000000,"ingressBurst":8000000,"egressRate":80000000,"egressBurst":8000000},
            {"type":"tuning","sysctl":{"net.core.somaxconn":"500"}}]}"#;
        conflist(&world, "10-theirs.conflist", text);
        world.network("ours").await;
        let names: Vec<(String, bool)> = world
            .networks
            .list()
            .expect("a list")
            .into_iter()
            .map(|network| (network.spec.name, network.foreign))
            .collect();
        assert_eq!(names, [("ours".into(), false), ("theirs".into(), true)]);
        let before = links();
        let web = world
            .sandbox("web-1", &["theirs", "ours"], &[port(None, 8080, 80)])
            .await;
        web.at.serve(80, "web");
        world.outside.serve(80, "outside");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
        assert!(web.at.ask(OUTSIDE, 80).starts_with("outside"));
        assert_eq!(
            web.at.shell("cat /proc/sys/net/core/somaxconn").trim(),
            "500"
        );
        assert!(web.at.shell("ip route show default").contains("10.55.0.1"));
        // The same networks the other way round: the default route is the other's.
        let other = world.sandbox("web-2", &["ours", "theirs"], &[]).await;
        let route = other.at.shell("ip route show default");
        assert!(
            !route.contains("10.55.0.1") && route.lines().count() == 1,
            "{route}"
        );
        world
            .networks
            .remove_sandbox("web-1")
            .await
            .expect("removed");
        world
            .networks
            .remove_sandbox("web-2")
            .await
            .expect("removed");
        // Their bridge stays, as its plugin leaves it.
        assert_eq!(links(), before + 2);
        world.networks.remove("theirs").await.expect_err("not ours");
        let rules = run("iptables-save", &["-t", "nat"]);
        assert!(!rules.contains("compose-web"), "{rules}");
        let found = world.networks.collect_garbage().await.expect("collected");
        assert_eq!(found, Vec::<String>::new());
        assert!(
            world
                .path()
                .join("state/lib/cni/net.d/10-theirs.conflist")
                .exists()
        );
    });
}

#[test]
fn what_a_failing_plugin_left_is_undone_and_said() {
    on_private_host(|world| async move {
        let text = r#"{"cniVersion":"0.4.0","name":"broken","plugins":[
            {"type":"ptp","ipam":{"type":"host-local","dataDir":"ADDRESSES","ranges":[[{"subnet":"10.56.0.0/24"}]]}},
            {"type":"tuning","sysctl":{"net.no.such.thing":"1"}}]}"#;
        conflist(&world, "broken.conflist", text);
        conflist(&world, "unreadable.conflist", "{");
        let before = links();
        let refused = world
            .networks
            .create_sandbox(&spec("web-1", &["broken"], &[]))
            .await;
        let error = describe(&refused.expect_err("broken"));
        assert!(
            error.starts_with("CNI plugin `tuning` failed for network `broken`: "),
            "{error}"
        );
        assert_eq!(links(), before);
        assert_eq!(world.networks.sandboxes().expect("read"), []);
        let leases =
            std::fs::read_dir(world.path().join("state/lib/cni/networks/broken")).expect("folder");
        let leases = leases
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("10."));
        assert_eq!(leases.count(), 0);
    });
}

#[test]
fn an_attachment_without_a_record_is_garbage() {
    on_private_host(|world| async move {
        world.network_of(driver("direct", "ptp", &[])).await;
        let before = links();
        world.sandbox("web-1", &["direct"], &[]).await;
        let record = world.path().join("state/lib/networks/sandboxes/web-1.json");
        std::fs::remove_file(record).expect("removed");
        let found = world.networks.collect_garbage().await.expect("collected");
        assert_eq!(
            found,
            [
                "attachment of compose-web-1 to network direct",
                "network namespace web-1"
            ]
        );
        assert_eq!(links(), before);
        assert_eq!(results(&world), Vec::<String>::new());
        let rules = run("iptables-save", &["-t", "nat"]);
        assert!(!rules.contains("compose-web-1"), "{rules}");
    });
}

#[test]
fn a_reboot_attaches_by_plugins_again_at_the_same_address() {
    on_private_host(|world| async move {
        world.network_of(driver("direct", "ptp", &[])).await;
        world.sandbox("other-1", &["direct"], &[]).await;
        let web = world
            .sandbox("web-1", &["direct"], &[port(None, 8080, 80)])
            .await;
        let address = web.address();
        let before = links();
        crate::network::namespace::remove(&web.record.netns).expect("removed");
        drop(web);
        // A reboot leaves no interface behind; the kernel needs a moment for the one of a namespace.
        within_ten_seconds(|| links() != before);
        let web = world.repaired("web-1").await;
        assert_eq!(web.address(), address);
        web.at.serve(80, "web");
        assert!(world.outside.ask(UPLINK, 8080).starts_with("web"));
    });
}

#[test]
fn an_unknown_driver_is_refused_at_once() {
    on_private_host(|world| async move {
        let error = world
            .networks
            .create(&driver("a", "no-such-plugin", &[]))
            .await;
        let error = error.expect_err("unknown").to_string();
        assert!(
            error.contains("`no-such-plugin`") && error.contains("/opt/cni/bin"),
            "{error}"
        );
        assert_eq!(world.networks.list().expect("a list"), []);
    });
}

#[test]
fn a_plugin_on_our_network_shares_bridge_and_addresses() {
    on_private_host(|world| async move {
        world.network("ours").await;
        let web = world.sandbox("web-1", &["ours"], &[]).await;
        web.at.serve(80, "web");
        // Another tool attaches a namespace of its own by our conflist.
        let text = std::fs::read_to_string(
            world
                .path()
                .join("state/lib/cni/net.d/nerdctl-ours.conflist"),
        );
        let list: serde_json::Value = serde_json::from_str(&text.expect("the list")).expect("JSON");
        let mut config = list["plugins"][0].clone();
        config["name"] = list["name"].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        let netns = world.path().join("theirs");
        crate::network::namespace::create(&netns, || Ok(())).expect("a namespace");
        let mut command = std::process::Command::new("/usr/lib/cni/bridge");
        command
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", "default-theirs")
            .env("CNI_NETNS", &netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni");
        let input = config.to_string();
        let finished = crate::network::process::run(
            &mut command,
            input.as_bytes(),
            std::time::Duration::from_secs(20),
        )
        .expect("runs");
        let output = String::from_utf8_lossy(&finished.stdout).into_owned();
        assert!(finished.status.success(), "{output}");
        assert!(
            At::Namespace(netns)
                .ask(web.address(), 80)
                .starts_with("web")
        );
        world
            .networks
            .remove_sandbox("web-1")
            .await
            .expect("removed");
        let error = world
            .networks
            .remove("ours")
            .await
            .expect_err("in use")
            .to_string();
        assert!(error.contains("is in use by interface veth"), "{error}");
        let next = world.sandbox("web-2", &["ours"], &[]).await;
        assert_eq!(u32::from(next.address()), u32::from(web.address()) + 2);
        let found = world.networks.collect_garbage().await.expect("collected");
        assert_eq!(found, Vec::<String>::new());
    });
}
