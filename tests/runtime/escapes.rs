//! Ways out of a container that people have found elsewhere, tried here.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::world::{Project, World, source};

/// Content of a file of the host that nothing may bring into a container.
const TREASURE: &str = "the-treasure-of-the-host";

fn shell(project: &Project<'_>, service: &str, script: &str) -> String {
    let words = ["exec", "-T", service, "sh", "-c", script];
    project.command(words).run().success().stdout
}

/// A folder outside of everything, with a file that is worth a theft.
fn treasury(world: &World) -> String {
    let folder = world.path("treasury");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("treasure"), TREASURE).unwrap();
    folder.display().to_string()
}

/// An image whose links lead to `outside`: by an absolute path, by many steps up, and in the way of mount points.
fn hostile_image(world: &World, project: &Project<'_>, outside: &str) {
    let files = world.path("hostile");
    fs::create_dir_all(files.join("srv/data")).unwrap();
    let steps = "../".repeat(20);
    symlink(outside, files.join("absolute")).unwrap();
    symlink(format!("{steps}{}", &outside[1..]), files.join("relative")).unwrap();
    symlink(format!("{outside}/treasure"), files.join("srv/data/theft")).unwrap();
    symlink(
        format!("{steps}{}", &outside[1..]),
        files.join("srv/data/folder"),
    )
    .unwrap();
    fs::write(files.join("srv/data/own"), "own\n").unwrap();
    let made = Command::new("python3")
        .arg(source("scripts/make-image"))
        .args([
            "--name",
            "hostile:latest",
            "--cmd",
            r#"["sleep", "infinity"]"#,
            "--files",
        ])
        .arg(&files)
        .arg("--output")
        .arg(project.path("hostile.tar"))
        .status();
    assert!(made.unwrap().success());
}

#[test]
fn links_of_an_image_lead_nowhere_but_into_it() {
    World::run(|world| {
        let outside = treasury(world);
        let file = "
services:
  app:
    image: oci-archive:hostile.tar
    init: true
    stop_grace_period: 0s
    # Folders of the image are copied to volumes, and mount points are made, through its links.
    volumes:
      - 'one:/absolute'
      - 'two:/relative'
      - 'three:/srv/data'
      - {type: image, source: 'oci-archive:hostile.tar', target: /whole, image: {subpath: ../../..}}
      - {type: image, source: 'oci-archive:hostile.tar', target: /part, image: {subpath: srv/data}}
    tmpfs: ['/relative/scratch']
    configs: [{source: text, target: /absolute/made/by/config}]
    secrets: [{source: text, target: ../../../../../../relative/made/by/secret}]
    working_dir: /relative/made/as/cwd
configs: {text: {content: inside}}
secrets: {text: {environment: WORD}}
volumes: {one: {}, two: {}, three: {}}
";
        let project = world.project("links", file);
        hostile_image(world, &project, &outside);
        let _up = project
            .command(["up", "-d"])
            .env("WORD", "inside")
            .run()
            .success();
        let words = [
            "exec",
            "-T",
            "app",
            "sh",
            "-c",
            "find / -xdev -name treasure; cat /srv/data/theft /srv/data/folder/treasure /part/theft /absolute/treasure /relative/treasure; ls /whole/bin/busybox; cat /srv/data/own; true",
        ];
        let found = project.command(words).env("WORD", "inside").run().success();
        assert_eq!(found.stdout, "/whole/bin/busybox\nown\n", "{found}");
        // Nothing was made or changed out there either.
        let left: Vec<_> = fs::read_dir(world.path("treasury"))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(left, ["treasure"]);
        let volumes = world
            .command("grep")
            .args(["-rl", TREASURE])
            .arg(world.state_root())
            .run();
        assert_eq!(volumes.stdout, "");
        let _down = project
            .command(["down", "-v"])
            .env("WORD", "inside")
            .run()
            .success();
    });
}

