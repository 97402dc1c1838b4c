//! `build`, `deploy`, `develop` and the resources of a service.

use super::{
    BOOLEAN, Cast, DURATION, FILE_REFERENCE, Form, HOOK, HOSTS, INTEGER, Keep, Keys, LABELS, LINES,
    Merge, NUMBER, PAIRS, PathRule, Schema, TEXT, TEXT_OR_NUMBER, TEXT_OR_TEXTS, TEXTS, Types,
    ULIMITS, Unique, VARIABLES, field, kept,
};

pub(super) const BUILD: Schema = Schema::object(&[
    field("context", TEXT.path(PathRule::Context)).about("Folder or URL with what is built"),
    field("dockerfile", TEXT).about("Name of the Dockerfile in the context"),
    field("dockerfile_inline", TEXT).about("The Dockerfile itself"),
    field("entitlements", LINES).about("Privileges that the build may use"),
    field("args", VARIABLES).about("Build arguments; without a value they are taken from outside"),
    field("provenance", TEXT.or(Types::BOOLEAN)).about("Add a provenance attestation"),
    field("sbom", TEXT.or(Types::BOOLEAN)).about("Add a list of what is in the image"),
    field("ssh", PAIRS.form(Form::Ssh).merge(Merge::Deep))
        .about("SSH agents and keys that the build may use"),
    field("labels", LABELS).about("Labels of the image"),
    field("cache_from", LINES).about("Where to look for cached steps"),
    field("cache_to", LINES).about("Where to keep cached steps"),
    field("no_cache", BOOLEAN).about("Run every step again"),
    field("no_cache_filter", TEXT_OR_TEXTS).about("Stages of which every step is run again"),
    field(
        "additional_contexts",
        Schema {
            entries: Some((&CONTEXT, Keys::Any)),
            ..PAIRS.form(Form::Options).unique(Unique::Key)
        },
    )
    .about("More contexts by name"),
    field("pull", BOOLEAN).about("Pull newer base images"),
    field("extra_hosts", HOSTS).about("Host names and their addresses during the build"),
    field("isolation", TEXT).about("Isolation on Windows"),
    field("network", TEXT)
        .about("Network of RUN steps")
        .examples(&["default", "none", "host"]),
    field("target", TEXT).about("Stage to build"),
    field("secrets", Schema::list(&FILE_REFERENCE)).about("Secrets that RUN steps can mount"),
    field(
        "shm_size",
        Schema::of(Types::INTEGER.or(Types::STRING), Form::UnsignedBytes),
    )
    .about("Size of /dev/shm during the build"),
    field("tags", LINES.unique(Unique::Key)).about("More names of the image"),
    field("ulimits", ULIMITS).about("Limits of processes during the build"),
    field("platforms", LINES).about("Platforms to build for"),
    field("privileged", BOOLEAN).about("Run the build with all privileges"),
])
.or(Types::STRING)
.merge(Merge::Build);

const CONTEXT: Schema = super::SCALAR.path(PathRule::Context);

const UPDATE: Schema = Schema::object(&[
    kept(
        "parallelism",
        INTEGER.cast(Cast::Integer).form(Form::Unsigned),
        Keep::IfSet,
    )
    .about("Containers to replace at a time"),
    field("delay", DURATION).about("Time between groups of containers"),
    field("failure_action", TEXT)
        .about("What to do when it fails")
        .examples(&["continue", "rollback", "pause"]),
    field("monitor", DURATION).about("How long a new container is watched for failure"),
    field("max_failure_ratio", NUMBER.cast(Cast::Number))
        .about("Share of failures that is tolerated"),
    field("order", TEXT.one_of(&["start-first", "stop-first"]))
        .about("Whether the new container starts before the old one stops"),
]);

const CPUS: Schema = NUMBER;
const MEMORY: Schema = Schema::of(Types::STRING, Form::Bytes);

const LIMITS: Schema = Schema::object(&[
    field("cpus", CPUS).about("Most processors' worth of time, such as 0.5"),
    field("memory", MEMORY).about("Most memory, such as 512m"),
    field("pids", INTEGER).about("Most processes"),
]);

const RESERVATIONS: Schema = Schema::object(&[
    field("cpus", CPUS).about("Processors' worth of time to set aside"),
    field("memory", MEMORY).about("Memory to set aside"),
    field("devices", Schema::list(&RESERVED_DEVICES)).about("Devices to set aside"),
    field("generic_resources", Schema::list(&GENERIC_RESOURCE))
        .about("Resources of other kinds to set aside"),
]);

const GENERIC_RESOURCE: Schema = Schema::object(&[field(
    "discrete_resource_spec",
    Schema::object(&[
        kept("kind", TEXT, Keep::Always).about("Kind of resource"),
        kept("value", TEXT_OR_NUMBER.form(Form::Integer), Keep::Always).about("How many"),
    ]),
)
.about("A countable resource")]);

