//! Does the world itself do what the tests rely on?

use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Signal;

use crate::world::{IMAGE, World, processes_in};

/// Runs a container by `ctr`, as somebody would who cleans up badly.
fn start_container(world: &World, name: &str) {
    world.import_image("default");
    let run = [
        "run",
        "--detach",
        "--snapshotter",
        world.snapshotter(),
        IMAGE,
        name,
    ];
    let _started = world.ctr(run).args(["sleep", "infinity"]).run().success();
}

/// Removes what [`start_container`] has started, with the parent cgroup that `ctr` forgets.
fn remove_container(world: &World, name: &str) {
    let _deleted = world
        .ctr(["tasks", "delete", "--force", name])
        .run()
        .success();
    let _removed = world.ctr(["containers", "delete", name]).run().success();
    let script = "set -e; for group in /sys/fs/cgroup/default /sys/fs/cgroup/*/default; do
        [ ! -d $group ] || rmdir $group; done";
    let _emptied = world.command("sh").args(["-c", script]).run().success();
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn a_container_that_is_removed_leaves_a_clean_world() {
    World::run(|world| {
        start_container(world, "tidy");
        let listed = world.ctr(["tasks", "list"]).run().success();
        assert!(listed.stdout.contains("RUNNING"), "{listed}");
        remove_container(world, "tidy");
    });
}

#[test]
fn everything_that_a_container_leaves_behind_is_seen() {
    let world = World::new();
    start_container(&world, "untidy");
    let make = "set -e; touch pin; unshare --net=pin true; mkfifo fifo
        ip link add leaked type bridge
        nft add table ip t; nft add chain ip t c; nft add rule ip t c counter";
    let _made = world.command("sh").args(["-c", make]).run().success();
    let panic = catch_unwind(AssertUnwindSafe(|| world.assert_clean())).unwrap_err();
    let seen = message(&*panic);
    for leak in [
        "container default/untidy",
        "task default/untidy",
        "snapshot default/untidy",
        "process sleep infinity",
        "process /usr/bin/containerd-shim-runc-v2",
        "/pin nsfs",
        "interface leaked",
        "firewall {\"rule\"",
        "/fifo",
        "/default/untidy",
    ] {
        assert!(seen.contains(leak), "`{leak}` is missing in\n{seen}");
    }
}

#[test]
fn a_world_ends_with_all_its_processes_when_it_is_dropped() {
    let world = World::new();
    start_container(&world, "orphan");
    let name = world.name().to_owned();
    assert!(
        processes_in(&name)
            .iter()
            .any(|(_, line)| line == "sleep infinity")
    );
    drop(world);
    assert_eq!(processes_in(&name), []);
}

#[test]
fn containerd_can_be_killed_and_started_again_under_running_containers() {
    World::run(|world| {
        start_container(world, "steady");
        world.stop_containerd(Signal::KILL);
        world.start_containerd();
        let listed = world.ctr(["tasks", "list"]).run().success();
        assert!(listed.stdout.contains("RUNNING"), "{listed}");
        remove_container(world, "steady");
    });
}

#[test]
fn a_command_that_runs_too_long_fails_the_test() {
    let world = World::new();
    let endless = world
        .command("sleep")
        .arg("60")
        .within(std::time::Duration::from_millis(200));
    let panic = catch_unwind(AssertUnwindSafe(|| endless.run())).unwrap_err();
    assert!(
        message(&*panic).contains("did not end its output"),
        "{}",
        message(&*panic)
    );
}
