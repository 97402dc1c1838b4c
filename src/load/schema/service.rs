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
    field("profiles", KEYED),
    field("annotations", LABELS),
    kept("attach", BOOLEAN, Keep::IfSet),
    kept("build", BUILD, Keep::IfSet),
    kept("develop", DEVELOP, Keep::IfSet),
    kept("blkio_config", BLKIO, Keep::IfSet),
    field("cap_add", KEYED),
    field("cap_drop", KEYED),
    field("cgroup_parent", TEXT),
    field("cgroup", TEXT.one_of(&["host", "private"])),
    field("cpu_count", INTEGER.cast(Cast::Integer).within(0, i64::MAX)),
    field(
        "cpu_percent",
        Schema::of(Types::INTEGER.or(Types::STRING), Form::Number)
            .cast(Cast::Number)
            .within(0, 100),
    ),
    field("cpu_period", WHOLE),
    field("cpu_quota", WHOLE),
    field("cpu_rt_period", MICROSECONDS),
    field("cpu_rt_runtime", MICROSECONDS),
    field("cpus", NUMBER.cast(Cast::Number)),
    field("cpuset", TEXT),
    field("cpu_shares", WHOLE),
    kept("command", COMMAND, Keep::Command),
    field("configs", REFERENCES.unique(Unique::Config)),
    field("container_name", TEXT.matching(Pattern::ContainerName)),
    kept(
        "credential_spec",
        Schema::object(&[
            field("config", TEXT),
            field("file", TEXT),
            field("registry", TEXT),
        ]),
        Keep::IfSet,
    ),
    field("depends_on", DEPENDS_ON),
    kept("deploy", DEPLOY, Keep::IfSet),
    field("device_cgroup_rules", TEXTS),
    field(
        "devices",
        Schema::list(&DEVICE).unique(Unique::DeviceTarget),
    ),
    field(
        "dns",
        TEXT_OR_TEXTS.merge(Merge::Sequence).unique(Unique::Key),
    ),
    field("dns_opt", KEYED.merge(Merge::Sequence)),
    field(
        "dns_search",
        TEXT_OR_TEXTS.merge(Merge::Sequence).unique(Unique::Key),
    ),
    field("domainname", TEXT),
    kept("entrypoint", COMMAND, Keep::Command),
    kept("provider", PROVIDER, Keep::IfSet),
    field("environment", VARIABLES),
    field("env_file", ENV_FILES),
    field(
        "expose",
        Schema::list(&TEXT_OR_NUMBER)
            .distinct()
            .unique(Unique::Text)
            .form(Form::Texts),
    ),
    kept(
        "extends",
        Schema::object(&[
            field("file", TEXT.path(PathRule::Plain)),
            field("service", TEXT),
        ])
        .closed()
        .require(&["service"])
        .or(Types::STRING),
        Keep::IfSet,
    ),
    field("external_links", TEXTS),
    field("extra_hosts", HOSTS),
    field(
        "group_add",
        Schema::list(&TEXT_OR_NUMBER).distinct().form(Form::Texts),
    ),
    field(
        "gpus",
        Schema::list(&DEVICES).or(Types::STRING).one_of(&["all"]),
    ),
    field("hostname", TEXT),
    kept("healthcheck", HEALTHCHECK, Keep::IfSet),
    field("image", TEXT),
    kept("init", FLAG, Keep::IfSet),
    field("ipc", TEXT),
    field("isolation", TEXT),
    field("labels", LABELS),
    field(
        "label_file",
        Schema::list(&LABEL_FILE)
            .or(Types::STRING)
            .form(Form::Texts)
            .merge(Merge::Sequence),
    ),
    field("links", KEYED),
    kept("logging", LOGGING, Keep::IfSet),
    field("mem_limit", BYTES),
    field(
        "mem_reservation",
        Schema::of(Types::STRING.or(Types::INTEGER), Form::Bytes),
    ),
    field("memswap_limit", BYTES),
    field(
        "mem_swappiness",
        Schema::of(Types::STRING.or(Types::INTEGER), Form::Bytes),
    ),
    field("mac_address", TEXT),
    field("models", MODELS),
    field("network_mode", TEXT),
    field("networks", NETWORKS),
    field("oom_kill_disable", FLAG),
    field(
        "oom_score_adj",
        INTEGER.cast(Cast::Integer).within(-1000, 1000),
    ),
    field("pid", TEXT.or(Types::NULL)),
    field("pids_limit", WHOLE),
    field("platform", TEXT),
    field("ports", Schema::list(&PORT).distinct().unique(Unique::Port)),
    field("privileged", FLAG),
    field("pull_policy", TEXT.matching(Pattern::PullPolicy)),
    kept("pull_refresh_after", TEXT, Keep::Never),
    field("read_only", FLAG),
    field("restart", TEXT),
    field("runtime", TEXT),
    kept("scale", INTEGER.cast(Cast::Integer), Keep::IfSet),
    field("secrets", REFERENCES.unique(Unique::Secret)),
    field("security_opt", TEXTS),
    field("shm_size", BYTES),
    field("stdin_open", FLAG),
    kept("stop_grace_period", DURATION, Keep::IfSet),
    field("stop_signal", TEXT),
    field(
        "storage_opt",
        Schema::map(&SCALAR, Keys::Any).form(Form::Options),
    ),
    field("sysctls", PAIRS.form(Form::Labels).unique(Unique::Key)),
    field(
        "tmpfs",
        TEXT_OR_TEXTS.merge(Merge::Sequence).unique(Unique::Key),
    ),
    field("tty", FLAG),
    field("ulimits", ULIMITS),
    field("use_api_socket", Schema::of(Types::BOOLEAN, Form::Boolean)),
    field("user", TEXT),
    field("userns_mode", TEXT),
    field("uts", TEXT),
    field(
        "volumes",
        Schema::list(&MOUNT).distinct().unique(Unique::MountTarget),
    ),
    field("volumes_from", TEXTS),
    field("working_dir", TEXT),
    field("pre_start", Schema::list(&PRE_START)),
    field("post_start", Schema::list(&HOOK)),
    field("pre_stop", Schema::list(&HOOK)),
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
    ),
    field("restart", FLAG),
    kept(
        "required",
        Schema::of(Types::BOOLEAN, Form::Boolean).cast(Cast::Boolean),
        Keep::Always,
    ),
])
.require(&["condition"]);

