//! `services.*`.

use super::resources::{BLKIO, BUILD, DEPLOY, DEVELOP, DEVICES};
use super::{
    BOOLEAN, BYTES, COMMAND, Cast, DURATION, FILE_REFERENCE, Form, HOOK, HOSTS, INTEGER, Keep,
    Keys, LABELS, LINES, Merge, NUMBER, OPTIONS, PAIRS, PathRule, Pattern, SCALAR, Schema, TEXT,
    TEXT_OR_NUMBER, TEXT_OR_TEXTS, TEXTS, Types, ULIMITS, Unique, VARIABLES, field, kept,
};

const FLAG: Schema = BOOLEAN.cast(Cast::Boolean);
const WHOLE: Schema =
    Schema::of(Types::NUMBER.or(Types::STRING), Form::Integer).cast(Cast::Integer);
const MICROSECONDS: Schema = Schema::of(Types::NUMBER.or(Types::STRING), Form::Microseconds);
/// A list of texts, each once, where a later one replaces an earlier one with the same key.
const KEYED: Schema = TEXTS.unique(Unique::Key);
const REFERENCES: Schema = Schema::list(&FILE_REFERENCE);

/// A service.
pub(in crate::load) static SERVICE: Schema = Schema::object(&[
    field("profiles", KEYED)
        .about("Profiles that turn the service on; without any it is always on"),
    field("annotations", LABELS).about("Annotations of the OCI runtime specification"),
    kept("attach", BOOLEAN, Keep::IfSet)
        .about("Show the output of the service in an attached `up`"),
    kept("build", BUILD, Keep::IfSet).about("How the image is built: the context, or all details"),
    kept("develop", DEVELOP, Keep::IfSet).about("What happens while source files change"),
    kept("blkio_config", BLKIO, Keep::IfSet).about("Share and limits of block devices"),
    field("cap_add", KEYED).about("Capabilities to add, such as NET_ADMIN"),
    field("cap_drop", KEYED).about("Capabilities to take away, or ALL"),
    field("cgroup_parent", TEXT).about("Cgroup under which the container's is made"),
    field("cgroup", TEXT.one_of(&["host", "private"]))
        .about("Cgroup namespace: the host's or one of its own"),
    field("cpu_count", INTEGER.cast(Cast::Integer).within(0, i64::MAX))
        .about("Number of processors that can be used"),
    field(
        "cpu_percent",
        Schema::of(Types::INTEGER.or(Types::STRING), Form::Number)
            .cast(Cast::Number)
            .within(0, 100),
    )
    .about("Percentage of the processors that can be used"),
    field("cpu_period", WHOLE).about("Period of the CPU quota in microseconds"),
    field("cpu_quota", WHOLE).about("CPU time in each period in microseconds"),
    field("cpu_rt_period", MICROSECONDS)
        .about("Period of the realtime scheduler, in microseconds or with a unit"),
    field("cpu_rt_runtime", MICROSECONDS)
        .about("Realtime CPU time in each period, in microseconds or with a unit"),
    field("cpus", NUMBER.cast(Cast::Number))
        .about("How many processors' worth of time can be used, such as 0.5"),
    field("cpuset", TEXT).about("Processors that can be used, such as 0-2,4"),
    field("cpu_shares", WHOLE).about("Weight for CPU time relative to other containers"),
    kept("command", COMMAND, Keep::Command)
        .about("Arguments of the entry point, in place of the image's"),
    field("configs", REFERENCES.unique(Unique::Config))
        .about("Configs that are mounted into the container"),
    field("container_name", TEXT.matching(Pattern::ContainerName))
        .about("Name of the container, instead of PROJECT-SERVICE-NUMBER"),
    kept(
        "credential_spec",
        Schema::object(&[
            field("config", TEXT).about("Name of the config with the credentials"),
            field("file", TEXT).about("File with the credentials"),
            field("registry", TEXT).about("Value in the Windows registry with the credentials"),
        ]),
        Keep::IfSet,
    )
    .about("Credentials of a managed service account on Windows"),
    field("depends_on", DEPENDS_ON).about("Services that start before and stop after this one"),
    kept("deploy", DEPLOY, Keep::IfSet).about("Replicas, resources and restarts"),
    field("device_cgroup_rules", TEXTS).about("Rules for devices, such as c 1:3 mr"),
    field(
        "devices",
        Schema::list(&DEVICE).unique(Unique::DeviceTarget),
    )
    .about("Devices of the host that the container can use"),
    field(
        "dns",
        TEXT_OR_TEXTS.merge(Merge::Sequence).unique(Unique::Key),
    )
    .about("Name servers in place of the host's"),
    field("dns_opt", KEYED.merge(Merge::Sequence)).about("Options of the resolver"),
    field(
        "dns_search",
        TEXT_OR_TEXTS.merge(Merge::Sequence).unique(Unique::Key),
    )
    .about("Domains in which short names are searched"),
    field("domainname", TEXT).about("Domain of the host name"),
    kept("entrypoint", COMMAND, Keep::Command).about("Program to run, in place of the image's"),
    kept("provider", PROVIDER, Keep::IfSet)
        .about("Program that provides the service in place of a container"),
    field("environment", VARIABLES)
        .about("Variables of the container; without a value they are taken from outside"),
    field("env_file", ENV_FILES).about("Files with variables of the container"),
    field(
        "expose",
        Schema::list(&TEXT_OR_NUMBER)
            .distinct()
            .unique(Unique::Text)
            .form(Form::Texts),
    )
    .about("Ports for other containers, which are not published"),
    kept(
        "extends",
        Schema::object(&[
            field("file", TEXT.path(PathRule::Plain))
                .about("File that defines the service, else this one"),
            field("service", TEXT).about("Name of the service to start from"),
        ])
        .closed()
        .require(&["service"])
        .or(Types::STRING),
        Keep::IfSet,
    )
    .about("Service to start from: its name, or a file too"),
    field("external_links", TEXTS).about("Containers outside of the project to reach by name"),
    field("extra_hosts", HOSTS)
        .about("Host names and their addresses, such as host.docker.internal:host-gateway"),
    field(
        "group_add",
        Schema::list(&TEXT_OR_NUMBER).distinct().form(Form::Texts),
    )
    .about("More groups of the user"),
    field(
        "gpus",
        Schema::list(&DEVICES).or(Types::STRING).one_of(&["all"]),
    )
    .about("GPUs that the container can use"),
    field("hostname", TEXT).about("Host name of the container"),
    kept("healthcheck", HEALTHCHECK, Keep::IfSet)
        .about("How to find out whether the container is healthy"),
    field("image", TEXT).about("Image that the container is made from, such as nginx:1.27"),
    kept("init", FLAG, Keep::IfSet)
        .about("Run a small init that reaps processes and forwards signals"),
    field("ipc", TEXT)
        .about("IPC namespace")
        .examples(&["shareable", "private", "host", "none"]),
    field("isolation", TEXT).about("Isolation on Windows"),
    field("labels", LABELS).about("Labels of the container"),
    field(
        "label_file",
        Schema::list(&LABEL_FILE)
            .or(Types::STRING)
            .form(Form::Texts)
            .merge(Merge::Sequence),
    )
    .about("Files with labels of the container"),
    field("links", KEYED).about("Services to reach by other names"),
    kept("logging", LOGGING, Keep::IfSet).about("Where the output goes"),
    field("mem_limit", BYTES).about("Most memory, such as 512m"),
    field(
        "mem_reservation",
        Schema::of(Types::STRING.or(Types::INTEGER), Form::Bytes),
    )
    .about("Memory to leave when it gets short, such as 256m"),
    field("memswap_limit", BYTES).about("Most memory and swap together, or -1 for no limit"),
    field(
        "mem_swappiness",
        Schema::of(Types::STRING.or(Types::INTEGER), Form::Bytes),
    )
    .about("How readily memory is swapped, from 0 to 100"),
    field("mac_address", TEXT).about("MAC address in the default network"),
    field("models", MODELS).about("Models that the service uses"),
    field("network_mode", TEXT)
        .about("Network of the container instead of `networks`")
        .examples(&["none", "host", "bridge"]),
    field("networks", NETWORKS).about("Networks that the service joins"),
    field("oom_kill_disable", FLAG).about("Never kill processes when memory runs out"),
    field(
        "oom_score_adj",
        INTEGER.cast(Cast::Integer).within(-1000, 1000),
    )
    .about("How likely processes are killed when memory runs out"),
    field("pid", TEXT.or(Types::NULL))
        .about("Process namespace: the host's, or that of a service or container")
        .examples(&["host"]),
    field("pids_limit", WHOLE).about("Most processes, or -1 for no limit"),
    field("platform", TEXT).about("Platform of the image, such as linux/arm64"),
    field("ports", Schema::list(&PORT).distinct().unique(Unique::Port))
        .about("Ports that are published on the host"),
    field("privileged", FLAG).about("Run with all privileges"),
    field("pull_policy", TEXT.matching(Pattern::PullPolicy)).about("When the image is pulled"),
    kept("pull_refresh_after", TEXT, Keep::Never).about("Accepted, without effect"),
    field("read_only", FLAG).about("Make the root file system read-only"),
    field("restart", TEXT)
        .about("When the container starts again after it ended")
        .examples(&["no", "always", "on-failure", "unless-stopped"]),
    field("runtime", TEXT).about("OCI runtime to use, such as runc"),
    kept("scale", INTEGER.cast(Cast::Integer), Keep::IfSet).about("Number of containers"),
    field("secrets", REFERENCES.unique(Unique::Secret))
        .about("Secrets that are mounted into the container"),
    field("security_opt", TEXTS).about("Security options, such as no-new-privileges:true"),
    field("shm_size", BYTES.form(Form::UnsignedBytes)).about("Size of /dev/shm, such as 64m"),
    field("stdin_open", FLAG).about("Keep standard input open"),
    kept("stop_grace_period", DURATION, Keep::IfSet)
        .about("How long to wait for the end before killing"),
    field("stop_signal", TEXT).about("Signal that asks the container to end, such as SIGINT"),
    field(
        "storage_opt",
        Schema::map(&SCALAR, Keys::Any).form(Form::Options),
    )
    .about("Options of the storage driver"),
    field("sysctls", PAIRS.form(Form::Labels).unique(Unique::Key))
        .about("Kernel parameters of the container"),
    field(
        "tmpfs",
        TEXT_OR_TEXTS.merge(Merge::Sequence).unique(Unique::Key),
    )
    .about("File systems in memory"),
    field("tty", FLAG).about("Give the container a terminal"),
    field("ulimits", ULIMITS).about("Limits of processes: one number, or a soft and a hard one"),
    field("use_api_socket", Schema::of(Types::BOOLEAN, Form::Boolean))
        .about("Give the container access to the engine's API"),
    field("user", TEXT).about("User, or USER:GROUP, to run as"),
    field("userns_mode", TEXT)
        .about("User namespace")
        .examples(&["host"]),
    field("uts", TEXT)
        .about("UTS namespace")
        .examples(&["host"]),
    field(
        "volumes",
        Schema::list(&MOUNT).distinct().unique(Unique::MountTarget),
    )
    .about("Volumes, paths of the host and other mounts"),
    field("volumes_from", TEXTS).about("Services or containers whose mounts are taken over"),
    field("working_dir", TEXT).about("Directory to run in"),
    field("pre_start", Schema::list(&PRE_START))
        .about("Commands that run to their end before the container starts"),
    field("post_start", Schema::list(&HOOK))
        .about("Commands that run in the container after it started"),
    field("pre_stop", Schema::list(&HOOK))
        .about("Commands that run in the container before it is stopped"),
]);

