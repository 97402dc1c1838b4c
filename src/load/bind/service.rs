//! Services.

use super::read::Read as _;
use crate::model::{
    BindOptions, BlkioConfig, Build, Condition, CredentialSpec, Dependency, Deploy, Develop,
    DeviceMapping, DeviceRequest, EnvFile, FileReference, GenericResource, Healthcheck, Hook,
    ImageOptions, Logging, ModelReference, Mount, MountKind, Placement, Port, Provider,
    ResourceLimits, Resources, RestartPolicy, Service, ServiceNetwork, ThrottleDevice,
    TmpfsOptions, Ulimit, UpdateConfig, VolumeOptions, WatchRule, WeightDevice,
};
use crate::yaml::Node;

pub(super) fn service(name: &str, node: &Node) -> Service {
    Service {
        name: name.to_owned(),

        image: node.string("image"),
        build: node.object("build", build),
        command: node.texts_if_set("command"),
        entrypoint: node.texts_if_set("entrypoint"),
        working_dir: node.string("working_dir"),
        user: node.string("user"),
        group_add: node.texts("group_add"),
        environment: node.variables("environment"),
        env_file: node.each("env_file", |file| EnvFile {
            path: file.string("path").unwrap_or_default(),
            required: file.boolean_at("required").unwrap_or(true),
            format: file.string("format"),
        }),
        labels: node.texts_by_key("labels"),
        label_file: node.texts("label_file"),
        annotations: node.texts_by_key("annotations"),
        container_name: node.string("container_name"),
        hostname: node.string("hostname"),
        domainname: node.string("domainname"),
        platform: node.string("platform"),
        pull_policy: node.string("pull_policy"),
        runtime: node.string("runtime"),
        init: node.boolean_at("init"),
        tty: node.flag("tty"),
        stdin_open: node.flag("stdin_open"),

        attach: node.boolean_at("attach"),
        restart: node.string("restart"),
        stop_signal: node.string("stop_signal"),
        stop_grace_period: node.duration("stop_grace_period"),
        healthcheck: node.object("healthcheck", healthcheck),
        depends_on: node.by_key("depends_on", dependency),
        profiles: node.texts("profiles"),
        scale: node.integer_at("scale"),
        provider: node.object("provider", |provider| Provider {
            kind: provider.string("type").unwrap_or_default(),
            options: provider.lists_by_key("options"),
        }),
        models: node.by_key("models", |model| {
            model.as_mapping().map(|_| ModelReference {
                endpoint_var: model.string("endpoint_var"),
                model_var: model.string("model_var"),
            })
        }),
        develop: node.object("develop", |develop| Develop {
            watch: develop.each("watch", watch_rule),
        }),
        deploy: node.object("deploy", deploy),
        pre_start: node.each("pre_start", hook),
        post_start: node.each("post_start", hook),
        pre_stop: node.each("pre_stop", hook),
        use_api_socket: node.flag("use_api_socket"),
        credential_spec: node.object("credential_spec", |spec| CredentialSpec {
            config: spec.string("config"),
            file: spec.string("file"),
            registry: spec.string("registry"),
        }),
        isolation: node.string("isolation"),
        logging: node.object("logging", |logging| Logging {
            driver: logging.string("driver"),
            options: logging.texts_by_key("options"),
        }),

        cpus: node.number("cpus"),
        cpuset: node.string("cpuset"),
        cpu_shares: node.nonzero("cpu_shares"),
        cpu_period: node.nonzero("cpu_period"),
        cpu_quota: node.nonzero("cpu_quota"),
        cpu_rt_period: node.nonzero("cpu_rt_period"),
        cpu_rt_runtime: node.nonzero("cpu_rt_runtime"),
        cpu_count: node.nonzero("cpu_count"),
        cpu_percent: node.number("cpu_percent"),
        mem_limit: node.nonzero("mem_limit"),
        mem_reservation: node.nonzero("mem_reservation"),
        memswap_limit: node.nonzero("memswap_limit"),
        mem_swappiness: node.integer_at("mem_swappiness"),
        shm_size: node.nonzero("shm_size"),
        pids_limit: node.nonzero("pids_limit"),
        oom_kill_disable: node.flag("oom_kill_disable"),
        oom_score_adj: node.nonzero("oom_score_adj"),
        ulimits: node.by_key("ulimits", ulimit),
        blkio_config: node.object("blkio_config", blkio),
        storage_opt: node.texts_by_key("storage_opt"),
        devices: node.each("devices", |device| DeviceMapping {
            source: device.string("source").unwrap_or_default(),
            target: device.string("target"),
            permissions: device.string("permissions"),
        }),
        device_cgroup_rules: node.texts("device_cgroup_rules"),
        gpus: node.each("gpus", device_request),

        privileged: node.flag("privileged"),
        read_only: node.flag("read_only"),
        cap_add: node.texts("cap_add"),
        cap_drop: node.texts("cap_drop"),
        security_opt: node.texts("security_opt"),
        userns_mode: node.string("userns_mode"),
        ipc: node.string("ipc"),
        pid: node.string("pid"),
        uts: node.string("uts"),
        cgroup: node.string("cgroup"),
        cgroup_parent: node.string("cgroup_parent"),
        sysctls: node.texts_by_key("sysctls"),

        network_mode: node.string("network_mode"),
        networks: node.by_key("networks", |network| {
            network.as_mapping().map(|_| service_network(network))
        }),
        mac_address: node.string("mac_address"),
        ports: node.each("ports", port),
        expose: node.texts("expose"),
        links: node.texts("links"),
        external_links: node.texts("external_links"),
        dns: node.texts("dns"),
        dns_search: node.texts("dns_search"),
        dns_opt: node.texts("dns_opt"),
        extra_hosts: node.lists_by_key("extra_hosts"),

        volumes: node.each("volumes", mount),
        volumes_from: node.texts("volumes_from"),
        tmpfs: node.texts("tmpfs"),
        configs: node.each("configs", file_reference),
        secrets: node.each("secrets", file_reference),
    }
}

