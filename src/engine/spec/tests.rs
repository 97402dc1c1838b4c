//! Whole specs; the parts have tests of their own.

use super::*;

fn example() -> ContainerSpec {
    ContainerSpec {
        args: vec!["sleep".into(), "1000".into()],
        environment: vec!["PATH=/bin".into(), "HOSTNAME=c0ae15a70843".into()],
        hostname: "c0ae15a70843".into(),
        cgroups_path: "/compose/c0ae".into(),
        user: User {
            additional_gids: vec![0],
            ..User::default()
        },
        ..ContainerSpec::default()
    }
}

fn built(spec: &ContainerSpec) -> Value {
    built_on(spec, &Host::example())
}

fn built_on(spec: &ContainerSpec, host: &Host) -> Value {
    build(spec, host).unwrap()
}

/// Without the seccomp profile, which would drown the rest.
fn without_seccomp(mut document: Value) -> Value {
    if let Some(linux) = document["linux"].as_object_mut() {
        linux.remove("seccomp");
    }
    document
}

fn namespace_kinds(document: &Value) -> Vec<String> {
    let list = document["linux"]["namespaces"].as_array().unwrap().iter();
    list.map(|entry| entry["type"].as_str().unwrap().to_owned())
        .collect()
}

fn mount<'a>(document: &'a Value, destination: &str) -> Option<&'a Value> {
    let mut mounts = document["mounts"].as_array().unwrap().iter();
    mounts.find(|mount| mount["destination"] == destination)
}

#[test]
fn a_default_container_has_what_docker_gives_it() {
    let document = without_seccomp(built(&example()));
    insta::assert_snapshot!(serde_json::to_string_pretty(&document).unwrap());
}