#[test]
fn links_in_a_volume_lead_nowhere_but_into_it() {
    World::run(|world| {
        world.import_image("default");
        let outside = treasury(world);
        let steps = "../".repeat(20);
        let seed = format!("
services:
  seed:
    image: demo
    command: sh -c 'echo mine >/v/mine; ln -s / /v/root; ln -s {outside} /v/absolute; ln -s {steps}{} /v/relative'
    volumes: ['data:/v']
volumes: {{data: {{name: hostile}}}}
", &outside[1..]);
        let seed = world.project("seed", &seed);
        let _up = seed.compose("up").success();
        let using = |subpath: &str| {
            let file = format!(
                "
services:
  app:
    image: demo
    init: true
    stop_grace_period: 0s
    command: sleep infinity
    volumes: [{{type: volume, source: data, target: /part, volume: {{subpath: {subpath}}}}}]
volumes: {{data: {{external: true, name: hostile}}}}
"
            );
            file
        };
        let project = world.project("part", &using("root"));
        let _up = project.compose("up -d").success();
        assert_eq!(
            shell(&project, "app", "cat /part/mine; ls /part"),
            "mine\nabsolute\nmine\nrelative\nroot\n"
        );
        for subpath in [
            "absolute",
            "relative",
            "absolute/treasure",
            "root/relative/treasure",
            "../../../etc/passwd",
            "/etc",
        ] {
            project.write("compose.yaml", &using(subpath));
            let failed = project.compose("up -d").failure();
            assert!(
                failed.stderr.contains("does not exist"),
                "{subpath}: {failed}"
            );
        }
        let _down = project.compose("down").success();
        let _down = seed.compose("down -v").success();
    });
}

#[test]
fn a_container_without_privileges_finds_nothing_of_the_host() {
    World::run(|world| {
        world.import_image("default");
        let outside = treasury(world);
        let file = "services:
  app: {image: demo, init: true, stop_grace_period: 0s, command: sleep infinity}
";
        let project = world.project("prisoner", file);
        let _up = project.compose("up -d").success();
        // Each line is an attempt that must fail; what works is named.
        let attempts = format!("
            try() {{ \"$@\" >/dev/null 2>&1 && echo \"worked: $*\"; }}
            try cat /proc/1/root{outside}/treasure
            try cat /proc/1/cwd{outside}/treasure
            for device in $(sed 1,2d /proc/partitions | tr -s ' ' : | cut -d: -f2,3,5); do
                mknod /tmp/disk b $(echo $device | cut -d: -f1,2 | tr : ' ') 2>/dev/null; try head -c 1 /tmp/disk; rm -f /tmp/disk; done
            mknod /tmp/mem c 1 1; try head -c 1 /tmp/mem; mknod /tmp/kmsg c 1 11; try head -c 1 /tmp/kmsg
            try mount -t tmpfs tmpfs /mnt; mkdir /tmp/m; try mount --bind / /tmp/m; try mount -o remount,rw /proc/sys
            try umount /proc/sys; try umount /etc/hosts
            try unshare -m true; try unshare -U true; try nsenter -t 1 -m true; try pivot_root / /tmp/m
            try sh -c 'echo b >/proc/sysrq-trigger'; try sh -c 'echo /x >/proc/sys/kernel/core_pattern'
            try sh -c 'echo 1 >/sys/fs/cgroup/memory/release_agent'; try sh -c 'echo 1 >/sys/fs/cgroup/memory/notify_on_release'
            try mkdir /sys/fs/cgroup/memory/x; try sh -c 'echo x >/sys/kernel/uevent_helper'
            try dmesg; try insmod /bin/busybox; try swapoff -a; try hostname other
            try ip link set lo down; try reboot -f; try cat /proc/kcore; try test -s /proc/keys; try test -s /proc/timer_list
            try chroot /proc/1/root/../../.. cat {outside}/treasure
            true");
        assert_eq!(shell(&project, "app", &attempts), "");
        let _down = project.compose("down").success();
    });
}

#[test]
fn state_and_sockets_are_for_root_only() {
    World::run(|world| {
        world.import_image("default");
        let file = "
services:
  app:
    image: demo
    init: true
    stop_grace_period: 0s
    command: sleep infinity
    secrets: [word]
    volumes: ['data:/data']
secrets: {word: {environment: WORD}}
volumes: {data: {}}
";
        let project = world.project("modes", file);
        // Whatever the user's mask is.
        let up = "umask 000; exec \"$0\" up -d";
        let _up = world
            .command_in(&project.path("."), "sh")
            .args(["-c", up, env!("CARGO_BIN_EXE_compose")])
            .env("WORD", "x")
            .run()
            .success();
        let find = |words: &[&str]| {
            world
                .command("find")
                .arg(world.state_root())
                .args(words)
                .run()
                .success()
                .stdout
        };
        assert_eq!(find(&["-type", "s", "-perm", "/077"]), "");
        assert!(find(&["-type", "s"]).contains("control.sock"));
        // Nobody else gets past the first folders, or into those of containers and volumes.
        for folder in [
            "lib",
            "run",
            "lib/containers/*",
            "run/containers/*",
            "lib/volumes/*",
            "run/containers/*/secrets",
            "lib/projects/*",
        ] {
            let words = format!("stat -c %a {}/{folder}", world.state_root().display());
            let modes = world
                .command("sh")
                .args(["-c", &words])
                .run()
                .success()
                .stdout;
            assert!(modes.lines().all(|mode| mode == "700"), "{folder}: {modes}");
        }
        // What the container's users must read is below those; nobody may write but root.
        assert_eq!(
            find(&["-type", "f", "-perm", "/022", "-not", "-path", "*/_data/*"]),
            ""
        );
        let _down = project
            .command(["down", "-v"])
            .env("WORD", "x")
            .run()
            .success();
    });
}