fn healthcheck(node: &Node) -> Healthcheck {
    Healthcheck {
        test: node.texts("test"),
        interval: node.duration("interval"),
        timeout: node.duration("timeout"),
        retries: node.unsigned("retries"),
        start_period: node.duration("start_period"),
        start_interval: node.duration("start_interval"),
        disable: node.flag("disable"),
    }
}

fn dependency(node: &Node) -> Dependency {
    Dependency {
        condition: match node.text("condition") {
            Some("service_healthy") => Condition::ServiceHealthy,
            Some("service_completed_successfully") => Condition::ServiceCompletedSuccessfully,
            _ => Condition::ServiceStarted,
        },
        restart: node.flag("restart"),
        required: node.boolean_at("required").unwrap_or(true),
    }
}

fn hook(node: &Node) -> Hook {
    Hook {
        command: node.texts("command"),
        image: node.string("image"),
        user: node.string("user"),
        privileged: node.flag("privileged"),
        working_dir: node.string("working_dir"),
        environment: node.variables("environment"),
        per_replica: node.boolean_at("per_replica"),
    }
}

fn watch_rule(node: &Node) -> WatchRule {
    WatchRule {
        path: node.string("path").unwrap_or_default(),
        action: node.string("action").unwrap_or_default(),
        target: node.string("target"),
        ignore: node.texts("ignore"),
        include: node.texts("include"),
        initial_sync: node.flag("initial_sync"),
        exec: node.object("exec", hook),
    }
}

fn ulimit(node: &Node) -> Ulimit {
    match node.as_int() {
        Some(limit) => Ulimit {
            soft: limit,
            hard: limit,
        },
        None => Ulimit {
            soft: node.integer_at("soft").unwrap_or_default(),
            hard: node.integer_at("hard").unwrap_or_default(),
        },
    }
}

fn blkio(node: &Node) -> BlkioConfig {
    let weight = |node: &Node| u16::try_from(node.integer_at("weight")?).ok();
    let throttle = |node: &Node| ThrottleDevice {
        path: node.string("path").unwrap_or_default(),
        rate: node.integer_at("rate").unwrap_or_default(),
    };
    BlkioConfig {
        weight: weight(node),
        weight_device: node.each("weight_device", |device| WeightDevice {
            path: device.string("path").unwrap_or_default(),
            weight: weight(device).unwrap_or_default(),
        }),
        device_read_bps: node.each("device_read_bps", throttle),
        device_write_bps: node.each("device_write_bps", throttle),
        device_read_iops: node.each("device_read_iops", throttle),
        device_write_iops: node.each("device_write_iops", throttle),
    }
}

fn service_network(node: &Node) -> ServiceNetwork {
    ServiceNetwork {
        aliases: node.texts("aliases"),
        ipv4_address: node.parsed("ipv4_address"),
        ipv6_address: node.parsed("ipv6_address"),
        link_local_ips: node
            .texts("link_local_ips")
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect(),
        mac_address: node.string("mac_address"),
        interface_name: node.string("interface_name"),
        driver_opts: node.texts_by_key("driver_opts"),
        priority: node.integer_at("priority").unwrap_or_default(),
        gw_priority: node.integer_at("gw_priority").unwrap_or_default(),
    }
}

fn port(node: &Node) -> Port {
    let target = node.integer_at("target");
    Port {
        name: node.string("name"),
        mode: node.string("mode"),
        host_ip: node.string("host_ip"),
        target: target
            .and_then(|target| u16::try_from(target).ok())
            .unwrap_or_default(),
        published: node.string("published"),
        protocol: node.string("protocol").unwrap_or_else(|| "tcp".to_owned()),
        app_protocol: node.string("app_protocol"),
    }
}

