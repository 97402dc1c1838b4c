//! Attributes of services as their containers see them. `docs/attributes.md` says which test proves which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::world::{Project, World};

fn shell(project: &Project<'_>, service: &str, script: &str) -> String {
    let words = ["exec", "-T", service, "sh", "-c", script];
    project.command(words).run().success().stdout
}

/// The lines that a script prints in a service, as `name=value`.
fn facts(project: &Project<'_>, service: &str, script: &str) -> BTreeMap<String, String> {
    let text = shell(project, service, script);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[track_caller]
fn assert_facts(found: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(
            found.get(*name).map(String::as_str),
            Some(*value),
            "{name} in {found:#?}"
        );
    }
}

/// `cgroup NAME V1 V2`: a control of the container's own cgroup, whichever version the machine has.
const CGROUP: &str =
    "cgroup() { echo \"$1=$(cat /sys/fs/cgroup/$2 2>/dev/null || cat /sys/fs/cgroup/$3)\"; }
status() { echo \"$1=$(sed -n \"s/^$1:[[:space:]]*//p\" /proc/${2:-1}/status)\"; }
";

const PROCESSES: &str = "
x-service: &service {image: demo, stop_grace_period: 0s, command: sleep infinity}
services:
  process:
    <<: *service
    container_name: of-its-own
    entrypoint: [sh, -c, 'trap \"\" TERM; trap \"echo usr1; exit 0\" USR1; echo \"$0 $@\"; while :; do sleep 0.05; done']
    command: [first, 'sec ond']
    user: app
    group_add: [nogroup, '3000']
    working_dir: /made/here
    environment: {PLAIN: a=b, EMPTY: '', OVER: own}
    env_file: [more.env, {path: raw.env, format: raw}, {path: none.env, required: false}]
    hostname: node
    domainname: example.org
    labels: {tier: front}
    label_file: [more.labels]
    annotations: {org.example.note: noted}
    stop_signal: USR1
    stop_grace_period: 20s
    platform: linux/amd64
    pull_policy: never
    attach: false
    profiles: []
  terminal: {<<: *service, init: true, tty: true, stdin_open: true, command: cat}
  limited:
    <<: *service
    init: true
    cpus: 0.5
    cpuset: '0'
    cpu_shares: 512
    mem_limit: 64m
    mem_reservation: 32m
    memswap_limit: 96m
    mem_swappiness: 7
    oom_kill_disable: true
    oom_score_adj: 321
    pids_limit: 77
    shm_size: 2m
    ulimits: {nofile: {soft: 99, hard: 100}, nproc: 500}
    cgroup_parent: /compose-of-its-own
  quota: {<<: *service, init: true, cpu_quota: 30000, cpu_period: 60000}
  deployed:
    <<: *service
    init: true
    deploy:
      mode: global
      replicas: 3
      resources: {limits: {cpus: '0.25', memory: 48M, pids: 33}, reservations: {memory: 24M}}
      restart_policy: {condition: on-failure, max_attempts: 2}
  job:
    <<: *service
    init: true
    command: 'true'
    restart: always
    deploy: {mode: replicated-job, replicas: 2}
  confined:
    <<: *service
    init: true
    read_only: true
    cap_drop: [ALL]
    cap_add: [CHOWN, CAP_KILL]
    security_opt: ['no-new-privileges:true', 'seccomp=profile.json', 'systempaths=unconfined', 'apparmor=unconfined', 'label=disable']
    sysctls: {net.core.somaxconn: 77, kernel.msgmax: 12345}
    tmpfs: ['/scratch:size=1m,mode=700,uid=1000,exec', /plain]
    devices: ['/dev/null:/dev/nothing:rw', '/dev/zero']
    device_cgroup_rules: ['c 10:229 r']
  privileged: {<<: *service, init: true, privileged: true}
  hosts: {<<: *service, pid: host, ipc: host, uts: host, cgroup: host, userns_mode: host, network_mode: host}
  shared: {<<: *service, init: true, ipc: shareable, command: sh -c 'echo shared >/dev/shm/f; sleep infinity'}
  joins: {<<: *service, ipc: 'service:shared', pid: 'service:shared', depends_on: [shared]}
  alone: {<<: *service, init: true, ipc: none, cgroup: private, network_mode: none}
";

#[test]
fn processes_and_limits_are_those_of_the_file() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("processes", PROCESSES);
        project.write("more.env", "OVER=file\nMORE=${PLAIN}x\n");
        project.write("raw.env", "RAW=\"$kept\"\n");
        project.write("more.labels", "tier=file\nextra=label\n");
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#;
        project.write("profile.json", profile);
        let _up = project.compose("up -d").success();

        let logs = project.compose("logs --no-log-prefix process").success();
        assert_eq!(logs.stdout, "first sec ond\n");
        let look = format!(
            "{CGROUP} cd /proc/1; id -u >/dev/null; echo id=$(id); echo cwd=$(readlink cwd); \
            tr '\\0' '\\n' <environ; echo name=$(hostname); echo domain=$(cat /proc/sys/kernel/domainname); \
            echo owner=$(stat -c %u:%a /made/here)"
        );
        let found = facts(&project, "process", &look);
        assert_facts(
            &found,
            &[
                (
                    "id",
                    "uid=1000(app) gid=1000(app) groups=1000(app),3000,65534(nogroup)",
                ),
                ("cwd", "/made/here"),
                ("PLAIN", "a=b"),
                ("EMPTY", ""),
                ("OVER", "own"),
                ("MORE", "a=bx"),
                ("RAW", "\"$kept\""),
                ("HOME", "/home/app"),
                ("name", "node"),
                ("domain", "example.org"),
                ("owner", "0:755"),
            ],
        );
        let info = world
            .ctr(["container", "info", &id(world, &project, "process")])
            .run()
            .success()
            .stdout;
        for text in [
            "\"tier\": \"front\"",
            "\"extra\": \"label\"",
            "\"org.example.note\": \"noted\"",
        ] {
            assert!(info.contains(text), "{text} in {info}");
        }
        assert_eq!(project.fields("Service", "Name")["process"], "of-its-own");
        let _stop = project.compose("stop process").success();
        let logs = project.compose("logs --no-log-prefix process").success();
        assert_eq!(logs.stdout, "first sec ond\nusr1\n");

        let found = facts(
            &project,
            "terminal",
            "echo init=$(readlink /proc/1/exe); echo tty=$(for process in /proc/[0-9]*; do readlink $process/fd/0; done)",
        );
        assert_facts(&found, &[("init", "/sbin/docker-init")]);
        assert!(
            found["tty"].contains("/dev/pts/0") || found["tty"].contains("/dev/console"),
            "{found:?}"
        );

        let look = format!("{CGROUP} cgroup quota cpu/cpu.cfs_quota_us cpu.max
            cgroup cpuset cpuset/cpuset.cpus cpuset.cpus; cgroup shares cpu/cpu.shares cpu.weight
            cgroup memory memory/memory.limit_in_bytes memory.max
            cgroup soft memory/memory.soft_limit_in_bytes memory.low
            cgroup pids pids/pids.max pids.max
            echo swap=$(cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null)
            echo swappiness=$(cat /sys/fs/cgroup/memory/memory.swappiness 2>/dev/null)
            echo oom=$(sed -n 's/oom_kill_disable //p' /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null)
            echo score=$(cat /proc/1/oom_score_adj); echo files=$(sed -n 's/Max open files *//p' /proc/1/limits | tr -s ' ')
            echo processes=$(sed -n 's/Max processes *//p' /proc/1/limits | tr -s ' ')
            echo shm=$(df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2); echo group=$(sed -n 's/.*pids:\\|^0:://p' /proc/1/cgroup | head -1)");
        let found = facts(&project, "limited", &look);
        let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        assert_facts(
            &found,
            &[
                ("quota", if v2 { "50000 100000" } else { "50000" }),
                ("cpuset", "0"),
                ("memory", "67108864"),
                ("soft", "33554432"),
                ("pids", "77"),
                ("score", "321"),
                ("files", "99 100 files"),
                ("processes", "500 500 processes"),
                ("shm", "2048"),
            ],
        );
        if !v2 {
            assert_facts(
                &found,
                &[
                    ("shares", "512"),
                    ("swappiness", "7"),
                    ("oom", "1"),
                    ("swap", "100663296"),
                ],
            );
            assert!(
                found["group"].starts_with("/compose-of-its-own/"),
                "{found:?}"
            );
        }
        let found = facts(
            &project,
            "quota",
            &format!(
                "{CGROUP} cgroup quota cpu/cpu.cfs_quota_us cpu.max; cgroup period cpu/cpu.cfs_period_us cpu.max"
            ),
        );
        assert!(
            found["quota"].starts_with("30000") && found["period"].ends_with("60000"),
            "{found:?}"
        );
        let found = facts(&project, "deployed", &look);
        assert_facts(
            &found,
            &[
                ("quota", if v2 { "25000 100000" } else { "25000" }),
                ("memory", "50331648"),
                ("soft", "25165824"),
                ("pids", "33"),
            ],
        );
        let services: Vec<String> = project
            .containers()
            .iter()
            .map(|one| one["Service"].to_string())
            .collect();
        let count = |name: &str| {
            services
                .iter()
                .filter(|service| service.contains(name))
                .count()
        };
        assert_eq!((count("deployed"), count("job")), (1, 2), "{services:?}");
        crate::world::eventually("the end of the jobs", || {
            project.fields("Name", "State")["processes-job-1"] == "exited"
        });

        let look = format!("{CGROUP} for name in CapBnd CapEff CapPrm CapInh CapAmb NoNewPrivs Seccomp; do status $name; done
            echo somaxconn=$(cat /proc/sys/net/core/somaxconn); echo msgmax=$(cat /proc/sys/kernel/msgmax)
            echo root=$(touch /x 2>&1); echo mkdir=$(mkdir /scratch/x 2>&1); echo scratch=$(grep ' /scratch ' /proc/mounts)
            echo masked=$(wc -c </proc/timer_list); echo plain=$(stat -c %a /plain)
            echo nothing=$(stat -c '%t:%T' /dev/nothing; echo x >/dev/nothing && echo written); echo zero=$(head -c 3 /dev/zero | wc -c)
            echo rules=$(cat /sys/fs/cgroup/devices/devices.list 2>/dev/null)");
        let found = facts(&project, "confined", &look);
        assert_facts(
            &found,
            &[
                ("CapBnd", "0000000000000021"),
                ("CapEff", "0000000000000021"),
                ("CapInh", "0000000000000000"),
                ("CapAmb", "0000000000000000"),
                ("NoNewPrivs", "1"),
                ("Seccomp", "2"),
                ("somaxconn", "77"),
                ("msgmax", "12345"),
                ("root", "touch: /x: Read-only file system"),
                (
                    "mkdir",
                    "mkdir: can't create directory '/scratch/x': Permission denied",
                ),
                ("plain", "1777"),
                ("nothing", "1:3 written"),
                ("zero", "3"),
            ],
        );
        assert_ne!(found["masked"], "0", "system paths are not confined");
        assert!(
            found["scratch"].contains("size=1024k,mode=700,uid=1000"),
            "{found:?}"
        );
        assert!(!found["scratch"].contains("noexec"), "{found:?}");
        if !v2 {
            assert!(
                found["rules"].contains("c 10:229 r") && found["rules"].contains("c 1:3 rw"),
                "{found:?}"
            );
        }

        let found = facts(
            &project,
            "privileged",
            &format!(
                "{CGROUP} status CapBnd; status Seccomp; echo sys=$(grep ' /sys ' /proc/mounts)
            echo kmsg=$(ls /dev/kmsg); echo masked=$(cat /proc/timer_list | head -c 1 | wc -c)"
            ),
        );
        assert_facts(
            &found,
            &[("Seccomp", "0"), ("kmsg", "/dev/kmsg"), ("masked", "1")],
        );
        assert!(found["sys"].contains("rw,"), "{found:?}");

        let look = "for kind in pid ipc uts cgroup user net; do echo $kind=$(readlink /proc/self/ns/$kind); done";
        let inside = facts(&project, "hosts", look);
        let outside = world
            .command("sh")
            .args(["-c", look])
            .run()
            .success()
            .stdout;
        for line in outside.lines() {
            let (kind, namespace) = line.split_once('=').unwrap();
            assert_eq!(inside[kind], namespace, "{kind}");
        }
        let alone = facts(&project, "alone", look);
        for kind in ["pid", "ipc", "uts", "cgroup", "net"] {
            assert_ne!(alone[kind], inside[kind], "{kind}");
        }
        assert_eq!(
            shell(
                &project,
                "alone",
                "mount | grep -c /dev/shm; ls /sys/class/net"
            ),
            "0\nlo\n"
        );
        assert_eq!(
            shell(&project, "joins", "cat /dev/shm/f; readlink /proc/1/exe"),
            "shared\n/sbin/docker-init\n"
        );
        let _down = project.compose("down").success();
        // A parent that the user has named is the user's, with whatever limits it has.
        let parents = "rmdir /sys/fs/cgroup/compose-of-its-own /sys/fs/cgroup/*/compose-of-its-own 2>/dev/null; true";
        let _removed = world.command("sh").args(["-c", parents]).run().success();
    });
}

