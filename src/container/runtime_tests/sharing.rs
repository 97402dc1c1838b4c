//! What containers share: networks, namespaces, mounts; and execs.

use std::future::Future;

use super::*;
use crate::engine::TaskStatus;
use crate::network::{Attachment, NetworkSpec, SandboxSpec};

#[tokio::test]
async fn namespaces_and_mounts_of_another_container_are_shared() {
    let mut bench = Bench::start().await;
    let data = Volume {
        name: "shop_data".into(),
        driver_opts: [("type", "tmpfs"), ("device", "tmpfs")]
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect(),
        ..Volume::default()
    };
    bench.project.volumes.insert("data".into(), data);
    patiently(Box::pin(async {
        let donor_service = Service {
            name: "donor".into(),
            ipc: Some("shareable".into()),
            volumes: vec![volume(Some("data"), "/data")],
            ..script("echo shared > /dev/shm/f; echo volume > /data/f; echo ready; exec busybox sleep 1000")
        };
        let donor = bench.create(&donor_service).await.unwrap();
        let folder = bench.world.state.container_run(&donor);
        let (mut out, _err) = (reader(&folder.join("stdout")), reader(&folder.join("stderr")));

        let record = bench.world.engine.container(&donor).await.unwrap().unwrap();
        let parents: BTreeMap<String, ContainerRecord> =
            ["network_mode", "pid", "ipc"].map(|kind| (kind.to_owned(), record.clone())).into();
        let service = Service {
            ipc: Some("service:donor".into()),
            pid: Some("service:donor".into()),
            volumes_from: vec!["donor:ro".into()],
            ..script("cat /dev/shm/f /data/f /etc/hostname; cat /proc/1/cmdline; echo; echo x > /data/f")
        };
        let desired = desired(&service);
        let donors = [record.clone()];
        let creation = Creation {
            parents: &parents,
            volumes_from: &donors,
            ..bench.creation(&service, &desired)
        };
        let id = bench.create_as(&creation).await.unwrap();
        let error = bench.containers.start(&id).await.unwrap_err();
        assert!(matches!(error, ContainerError::ParentNotRunning { .. }), "{error}");

        bench.containers.start(&donor).await.unwrap();
        let mut text = [0; 6];
        out.read_exact(&mut text).await.unwrap();
        let Run { output, .. } = bench.run(&id).await;
        let expected = format!("shared\nvolume\n{}\nbusybox\0sleep\x001000\0\n", &donor[..12]);
        assert!(output.starts_with(&expected), "{output:?}");
        assert!(output.contains("Read-only file system"), "{output}");

        let private = Service {
            ipc: None,
            ..donor_service
        };
        let other = bench.create(&private).await.unwrap();
        let record = bench.world.engine.container(&other).await.unwrap().unwrap();
        let parents: BTreeMap<String, ContainerRecord> =
            ["pid", "ipc"].map(|kind| (kind.to_owned(), record.clone())).into();
        let creation = Creation {
            parents: &parents,
            ..creation
        };
        let error = bench.containers.create(&creation).await.unwrap_err();
        assert!(error.to_string().contains("ipc: shareable"), "{error}");
        for id in [id, donor, other] {
            bench.containers.remove(&id, true).await.unwrap();
        }
        bench.containers.remove_volume("shop_data").await.unwrap();
    }))
    .await;
    bench.finish().await;
}

#[tokio::test]
async fn an_exec_runs_as_the_container_or_as_another_user() {
    let bench = Bench::start().await;
    patiently(Box::pin(async {
        let service = Service {
            user: Some("5:6".into()),
            ..script("exec busybox sleep 1000")
        };
        let id = bench.create(&service).await.unwrap();
        let folder = bench.world.state.container_run(&id);
        let _readers = (
            reader(&folder.join("stdout")),
            reader(&folder.join("stderr")),
        );
        bench.containers.start(&id).await.unwrap();
        let record = bench.world.engine.container(&id).await.unwrap().unwrap();
        let mut options = ExecOptions {
            command: ["sh", "-c", "busybox id; echo $EXTRA $HOME; pwd"]
                .map(Into::into)
                .into(),
            environment: vec!["EXTRA=yes".into()],
            working_dir: Some("/etc".into()),
            ..ExecOptions::default()
        };
        assert_eq!(
            exec(&bench, &record, "one", &options).await,
            "uid=5 gid=6 groups=6\nyes /\n/etc\n"
        );
        options.user = Some("root".into());
        let output = exec(&bench, &record, "two", &options).await;
        assert_eq!(output, "uid=0(root) gid=0 groups=0\nyes /root\n/etc\n");
        options.user = Some("nobody9".into());
        assert!(
            bench
                .containers
                .exec_process(&record, &options)
                .await
                .is_err()
        );
        bench.containers.remove(&id, true).await.unwrap();
        let task = bench.world.engine.task(&id).await.unwrap();
        assert!(task.is_none_or(|task| task.status != TaskStatus::Running));
    }))
    .await;
    bench.finish().await;
}