fn mount(node: &Node) -> Mount {
    Mount {
        kind: match node.text("type") {
            Some("bind") => MountKind::Bind,
            Some("tmpfs") => MountKind::Tmpfs,
            Some("image") => MountKind::Image,
            Some("npipe") => MountKind::Npipe,
            Some("cluster") => MountKind::Cluster,
            _ => MountKind::Volume,
        },
        source: node.string("source"),
        target: node.string("target").unwrap_or_default(),
        read_only: node.flag("read_only"),
        consistency: node.string("consistency"),
        bind: node.object("bind", |bind| BindOptions {
            propagation: bind.string("propagation"),
            create_host_path: bind.boolean_at("create_host_path"),
            recursive: bind.string("recursive"),
            selinux: bind.string("selinux"),
        }),
        volume: node.object("volume", |volume| VolumeOptions {
            nocopy: volume.flag("nocopy"),
            subpath: volume.string("subpath"),
            labels: volume.texts_by_key("labels"),
        }),
        tmpfs: node.object("tmpfs", |tmpfs| TmpfsOptions {
            size: tmpfs.nonzero("size"),
            mode: tmpfs.mode("mode"),
        }),
        image: node.object("image", |image| ImageOptions {
            subpath: image.string("subpath"),
        }),
    }
}

fn file_reference(node: &Node) -> FileReference {
    FileReference {
        source: node.string("source").unwrap_or_default(),
        target: node.string("target"),
        uid: node.string("uid"),
        gid: node.string("gid"),
        mode: node.mode("mode"),
    }
}

fn device_request(node: &Node) -> DeviceRequest {
    DeviceRequest {
        capabilities: node.texts("capabilities"),
        driver: node.string("driver"),
        count: node.nonzero("count"),
        device_ids: node.texts("device_ids"),
        options: node.texts_by_key("options"),
    }
}

fn build(node: &Node) -> Build {
    Build {
        context: node.string("context"),
        dockerfile: node.string("dockerfile"),
        dockerfile_inline: node.string("dockerfile_inline"),
        args: node.variables("args"),
        target: node.string("target"),
        labels: node.texts_by_key("labels"),
        tags: node.texts("tags"),
        cache_from: node.texts("cache_from"),
        cache_to: node.texts("cache_to"),
        no_cache: node.flag("no_cache"),
        no_cache_filter: node.texts("no_cache_filter"),
        pull: node.flag("pull"),
        platforms: node.texts("platforms"),
        network: node.string("network"),
        additional_contexts: node.texts_by_key("additional_contexts"),
        secrets: node.each("secrets", file_reference),
        ssh: node.variables("ssh"),
        extra_hosts: node.lists_by_key("extra_hosts"),
        shm_size: node.nonzero("shm_size"),
        ulimits: node.by_key("ulimits", ulimit),
        privileged: node.flag("privileged"),
        entitlements: node.texts("entitlements"),
        isolation: node.string("isolation"),
        provenance: node.string("provenance"),
        sbom: node.string("sbom"),
    }
}

fn update_config(node: &Node) -> UpdateConfig {
    UpdateConfig {
        parallelism: node.unsigned("parallelism"),
        delay: node.duration("delay"),
        failure_action: node.string("failure_action"),
        monitor: node.duration("monitor"),
        max_failure_ratio: node.number("max_failure_ratio"),
        order: node.string("order"),
    }
}

fn limits(node: &Node) -> ResourceLimits {
    ResourceLimits {
        cpus: node.number("cpus"),
        memory: node.nonzero("memory"),
        pids: node.nonzero("pids"),
        devices: node.each("devices", device_request),
        generic_resources: node
            .items("generic_resources")
            .iter()
            .filter_map(|resource| resource.get("discrete_resource_spec"))
            .map(|resource| GenericResource {
                kind: resource.string("kind").unwrap_or_default(),
                value: resource.integer_at("value").unwrap_or_default(),
            })
            .collect(),
    }
}

fn deploy(node: &Node) -> Deploy {
    Deploy {
        mode: node.string("mode"),
        replicas: node.integer_at("replicas"),
        labels: node.texts_by_key("labels"),
        endpoint_mode: node.string("endpoint_mode"),
        update_config: node.object("update_config", update_config),
        rollback_config: node.object("rollback_config", update_config),
        resources: node
            .object("resources", |resources| Resources {
                limits: resources.object("limits", limits),
                reservations: resources.object("reservations", limits),
            })
            .unwrap_or_default(),
        restart_policy: node.object("restart_policy", |policy| RestartPolicy {
            condition: policy.string("condition"),
            delay: policy.duration("delay"),
            max_attempts: policy.unsigned("max_attempts"),
            window: policy.duration("window"),
        }),
        placement: node
            .object("placement", |placement| Placement {
                constraints: placement.texts("constraints"),
                preferences: placement
                    .items("preferences")
                    .iter()
                    .filter_map(|preference| preference.string("spread"))
                    .collect(),
                max_replicas_per_node: placement.unsigned("max_replicas_per_node"),
            })
            .unwrap_or_default(),
    }
}