/// The whole id of a service's container.
fn id(world: &World, project: &Project<'_>, service: &str) -> String {
    let containers = project.containers();
    let found = containers
        .iter()
        .find(|container| container["Service"] == service);
    let short = found.unwrap()["ID"].as_str().unwrap();
    let listed = world.ctr(["container", "list", "--quiet"]).run().success();
    let mut ids = listed.stdout.lines();
    ids.find(|id| id.starts_with(short)).unwrap().to_owned()
}

#[test]
fn an_exec_inherits_what_the_container_has() {
    World::run(|world| {
        world.import_image("default");
        let file = "
services:
  web:
    image: demo
    init: true
    stop_grace_period: 0s
    command: sleep infinity
    user: app
    group_add: ['3000']
    working_dir: /home/app
    environment: {A: own}
    cap_drop: [MKNOD]
    cap_add: [NET_ADMIN]
    security_opt: ['no-new-privileges:true']
    ulimits: {nofile: {soft: 100, hard: 100}}
    oom_score_adj: 200
";
        let project = world.project("inherits", file);
        let _up = project.compose("up -d").success();
        let look = "cat /proc/$1/limits /proc/$1/oom_score_adj; readlink /proc/$1/cwd;
            grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/$1/status; cat /proc/$1/environ | tr '\\0' '\\n' | grep -vE '^(PWD|SHLVL)=' | sort";
        let of = |words: &[&str], whom: &str| {
            let tail = ["web", "sh", "-c", look, "sh", whom];
            project
                .command(["exec", "-T"])
                .args(words.iter().chain(&tail))
                .run()
                .success()
                .stdout
        };
        // Its two limits of files are the same: a runc before 1.2 may raise a soft one of an exec to the hard one.
        assert_eq!(of(&[], "self"), of(&[], "1"));
        // As another user it keeps the groups that the file adds, as in Docker.
        let other = of(
            &["--user", "0:5", "--workdir", "/tmp", "--env", "A=else"],
            "self",
        );
        let effective = format!("CapEff:\t{}", capabilities());
        for line in [
            "Uid:\t0\t0\t0\t0",
            "Gid:\t5\t5\t5\t5",
            "Groups:\t5 3000 ",
            "/tmp",
            "A=else",
            &effective,
        ] {
            assert!(
                other.lines().any(|found| found == line),
                "{line} in {other}"
            );
        }
        let _down = project.compose("down").success();
    });
}