#[test]
fn a_privileged_container_is_neither_masked_nor_filtered() {
    let spec = ContainerSpec {
        privileged: true,
        resources: Resources {
            all_devices: true,
            ..Resources::default()
        },
        ..example()
    };
    let document = built(&spec);
    for key in ["seccomp", "maskedPaths", "readonlyPaths"] {
        assert!(document["linux"].get(key).is_none(), "{key}");
    }
    assert_eq!(
        document["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        41
    );
    for path in ["/sys", "/sys/fs/cgroup"] {
        let options = &mount(&document, path).unwrap()["options"];
        assert!(
            !options.as_array().unwrap().contains(&"ro".into()),
            "{path}"
        );
    }
    assert_eq!(
        document["linux"]["resources"]["devices"],
        json!([{ "allow": true, "access": "rwm" }])
    );
}

#[test]
fn namespaces_are_private_shared_or_joined_by_path() {
    let mut spec = example();
    assert_eq!(
        namespace_kinds(&built(&spec)),
        ["mount", "network", "uts", "pid", "ipc"]
    );
    spec.namespaces = Namespaces {
        network: Namespace::Path("/run/netns/x".into()),
        pid: Namespace::Host,
        ipc: Namespace::Host,
        uts: Namespace::Host,
        cgroup: Some(Namespace::Private),
    };
    let document = built(&spec);
    assert_eq!(namespace_kinds(&document), ["mount", "network", "cgroup"]);
    assert_eq!(document["linux"]["namespaces"][1]["path"], "/run/netns/x");
    assert!(
        document.get("hostname").is_none(),
        "the host's name must not be changed"
    );
}

#[test]
fn the_cgroup_namespace_is_private_with_cgroup_v2() {
    let host = Host {
        cgroup: CgroupVersion::V2,
        ..Host::example()
    };
    assert!(namespace_kinds(&built_on(&example(), &host)).contains(&"cgroup".to_owned()));
}

#[test]
fn a_path_of_a_namespace_can_be_set_afterwards() {
    let mut document = built(&example());
    let path = Path::new("/proc/7/ns/pid");
    assert!(set_namespace_path(&mut document, "pid", path));
    assert!(!set_namespace_path(&mut document, "pid", path));
    assert!(!set_namespace_path(&mut document, "cgroup", path));
    assert!(!set_namespace_path(&mut json!([]), "pid", path));
}

#[test]
fn a_mount_at_the_place_of_a_default_one_replaces_it() {
    let tmpfs = |destination: &str| SpecMount {
        destination: destination.into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: vec!["size=1m".into()],
    };
    let spec = ContainerSpec {
        mounts: vec![tmpfs("/a/b/c"), tmpfs("/dev/shm"), tmpfs("/a")],
        ..example()
    };
    let document = built(&spec);
    let destinations: Vec<&str> = document["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    assert_eq!(
        destinations
            .iter()
            .filter(|path| **path == "/dev/shm")
            .count(),
        1
    );
    assert_eq!(
        destinations[destinations.len() - 3..],
        ["/a", "/dev/shm", "/a/b/c"]
    );

    let spec = ContainerSpec {
        mounts: vec![tmpfs("/dev")],
        ..example()
    };
    assert!(mount(&built(&spec), "/dev/pts").is_none());
}

#[test]
fn shared_memory_has_a_size_a_folder_or_is_absent() {
    let mut spec = ContainerSpec {
        shared_memory: SharedMemory::Size(32 << 20),
        ..example()
    };
    let document = built(&spec);
    let options = mount(&document, "/dev/shm").unwrap()["options"]
        .as_array()
        .unwrap();
    assert!(options.contains(&"size=33554432".into()));
    spec.shared_memory = SharedMemory::Folder("/dev/shm".into());
    assert_eq!(mount(&built(&spec), "/dev/shm").unwrap()["type"], "bind");
    spec.shared_memory = SharedMemory::Absent;
    assert!(mount(&built(&spec), "/dev/shm").is_none());
}

#[test]
fn propagation_of_a_mount_reaches_the_root() {
    let mut spec = example();
    assert!(built(&spec)["linux"].get("rootfsPropagation").is_none());
    let options = |last: &str| vec!["rbind".to_owned(), last.to_owned()];
    spec.mounts = vec![SpecMount::bind(Path::new("/a"), "/a", options("rslave"))];
    assert_eq!(built(&spec)["linux"]["rootfsPropagation"], "rslave");
    spec.mounts
        .push(SpecMount::bind(Path::new("/b"), "/b", options("rshared")));
    assert_eq!(built(&spec)["linux"]["rootfsPropagation"], "shared");
}

#[test]
fn read_only_folders_are_so_with_all_below_where_the_kernel_can() {
    let mut host = Host::example();
    assert_eq!(bind_options(true, true, &host), ["rbind", "rro"]);
    assert_eq!(bind_options(true, false, &host), ["rbind", "ro"]);
    host.kernel = (5, 11);
    assert_eq!(bind_options(true, true, &host), ["rbind", "ro"]);
    assert_eq!(bind_options(false, true, &host), ["rbind"]);
}

#[test]
fn security_options_reach_the_process() {
    let spec = ContainerSpec {
        no_new_privileges: true,
        system_paths_unconfined: true,
        seccomp: Seccomp::Unconfined,
        apparmor: Some("mine".into()),
        selinux_label: Some("system_u:system_r:container_t:s0".into()),
        limits: vec![ResourceLimit {
            kind: "RLIMIT_NOFILE".into(),
            soft: 1000,
            hard: 2000,
        }],
        domainname: "example.org".into(),
        ..example()
    };
    let document = built(&spec);
    let process = &document["process"];
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["apparmorProfile"], "mine");
    assert_eq!(process["rlimits"][0]["hard"], 2000);
    assert_eq!(
        document["linux"]["sysctl"]["kernel.domainname"],
        "example.org"
    );
    for key in ["seccomp", "maskedPaths", "readonlyPaths"] {
        assert!(document["linux"].get(key).is_none(), "{key}");
    }
}

#[test]
fn the_hosts_apparmor_profile_is_not_for_privileged_containers() {
    let host = Host {
        apparmor: Some("docker-default".into()),
        ..Host::example()
    };
    let mut spec = example();
    assert_eq!(
        built_on(&spec, &host)["process"]["apparmorProfile"],
        "docker-default"
    );
    spec.privileged = true;
    assert!(
        built_on(&spec, &host)["process"]
            .get("apparmorProfile")
            .is_none()
    );
    spec.privileged = false;
    spec.apparmor = Some(String::new());
    assert!(
        built_on(&spec, &host)["process"]
            .get("apparmorProfile")
            .is_none()
    );
}

#[test]
fn the_cgroup_path_depends_on_parent_and_driver() {
    let mut host = Host::example();
    let path =
        |parent, host: &Host| cgroups_path(parent, "1f", host).map_err(|error| error.to_string());
    assert_eq!(path(None, &host), Ok("/compose/1f".into()));
    assert_eq!(path(Some("a//b/"), &host), Ok("/a/b/1f".into()));
    assert!(path(Some("/a/../b"), &host).is_err());
    host.systemd = true;
    assert_eq!(path(None, &host), Ok("system.slice:compose:1f".into()));
    assert_eq!(
        path(Some("x.slice"), &host),
        Ok("x.slice:compose:1f".into())
    );
    assert!(
        path(Some("/x"), &host)
            .unwrap_err()
            .starts_with("cgroup_parent: `/x`")
    );
}