pub(super) const DEVICES: Schema = Schema::object(&[
    field("capabilities", TEXTS).about("What the devices must be able to do, such as gpu"),
    field("driver", TEXT)
        .about("Driver of the devices")
        .examples(&["nvidia"]),
    field(
        "count",
        Schema::of(Types::STRING.or(Types::INTEGER), Form::Count),
    )
    .about("How many devices, or all"),
    field("device_ids", TEXTS).about("Particular devices"),
    field("options", PAIRS.form(Form::Options).merge(Merge::Deep)).about("Options for the driver"),
]);

const RESERVED_DEVICES: Schema = DEVICES.require(&["capabilities"]);

pub(super) const DEPLOY: Schema = Schema::object(&[
    field("mode", TEXT)
        .about("Accepted for Swarm, where it tells how replicas are spread")
        .examples(&["replicated", "global", "replicated-job", "global-job"]),
    kept("replicas", INTEGER.cast(Cast::Integer), Keep::IfSet).about("Number of containers"),
    field("labels", LABELS).about("Labels of the service, not of its containers"),
    kept("update_config", UPDATE, Keep::IfSet).about("How containers are replaced"),
    kept("rollback_config", UPDATE, Keep::IfSet).about("How replacing is undone"),
    kept(
        "resources",
        Schema::object(&[
            kept("limits", LIMITS, Keep::IfSet).about("The most that a container can use"),
            kept("reservations", RESERVATIONS, Keep::IfSet).about("What a container is promised"),
        ]),
        Keep::Struct,
    )
    .about("Limits and reservations"),
    kept(
        "restart_policy",
        Schema::object(&[
            field("condition", TEXT)
                .about("After which end it starts again")
                .examples(&["none", "on-failure", "any"]),
            kept("delay", DURATION, Keep::IfSet).about("Time before it starts again"),
            kept(
                "max_attempts",
                INTEGER.cast(Cast::Integer).form(Form::Unsigned),
                Keep::IfSet,
            )
            .about("How often it is tried"),
            kept("window", DURATION, Keep::IfSet).about("How long it must run to count as started"),
        ]),
        Keep::IfSet,
    )
    .about("When containers start again after they ended"),
    kept(
        "placement",
        Schema::object(&[
            field("constraints", LINES).about("What machines must have"),
            field(
                "preferences",
                Schema::list(&Schema::object(&[
                    field("spread", TEXT).about("Label over whose values they are spread")
                ])),
            )
            .about("How containers are spread"),
            field(
                "max_replicas_per_node",
                INTEGER.cast(Cast::Integer).form(Form::Unsigned),
            )
            .about("Most containers on a machine"),
        ]),
        Keep::Struct,
    )
    .about("Accepted for Swarm, where it chooses machines"),
    field("endpoint_mode", TEXT)
        .about("Accepted for Swarm")
        .examples(&["vip", "dnsrr"]),
])
.or(Types::NULL);

pub(super) const DEVELOP: Schema =
    Schema::object(&[field("watch", Schema::list(&WATCH)).about("What to do when files change")])
        .or(Types::NULL);

const WATCH: Schema = Schema::object(&[
    kept("path", TEXT.path(PathRule::Real), Keep::Always).about("File or folder that is watched"),
    kept(
        "action",
        TEXT.one_of(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]),
        Keep::Always,
    )
    .about("What to do"),
    field("target", TEXT).about("Where in the container files are copied"),
    kept("exec", HOOK, Keep::Struct).about("Command that runs in the container afterwards"),
    field("include", TEXT_OR_TEXTS).about("Patterns of files that count"),
    field("ignore", TEXT_OR_TEXTS).about("Patterns of files that do not count"),
    field("initial_sync", Schema::of(Types::BOOLEAN, Form::Boolean))
        .about("Copy all files when watching starts"),
])
.require(&["path", "action"]);

const THROTTLES: Schema = Schema::list(&THROTTLE);
const THROTTLE: Schema = Schema::object(&[
    kept("path", TEXT, Keep::Always)
        .about("Device on the host")
        .in_json("Path"),
    kept(
        "rate",
        Schema::of(Types::INTEGER.or(Types::STRING), Form::Bytes),
        Keep::Always,
    )
    .about("Most bytes or operations per second")
    .in_json("Rate"),
])
.closed();

const WEIGHT: Schema = INTEGER.form(Form::Unsigned).within(0, 65_535);

pub(super) const BLKIO: Schema = Schema::object(&[
    field("weight", WEIGHT).about("Weight from 10 to 1000 relative to other containers"),
    field(
        "weight_device",
        Schema::list(
            &Schema::object(&[
                kept("path", TEXT, Keep::Always)
                    .about("Device on the host")
                    .in_json("Path"),
                kept("weight", WEIGHT, Keep::Always)
                    .about("Weight for this device")
                    .in_json("Weight"),
            ])
            .closed(),
        ),
    )
    .about("Weights for single devices"),
    field("device_read_bps", THROTTLES).about("Most bytes read per second, by device"),
    field("device_read_iops", THROTTLES).about("Most reads per second, by device"),
    field("device_write_bps", THROTTLES).about("Most bytes written per second, by device"),
    field("device_write_iops", THROTTLES).about("Most writes per second, by device"),
])
.closed();