/// Docker's default capabilities without `MKNOD` and with `NET_ADMIN`.
fn capabilities() -> String {
    format!("{:016x}", 0xa804_25fb_u64 & !(1 << 27) | 1 << 12)
}

const STORAGE: &str = "
x-service: &service {image: demo, init: true, stop_grace_period: 0s, command: sleep infinity}
services:
  app:
    <<: *service
    volumes:
      - named:/srv
      - anonymous:/ro:ro
      - /nocopy-not-there:/created
      - ./bound:/bound:ro
      - type: volume
        target: /labelled
        volume: {nocopy: true, labels: {a: b}}
      - {type: volume, source: parts, target: /part, volume: {subpath: inner/deep}}
      - {type: volume, source: driven, target: /driven}
      - {type: volume, source: fixed, target: /fixed}
      - {type: volume, source: memory, target: /memory}
      - {type: volume, source: outside, target: /outside}
      - {type: bind, source: ./bound, target: /tree, read_only: true, bind: {propagation: rslave, recursive: enabled}}
      - {type: bind, source: ./bound, target: /flat, bind: {recursive: disabled, create_host_path: false}}
      - {type: tmpfs, target: /scratch, tmpfs: {size: 1m, mode: 0750}}
      - {type: image, source: demo, target: /image, image: {subpath: etc}}
      - {type: image, source: demo, target: /file, read_only: true, image: {subpath: etc/passwd}}
  heir: {<<: *service, volumes_from: ['app:ro']}
  twins: {<<: *service, scale: 2, volumes: ['filled:/bin']}