async fn exec(
    bench: &Bench,
    record: &ContainerRecord,
    name: &str,
    options: &ExecOptions,
) -> String {
    let process = bench
        .containers
        .exec_process(record, options)
        .await
        .unwrap();
    let stdio = crate::engine::Stdio {
        stdout: bench.world.fifo(&format!("exec-{name}")),
        ..crate::engine::Stdio::default()
    };
    let mut out = reader(&stdio.stdout);
    let engine = &bench.world.engine;
    engine
        .create_exec(&record.id, name, &process, &stdio)
        .await
        .unwrap();
    engine.start_exec(&record.id, name).await.unwrap();
    engine.wait_exec(&record.id, name).await.unwrap();
    let mut output = String::new();
    out.read_to_string(&mut output).await.unwrap();
    engine.delete_exec(&record.id, name).await.unwrap();
    output
}

/// Runs the test again in a host of its own, where bridges and rules touch nobody.
fn on_private_host(body: impl Future<Output = ()>) {
    const VARIABLE: &str = "COMPOSE_CONTAINER_TEST";
    let thread = std::thread::current();
    let name = thread.name().unwrap();
    if std::env::var(VARIABLE).is_ok_and(|value| value == name) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(body);
        return;
    }
    let output = std::process::Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--propagation",
            "private",
            "timeout",
            "--kill-after=5",
            "60",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, name)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn a_container_in_a_sandbox_has_its_addresses_and_shares_them() {
    on_private_host(Box::pin(async {
        let bench = Bench::start().await;
        let networks = &bench.containers.networks;
        let network = NetworkSpec {
            name: "shop_default".into(),
            ..NetworkSpec::default()
        };
        networks.create(&network).await.unwrap();
        let sandbox = SandboxSpec {
            id: "shop-web-1".into(),
            attachments: vec![Attachment {
                network: "shop_default".into(),
                names: vec!["web".into()],
                ..Attachment::default()
            }],
            ..SandboxSpec::default()
        };
        let (sandbox, _held) = networks.create_sandbox(&sandbox).await.unwrap();
        let address = sandbox.endpoints[0].addresses[0].addr();
        let gateway = sandbox.endpoints[0].gateways[0];
        patiently(Box::pin(async {
            let text = "cat /etc/hosts /etc/resolv.conf; cat /proc/sys/net/ipv4/ip_unprivileged_port_start \
                /proc/sys/net/core/somaxconn; busybox ip -4 addr show eth0; busybox sleep 0.5";
            let mut service = script(text);
            service.extra_hosts.insert("outside".into(), vec!["host-gateway".into()]);
            service.sysctls.insert("net.core.somaxconn".into(), "77".into());
            let desired = desired(&service);
            let creation = Creation {
                sandbox: Some(&sandbox),
                ..bench.creation(&service, &desired)
            };
            let id = bench.create_as(&creation).await.unwrap();
            let Run { output, .. } = bench.run(&id).await;
            for expected in [
                format!("{address}\t{}", &id[..12]),
                format!("{gateway}\toutside"),
                "nameserver 127.0.0.11".into(),
                "0".into(),
                "77".into(),
            ] {
                assert!(output.lines().any(|line| line == expected), "`{expected}` is not in {output}");
            }
            assert!(output.contains(&format!("inet {address}/")), "{output}");

            let record = bench.world.engine.container(&id).await.unwrap().unwrap();
            assert_eq!(record.labels["nerdctl/networks"], r#"["shop_default"]"#);
            let parents = BTreeMap::from([("network_mode".to_owned(), record)]);
            let child = Creation {
                sandbox: None,
                parents: &parents,
                ..creation
            };
            let child = bench.create_as(&child).await.unwrap();
            let Run { output, .. } = bench.run(&child).await;
            assert!(output.contains(&format!("{address}\t{}", &id[..12])), "{output}");
            assert!(output.contains(&format!("inet {address}/")), "{output}");
            for id in [&id, &child] {
                bench.containers.remove(id, true).await.unwrap();
            }
            networks.remove_sandbox("shop-web-1").await.unwrap();
            networks.remove("shop_default").await.unwrap();
        }))
        .await;
        bench.finish().await;
    }));
}