const LABEL_FILE: Schema = TEXT.path(PathRule::Plain);

const DEPENDS_ON: Schema = Schema {
    types: Types::MAPPING.or(Types::SEQUENCE),
    entries: Some((&DEPENDENCY, Keys::Names)),
    items: Some(&TEXT),
    distinct: true,
    merge: Merge::Dependencies,
    ..Schema::BASE
};

const DEPENDENCY: Schema = Schema::object(&[
    field(
        "condition",
        TEXT.one_of(&[
            "service_started",
            "service_healthy",
            "service_completed_successfully",
        ]),
    )
    .about("What to wait for"),
    field("restart", FLAG).about("Start again when the dependency was recreated or restarted"),
    kept(
        "required",
        Schema::of(Types::BOOLEAN, Form::Boolean).cast(Cast::Boolean),
        Keep::Always,
    )
    .about("Whether it is an error if the dependency is not there"),
])
.require(&["condition"]);

const DEVICE: Schema = Schema::object(&[
    field("source", TEXT).about("Device on the host"),
    field("target", TEXT).about("Device in the container"),
    field("permissions", TEXT).about("What is allowed: r, w and m"),
])
.require(&["source"])
.or(Types::STRING)
.matching(Pattern::Device);

const PROVIDER: Schema = Schema::object(&[
    field("type", TEXT).about("Name of the program"),
    field(
        "options",
        Schema::map(
            &Schema {
                types: Types::STRING
                    .or(Types::NUMBER)
                    .or(Types::BOOLEAN)
                    .or(Types::SEQUENCE),
                items: Some(&Schema::of(
                    Types::STRING.or(Types::NUMBER).or(Types::BOOLEAN),
                    Form::Raw,
                )),
                ..Schema::BASE
            },
            Keys::Any,
        )
        .form(Form::MultiOptions),
    )
    .about("Options for the program"),
])
.require(&["type"]);