volumes:
  named: {name: of-its-own, labels: {tier: data}}
  anonymous: {}
  parts: {}
  filled: {}
  driven: {driver: local, driver_opts: {type: none, o: bind, device: ./device}}
  fixed: {driver_opts: {type: none, o: 'bind,ro', device: DEVICE}}
  memory: {driver_opts: {type: tmpfs, device: tmpfs, o: 'size=1m,uid=1000,nosuid'}}
  outside: {external: true, name: made-before}
";

#[test]
fn volumes_are_what_the_file_says() {
    World::run(|world| {
        world.import_image("default");
        let device = world.path("projects/storage/device").display().to_string();
        let project = world.project("storage", &STORAGE.replace("DEVICE", &device));
        for folder in ["bound/below", "device"] {
            fs::create_dir_all(project.path(folder)).unwrap();
        }
        project.write("bound/file", "bound\n");
        let missing = project.compose("up -d").failure();
        assert!(missing.stderr.contains("made-before"), "{missing}");
        let _down = project.compose("down -v").success();

        // Volumes of others, and parts of a volume, are there before.
        let seed = world.project(
            "seed",
            "services:
  seed: {image: demo, command: mkdir -p /v/inner/deep /o, volumes: ['parts:/v', 'outside:/o']}
volumes: {parts: {name: storage_parts}, outside: {name: made-before}}
",
        );
        let _up = seed.compose("up").success();
        let _up = project.compose("up -d").success();

        let look = "cat /bound/file; for file in /srv/x /ro/x /created/x /bound/x /labelled/x /part/x /driven/x /fixed/x /memory/x /outside/x /tree/x /flat/x /scratch/x /image/x /file; do { echo $file >$file; } 2>/dev/null && echo \"$file\"; done; true";
        assert_eq!(
            shell(&project, "app", look),
            "bound\n/srv/x\n/created/x\n/labelled/x\n/part/x\n/driven/x\n/memory/x\n/outside/x\n/flat/x\n/scratch/x\n/image/x\n"
        );
        let look = "ls -A /image | head -3 | tr '\\n' ' '; head -1 /file; stat -c %a:%u /scratch /memory; grep -E ' (/scratch|/memory) ' /proc/mounts | grep -c size=1024k;
            grep ' /tree ' /proc/self/mountinfo | grep -c master; ls /labelled";
        let found = shell(&project, "app", look);
        assert!(
            found.contains("root:x:0:0") && found.contains("750:0\n1777:1000\n2\n"),
            "{found}"
        );
        assert!(project.path("device/x").exists() && project.path("bound/x").exists());
        assert_eq!(
            shell(
                &project,
                "heir",
                "cat /srv/x; { echo y >/srv/y; } 2>/dev/null || echo refused"
            ),
            "/srv/x\nrefused\n"
        );
        // Both replicas began at once, and the volume was filled once and wholly.
        let listed = |number: &str| {
            let words = [
                "exec",
                "-T",
                "--index",
                number,
                "twins",
                "sh",
                "-c",
                "ls -l /bin | wc -l; stat -c %a:%u:%h /bin/busybox",
            ];
            project.command(words).run().success().stdout
        };
        assert_eq!(listed("1"), listed("2"));
        let applets = listed("1");
        assert!(
            applets.lines().next().unwrap().parse::<u32>().unwrap() > 100,
            "{applets}"
        );
        assert!(applets.contains("755:0:"), "{applets}");

        let volumes = world.state_root().join("lib/volumes");
        let record =
            |name: &str| fs::read_to_string(volumes.join(name).join("volume.json")).unwrap();
        assert!(
            record("of-its-own").contains("\"tier\":\"data\"")
                || record("of-its-own").contains("\"tier\": \"data\"")
        );
        let _down = project.compose("down -v").success();
        assert!(volumes.join("made-before").exists() && !volumes.join("of-its-own").exists());
        let _down = seed.compose("down -v").success();
        assert!(!volumes.join("made-before").exists());
    });
}