const DEVICE: Schema = Schema::object(&[
    field("source", TEXT),
    field("target", TEXT),
    field("permissions", TEXT),
])
.require(&["source"])
.or(Types::STRING);

const PROVIDER: Schema = Schema::object(&[
    field("type", TEXT),
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
    ),
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
    field("path", TEXT.path(PathRule::Plain)),
    kept("required", BOOLEAN, Keep::NotTrue),
    field("format", TEXT),
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
    ),
    kept("timeout", DURATION, Keep::IfSet),
    kept("interval", DURATION, Keep::IfSet),
    kept(
        "retries",
        Schema::of(Types::NUMBER.or(Types::STRING), Form::Unsigned).cast(Cast::Integer),
        Keep::IfSet,
    ),
    kept("start_period", DURATION, Keep::IfSet),
    kept("start_interval", DURATION, Keep::IfSet),
    field("disable", FLAG),
]);

const LOGGING: Schema = Schema::object(&[
    field("driver", TEXT),
    field(
        "options",
        Schema::map(&LOG_OPTION, Keys::Any).form(Form::Options),
    ),
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

const MODEL: Schema =
    Schema::object(&[field("endpoint_var", TEXT), field("model_var", TEXT)]).or(Types::NULL);

const NETWORKS: Schema = Schema {
    types: Types::MAPPING.or(Types::SEQUENCE),
    entries: Some((&NETWORK, Keys::Names)),
    items: Some(&TEXT),
    distinct: true,
    merge: Merge::Names,
    ..Schema::BASE
};

const NETWORK: Schema = Schema::object(&[
    field("aliases", KEYED),
    field("driver_opts", OPTIONS),
    field("gw_priority", Schema::of(Types::NUMBER, Form::Integer)),
    field("interface_name", TEXT),
    field("ipv4_address", TEXT),
    field("ipv6_address", TEXT),
    field("link_local_ips", KEYED),
    field("mac_address", TEXT),
    field("priority", Schema::of(Types::NUMBER, Form::Integer)),
])
.or(Types::NULL);

const PORT: Schema = Schema::object(&[
    field("name", TEXT),
    field("mode", TEXT),
    field("host_ip", TEXT),
    field("target", INTEGER.cast(Cast::Integer).form(Form::Unsigned)),
    field("published", TEXT.or(Types::INTEGER)),
    field("protocol", TEXT),
    field("app_protocol", TEXT),
])
.or(Types::NUMBER.or(Types::STRING));

const MOUNT: Schema = Schema::object(&[
    field(
        "type",
        TEXT.one_of(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"]),
    ),
    field("source", TEXT),
    field("target", TEXT),
    field("read_only", FLAG),
    field("consistency", TEXT),
    kept(
        "bind",
        Schema::object(&[
            field("selinux", TEXT.one_of(&["z", "Z"])),
            field("propagation", TEXT),
            kept("create_host_path", BOOLEAN, Keep::NotTrue),
            field(
                "recursive",
                TEXT.one_of(&["enabled", "disabled", "writable", "readonly"]),
            ),
        ]),
        Keep::IfSet,
    ),
    kept(
        "volume",
        Schema::object(&[
            field("labels", LABELS.unique(Unique::No)),
            field("nocopy", FLAG),
            field("subpath", TEXT),
        ]),
        Keep::IfSet,
    ),
    kept(
        "tmpfs",
        Schema::object(&[
            field(
                "size",
                Schema::of(Types::INTEGER.or(Types::STRING), Form::Bytes).within(0, i64::MAX),
            ),
            field("mode", TEXT_OR_NUMBER.form(Form::PlainMode)),
        ]),
        Keep::IfSet,
    ),
    kept(
        "image",
        Schema::object(&[field("subpath", TEXT)]),
        Keep::IfSet,
    ),
])
.require(&["type"])
.or(Types::STRING)
.path(PathRule::Mount);

const PRE_START: Schema = Schema::object(&[
    kept("command", COMMAND, Keep::Command),
    field("image", TEXT),
    field("user", TEXT),
    field("privileged", BOOLEAN),
    field("working_dir", TEXT),
    field("environment", PAIRS.form(Form::Variables)),
    field("per_replica", BOOLEAN),
]);