const ENV_FILES: Schema = Schema {
    types: Types::STRING.or(Types::SEQUENCE),
    items: Some(&ENV_FILE),
    merge: Merge::Sequence,
    unique: Unique::Path,
    ..Schema::BASE
};

const ENV_FILE: Schema = Schema::object(&[
    field("path", TEXT.path(PathRule::Plain)).about("The file"),
    kept("required", BOOLEAN, Keep::NotTrue)
        .about("Whether it is an error if the file is not there"),
    field("format", TEXT)
        .about("How it is read; raw takes values as they stand")
        .examples(&["raw"]),
])
.closed()
.require(&["path"])
.or(Types::STRING);

const HEALTHCHECK: Schema = Schema::object(&[
    field(
        "test",
        LINES
            .or(Types::STRING)
            .form(Form::Probe)
            .merge(Merge::Replace),
    )
    .about("Command that succeeds if the container is healthy; text is run by a shell"),
    kept("timeout", DURATION, Keep::IfSet).about("How long a probe may take"),
    kept("interval", DURATION, Keep::IfSet).about("Time between probes"),
    kept(
        "retries",
        Schema::of(Types::NUMBER.or(Types::STRING), Form::Unsigned).cast(Cast::Integer),
        Keep::IfSet,
    )
    .about("Failed probes in a row after which it is unhealthy"),
    kept("start_period", DURATION, Keep::IfSet)
        .about("Time from the start in which failed probes do not count"),
    kept("start_interval", DURATION, Keep::IfSet)
        .about("Time between probes within the start period"),
    field("disable", FLAG).about("Turn off the image's health check"),
]);