const NETWORKS: &str = "
x-service: &service {image: demo, init: true, stop_grace_period: 0s, command: sleep infinity}
services:
  app:
    <<: *service
    extra_hosts: ['foo=192.0.2.7', 'gate=host-gateway', 'six=[2001:db8::1]']
    dns: [192.0.2.53]
    dns_search: [example.org]
    dns_opt: ['ndots:3', 'timeout:2']
    expose: ['9000']
    links: ['db:store']
    networks:
      front:
        aliases: [other-name]
        ipv4_address: 10.77.1.9
        mac_address: 02:42:ac:11:65:43
        interface_name: front0
        priority: 10
      back: {gw_priority: 5}
  db: {<<: *service, networks: [back, front], mac_address: '02:42:ac:11:65:44'}
  lone: {<<: *service, networks: [inner]}
networks:
  front:
    name: front-of-its-own
    labels: {tier: front}
    attachable: true
    ipam:
      driver: default
      config:
        - {subnet: 10.77.1.0/24, gateway: 10.77.1.254, ip_range: 10.77.1.128/25, aux_addresses: {printer: 10.77.1.129}}
  back: {driver: bridge, driver_opts: {com.docker.network.driver.mtu: '1400'}}
  inner: {internal: true, enable_ipv4: true}
";

