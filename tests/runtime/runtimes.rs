//! OCI runtimes: containers are the same under each.

use crate::world::{Project, World, source};

/// What a container sees of itself and may do.
const LOOK: &str = "
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/1/status
cat /proc/1/limits /proc/1/oom_score_adj
readlink /proc/1/cwd /proc/1/exe
cut -d' ' -f5 /proc/1/mountinfo | grep -v /sys/fs/cgroup | sort
grep -E ' (/scratch|/dev/shm|/run/secrets/token|/etc/hosts|/proc/sys) ' /proc/1/mounts | cut -d' ' -f2-4 | grep -oE '^[^ ]* |r[ow],'
ls /dev | grep -v core
cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
id
cat /proc/sys/kernel/msgmax
stat -c '%a %u %g %n' /scratch /run/secrets/token
for file in /proc/kcore /proc/keys /proc/timer_list; do head -c 9 $file 2>/dev/null | wc -c; done
ls -A /proc/acpi /sys/firmware
for file in /proc/sys/kernel/msgmax /proc/sysrq-trigger /proc/bus/x /sys/x /run/secrets/token; do
    { echo 1 >$file; } 2>/dev/null && echo written; done
true";

const PROJECT: &str = "
x-service: &service
  image: demo
  init: true
  command: sleep infinity
  stop_grace_period: 0s
  user: app
  group_add: ['3000']
  hostname: same
  cap_add: [NET_ADMIN]
  cap_drop: [MKNOD]
  tmpfs: ['/scratch:mode=750,uid=1000']
  pids_limit: 77
  oom_score_adj: 300
  ulimits: {nofile: {soft: 99, hard: 100}}
  sysctls: {kernel.msgmax: 12345}
  secrets: [token]
services:
  one: {<<: *service, runtime: runc}
  two: {<<: *service, runtime: crun}
  three: *service
secrets: {token: {environment: TOKEN}}
";

fn exec(project: &Project<'_>, service: &str, script: &str) -> String {
    let words = ["exec", "-T", service, "sh", "-c", script];
    project
        .command(words)
        .env("TOKEN", "t")
        .run()
        .success()
        .stdout
}

/// The process id of a service's main process as the world sees it.
fn pid(world: &World, project: &Project<'_>, service: &str) -> String {
    let containers = project.containers();
    let id = containers
        .iter()
        .find(|container| container["Service"] == service)
        .and_then(|container| container["ID"].as_str())
        .unwrap();
    let listed = world.ctr(["task", "list"]).run().success().stdout;
    let line = listed.lines().find(|line| line.starts_with(id)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn a_container_is_the_same_under_runc_and_crun() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("runtimes", PROJECT);
        let _up = project
            .command(["--runtime", "crun", "up", "-d"])
            .env("TOKEN", "t")
            .run()
            .success();

        let runc = exec(&project, "one", LOOK);
        assert!(
            runc.contains("12345") && runc.contains("Seccomp:\t2"),
            "{runc}"
        );
        assert_eq!(exec(&project, "two", LOOK), runc);
        assert_eq!(exec(&project, "three", LOOK), runc);

        let [one, two, three] =
            ["one", "two", "three"].map(|service| pid(world, &project, service));
        let compare = |one: &str, two: &str| {
            let script = source("tests/runtime/world/filters.py");
            world
                .command("python3")
                .arg(script)
                .args([one, two])
                .run()
                .success()
                .stdout
        };
        // Calls are allowed, forbidden, unknown, and of a foreign architecture deadly.
        let said = compare(&one, &two);
        assert!(
            said.ends_with(" 0x0 0x50001 0x50026 0x7fff0000\n"),
            "{said}"
        );
        let _same = compare(&two, &three);

        // crun was given the program, and compiled none itself.
        let record = world
            .command("sh")
            .args(["-c", "ls \"$COMPOSE_STATE_ROOT/run/seccomp\" | wc -l"]);
        assert_eq!(record.run().success().stdout, "1\n");
        let runtimes = "for task in /run/containerd/io.containerd.runtime.v2.task/*/*/config.json \
            \"$0\"/state/io.containerd.runtime.v2.task/*/*/config.json; do [ ! -e \"$task\" ] || \
            python3 -c 'import json, sys; spec = json.load(open(sys.argv[1])); \
            print(\"seccomp\" in spec[\"linux\"], \"run.oci.seccomp_bpf_data\" in spec[\"annotations\"])' \"$task\"; done | sort";
        let runtimes = world
            .command("sh")
            .args(["-c", runtimes])
            .arg(world.path("containerd"));
        assert_eq!(
            runtimes.run().success().stdout,
            "False True\nFalse True\nTrue False\n"
        );

        let _down = project.command(["down"]).env("TOKEN", "t").run().success();
    });
}

#[test]
fn a_runtime_that_is_not_there_is_named_with_its_line() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project(
            "missing",
            "services:\n  web:\n    image: demo\n    runtime: nosuch\n",
        );
        let failed = project.compose("up -d").failure();
        assert!(failed.stderr.contains("nosuch"), "{failed}");
        let _down = project.compose("down").success();
        let project = world.project("variable", "services:\n  web:\n    image: demo\n");
        let failed = project
            .command(["up", "-d"])
            .env("COMPOSE_RUNTIME", "nosuch")
            .run()
            .failure();
        assert!(failed.stderr.contains("nosuch"), "{failed}");
        let _down = project.compose("down").success();
    });
}