const LOGGING: Schema = Schema::object(&[
    field("driver", TEXT)
        .about("What writes the logs")
        .examples(&["json-file", "local", "none"]),
    field(
        "options",
        Schema::map(&LOG_OPTION, Keys::Any).form(Form::Options),
    )
    .about("Options for the driver"),
])
.merge(Merge::Logging);

const LOG_OPTION: Schema = TEXT_OR_NUMBER.or(Types::NULL);

const MODELS: Schema = Schema {
    types: Types::MAPPING.or(Types::SEQUENCE),
    entries: Some((&MODEL, Keys::NamesLeniently)),
    items: Some(&TEXT),
    distinct: true,
    merge: Merge::Names,
    ..Schema::BASE
};

const MODEL: Schema = Schema::object(&[
    field("endpoint_var", TEXT).about("Variable that is set to the address of the model"),
    field("model_var", TEXT).about("Variable that is set to the name of the model"),
])
.or(Types::NULL);

const NETWORKS: Schema = Schema {
    types: Types::MAPPING.or(Types::SEQUENCE),
    entries: Some((&NETWORK, Keys::Names)),
    items: Some(&TEXT),
    distinct: true,
    merge: Merge::Names,
    ..Schema::BASE
};

const NETWORK: Schema = Schema::object(&[
    field("aliases", KEYED).about("More names of the service in this network"),
    field("driver_opts", OPTIONS).about("Options for the driver"),
    field("gw_priority", Schema::of(Types::NUMBER, Form::Integer))
        .about("The network with the highest one has the default route"),
    field("interface_name", TEXT).about("Name of the interface in the container"),
    field("ipv4_address", TEXT).about("Fixed IPv4 address"),
    field("ipv6_address", TEXT).about("Fixed IPv6 address"),
    field("link_local_ips", KEYED).about("Link-local addresses"),
    field("mac_address", TEXT).about("MAC address in this network"),
    field("priority", Schema::of(Types::NUMBER, Form::Integer))
        .about("Networks with a higher one are joined first"),
])
.or(Types::NULL);