#[test]
fn networks_and_name_files_are_what_the_file_says() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("networks", NETWORKS);
        let _up = project.compose("up -d").success();
        let hosts = shell(&project, "app", "cat /etc/hosts");
        for line in ["192.0.2.7\tfoo", "2001:db8::1\tsix"] {
            assert!(
                hosts.lines().any(|found| found == line),
                "{line} in {hosts}"
            );
        }
        assert!(hosts.contains("\tgate\n"), "{hosts}");
        assert_eq!(
            shell(&project, "app", "cat /etc/resolv.conf"),
            "nameserver 127.0.0.11\nsearch example.org\noptions ndots:3 timeout:2\n"
        );
        let look = "ip -o link; ip -o addr; ip route; cat /sys/class/net/eth*/mtu";
        let found = shell(&project, "app", look);
        for text in ["front0", "10.77.1.9/24", "02:42:ac:11:65:43", "1400"] {
            assert!(found.contains(text), "{text} in {found}");
        }
        // The way out is the network that asks for it, though the other one comes first.
        let out = found
            .lines()
            .find(|line| line.starts_with("default"))
            .unwrap();
        assert!(!out.contains("front0"), "{found}");
        let db = shell(
            &project,
            "db",
            "ip -o link; ip -o -4 addr; ip -o -4 addr show to 10.77.1.128/25 | wc -l; nslookup -type=a other-name | tail -3",
        );
        assert!(
            db.contains("02:42:ac:11:65:44") && db.contains("10.77.1.9"),
            "{db}"
        );
        assert!(db.lines().any(|line| line == "1"), "{db}");
        assert!(
            !db.contains("10.77.1.129/"),
            "a reserved address was given away: {db}"
        );
        let _linked = project
            .command(["exec", "-T", "app", "nslookup", "-type=a", "store."])
            .run()
            .success();
        assert!(!shell(&project, "lone", "ip route").contains("default"));
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_device_is_found_by_its_name() {
    World::run(|world| {
        world.import_image("default");
        let folder = world.path("cdi");
        fs::create_dir(&folder).unwrap();
        let fake = r#"{"cdiVersion": "0.6.0", "kind": "example.com/fake",
            "containerEdits": {"env": ["FAKE=yes"]},
            "devices": [{"name": "one", "containerEdits": {"env": ["ONE=1"],
                "deviceNodes": [{"path": "/dev/fake", "hostPath": "/dev/zero", "permissions": "r", "fileMode": 292}],
                "mounts": [{"hostPath": "/etc/passwd", "containerPath": "/opt/driver", "options": ["ro", "nosuid"]}],
                "hooks": [{"hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", "echo hooked >HOOKED"]}]}}]}"#;
        fs::write(
            folder.join("fake.json"),
            fake.replace("HOOKED", &world.path("hooked").display().to_string()),
        )
        .unwrap();
        let gpu = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n- {name: all, containerEdits: {env: [GPU=all]}}\n- {name: '0', containerEdits: {env: [GPU=0]}}\n";
        fs::write(folder.join("gpu.yaml"), gpu).unwrap();
        let link = ["-s", &folder.display().to_string(), "/run/cdi"];
        let _linked = world.command("ln").args(link).run().success();

        let service =
            "{image: demo, init: true, user: app, stop_grace_period: 0s, command: sleep infinity, ";
        let file = format!("
services:
  named: {service} devices: ['example.com/fake=one']}}
  gpus: {service} gpus: all}}
  reserved: {service} deploy: {{resources: {{reservations: {{devices: [{{capabilities: [gpu], count: 1}}]}}}}}}}}