const PORT: Schema = Schema::object(&[
    field("name", TEXT).about("Name of the port, for people"),
    field("mode", TEXT)
        .about("Accepted for Swarm")
        .examples(&["host", "ingress"]),
    field("host_ip", TEXT).about("Address of the host to publish on, else all"),
    field("target", INTEGER.cast(Cast::Integer).form(Form::Unsigned))
        .about("Port in the container"),
    field(
        "published",
        TEXT.or(Types::INTEGER).matching(Pattern::PortRange),
    )
    .about("Port on the host or a range to choose from, else any"),
    field("protocol", TEXT)
        .about("Protocol of the port")
        .examples(&["tcp", "udp", "sctp"]),
    field("app_protocol", TEXT).about("Protocol above it, for people and tools"),
])
.or(Types::NUMBER.or(Types::STRING))
.matching(Pattern::Ports);

const MOUNT: Schema = Schema::object(&[
    field(
        "type",
        TEXT.one_of(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"]),
    )
    .about("What is mounted"),
    field("source", TEXT).about("Path on the host, name of a volume or an image"),
    field("target", TEXT).about("Path in the container"),
    field("read_only", FLAG).about("Mount without the right to write"),
    field("consistency", TEXT).about("Accepted, without effect"),
    kept(
        "bind",
        Schema::object(&[
            field("selinux", TEXT.one_of(&["z", "Z"]))
                .about("Relabel for SELinux: shared z or private Z"),
            field("propagation", TEXT)
                .about("How mounts below propagate")
                .examples(&[
                    "rprivate", "private", "rshared", "shared", "rslave", "slave",
                ]),
            kept("create_host_path", BOOLEAN, Keep::NotTrue)
                .about("Make a folder on the host if there is none"),
            field(
                "recursive",
                TEXT.one_of(&["enabled", "disabled", "writable", "readonly"]),
            )
            .about("What happens to mounts below the path"),
        ]),
        Keep::IfSet,
    )
    .about("Options for paths of the host"),
    kept(
        "volume",
        Schema::object(&[
            field("labels", LABELS.unique(Unique::No)).about("Labels of the volume that is made"),
            field("nocopy", FLAG).about("Do not copy what the image has there into a new volume"),
            field("subpath", TEXT).about("Path in the volume"),
        ]),
        Keep::IfSet,
    )
    .about("Options for volumes"),
    kept(
        "tmpfs",
        Schema::object(&[
            field(
                "size",
                Schema::of(Types::INTEGER.or(Types::STRING), Form::Bytes).within(0, i64::MAX),
            )
            .about("Most bytes, such as 64m"),
            field("mode", TEXT_OR_NUMBER.form(Form::PlainMode))
                .about("Permissions in octal, such as 01777"),
        ]),
        Keep::IfSet,
    )
    .about("Options for file systems in memory"),
    kept(
        "image",
        Schema::object(&[field("subpath", TEXT).about("Path in the image")]),
        Keep::IfSet,
    )
    .about("Options for images"),
])
.require(&["type"])
.or(Types::STRING)
.path(PathRule::Mount)
.matching(Pattern::Mount);

const PRE_START: Schema = Schema::object(&[
    kept("command", COMMAND, Keep::Command).about("Command line to run"),
    field("image", TEXT).about("Image to run it in, else the service's"),
    field("user", TEXT).about("User to run as, else the service's"),
    field("privileged", BOOLEAN).about("Run with all privileges"),
    field("working_dir", TEXT).about("Directory to run in, else the service's"),
    field("environment", PAIRS.form(Form::Variables))
        .about("Variables to set besides the service's"),
    field("per_replica", BOOLEAN).about("Run before each container and not just once"),
]);