");
        let project = world.project("devices", &file);
        let _up = project.compose("up -d").success();
        let look = "echo $FAKE $ONE; head -c 2 /dev/fake | wc -c; { echo >/dev/fake; } 2>/dev/null || echo refused; head -1 /opt/driver | cut -d: -f1";
        assert_eq!(shell(&project, "named", look), "yes 1\n2\nrefused\nroot\n");
        assert_eq!(
            fs::read_to_string(world.path("hooked")).unwrap(),
            "hooked\n"
        );
        assert_eq!(shell(&project, "gpus", "echo $GPU"), "all\n");
        assert_eq!(shell(&project, "reserved", "echo $GPU"), "0\n");
        let _down = project.compose("down").success();

        let project = world.project(
            "nodevice",
            "services:\n  web: {image: demo, devices: ['example.com/fake=two']}\n",
        );
        let failed = project.compose("up -d").failure();
        assert!(
            failed.stderr.contains("example.com/fake=two") && failed.stderr.contains("/etc/cdi"),
            "{failed}"
        );
        let _down = project.compose("down").success();
        let _unlinked = world.command("rm").arg("/run/cdi").run().success();
    });
}

#[test]
fn a_block_device_is_throttled() {
    World::run(|world| {
        world.import_image("default");
        // Lines of this file: major and minor number, blocks, name.
        let partitions = fs::read_to_string("/proc/partitions").unwrap();
        let mut devices = partitions
            .lines()
            .skip(2)
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let device = devices
            .find(|words| fs::exists(format!("/dev/{}", words[3])).unwrap())
            .unwrap();
        let (number, path) = (
            format!("{}:{}", device[0], device[1]),
            format!("/dev/{}", device[3]),
        );
        let file = format!(
            "
services:
  web:
    image: demo
    init: true
    stop_grace_period: 0s
    command: sleep infinity
    blkio_config:
      device_read_bps: [{{path: {path}, rate: 1mb}}]
      device_write_bps: [{{path: {path}, rate: 2mb}}]
      device_read_iops: [{{path: {path}, rate: 300}}]
      device_write_iops: [{{path: {path}, rate: 400}}]
"
        );
        let project = world.project("throttled", &file);
        let _up = project.compose("up -d").success();
        let found = shell(&project, "web", "cd /sys/fs/cgroup; cat io.max 2>/dev/null ||
            for name in read_bps write_bps read_iops write_iops; do cat blkio/blkio.throttle.${name}_device; done");
        let expected = if found.contains("rbps=") {
            format!("{number} rbps=1048576 wbps=2097152 riops=300 wiops=400\n")
        } else {
            ["1048576", "2097152", "300", "400"]
                .map(|rate| format!("{number} {rate}\n"))
                .concat()
        };
        assert_eq!(found, expected);
        let _down = project.compose("down").success();
    });
}

/// Every attribute that takes no effect wherever it is used, each on a line of its own.
const INEFFECTIVE: &str = "
services:
  web:
    image: demo
    init: true
    stop_grace_period: 0s
    command: sleep infinity
    credential_spec: {file: x}
    isolation: hyperv
    cpu_count: 1
    cpu_percent: 10
    storage_opt: {size: 1G}
    use_api_socket: true
    models: [llm]
    external_links: [other]
    logging:
      driver: gelf
    networks:
      net:
        link_local_ips: [169.254.8.8]
        driver_opts: {a: b}
    volumes:
      - type: bind
        source: .
        target: /here
        consistency: cached
        bind:
          selinux: z
    deploy:
      labels: {a: b}
      endpoint_mode: vip
      placement: {constraints: [node.role==manager]}
      resources:
        reservations:
          cpus: '0.1'
          generic_resources: [{discrete_resource_spec: {kind: ssd, value: 1}}]
      restart_policy:
        condition: none
        delay: 1s
        window: 1s
  tool:
    image: demo
    command: sleep infinity
    init: true
    stop_grace_period: 0s
networks:
  net:
    enable_ipv6: true
models:
  llm: {model: ai/model}
";

#[test]
fn what_takes_no_effect_is_warned_of_once_with_its_line() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("ineffective", INEFFECTIVE);
        let up = project
            .command(["--progress", "json", "up", "-d"])
            .run()
            .success();
        let mut warned = BTreeSet::new();
        for line in up.stderr.lines() {
            let told: serde_json::Value = serde_json::from_str(line).unwrap();
            let message = told["message"].as_str().unwrap_or_default();
            let Some((path, _)) = message
                .strip_prefix('`')
                .and_then(|rest| rest.split_once("` takes no effect: "))
            else {
                continue;
            };
            let path = path
                .replace("services.web.", "")
                .replace("services.tool.", "");
            let path = path
                .replace("networks.net.", "networks.*.")
                .replace("[0]", "[]");
            let number = told["labels"][0]["line"].as_u64().unwrap();
            let number = usize::try_from(number).unwrap();
            let written = INEFFECTIVE.lines().nth(number - 1).unwrap();
            let name = path.rsplit('.').next().unwrap();
            assert!(written.contains(name), "`{path}` is not on `{written}`");
            assert!(warned.insert(path.clone()), "two warnings of {path}");
        }
        let table = include_str!("../../docs/attributes.md");
        let rows = table
            .lines()
            .filter(|line| line.trim_end_matches([' ', '|']).ends_with("| warning"));
        let documented: BTreeSet<String> = rows
            .flat_map(|row| {
                row.split(" | ")
                    .next()
                    .unwrap()
                    .split('`')
                    .skip(1)
                    .step_by(2)
                    .map(str::to_owned)
            })
            .filter(|path| {
                !warned.iter().any(|warned| {
                    path.starts_with(&format!("{warned}."))
                        || path.starts_with(&format!("{warned}[]."))
                })
            })
            .collect();
        warned.remove("logging.driver");
        assert_eq!(warned, documented, "{}", up.stderr);
        let _down = project.compose("down").success();
    });
}
