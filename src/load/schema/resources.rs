//! `build`, `deploy`, `develop` and the resources of a service.

use super::{
    BOOLEAN, Cast, DURATION, FILE_REFERENCE, Form, HOOK, HOSTS, INTEGER, Keep, Keys, LABELS, LINES,
    Merge, NUMBER, PAIRS, PathRule, Schema, TEXT, TEXT_OR_NUMBER, TEXT_OR_TEXTS, TEXTS, Types,
    ULIMITS, Unique, VARIABLES, field, kept,
};

pub(super) const BUILD: Schema = Schema::object(&[
    field("context", TEXT.path(PathRule::Context)),
    field("dockerfile", TEXT),
    field("dockerfile_inline", TEXT),
    field("entitlements", LINES),
    field("args", VARIABLES),
    field("provenance", TEXT.or(Types::BOOLEAN)),
    field("sbom", TEXT.or(Types::BOOLEAN)),
    field("ssh", PAIRS.form(Form::Ssh).merge(Merge::Deep)),
    field("labels", LABELS),
    field("cache_from", LINES),
    field("cache_to", LINES),
    field("no_cache", BOOLEAN),
    field("no_cache_filter", TEXT_OR_TEXTS),
    field(
        "additional_contexts",
        Schema {
            entries: Some((&CONTEXT, Keys::Any)),
            ..PAIRS.form(Form::Options).unique(Unique::Key)
        },
    ),
    field("pull", BOOLEAN),
    field("extra_hosts", HOSTS),
    field("isolation", TEXT),
    field("network", TEXT),
    field("target", TEXT),
    field("secrets", Schema::list(&FILE_REFERENCE)),
    field(
        "shm_size",
        Schema::of(Types::INTEGER.or(Types::STRING), Form::Bytes),
    ),
    field("tags", LINES.unique(Unique::Key)),
    field("ulimits", ULIMITS),
    field("platforms", LINES),
    field("privileged", BOOLEAN),
])
.or(Types::STRING)
.merge(Merge::Build);

const CONTEXT: Schema = super::SCALAR.path(PathRule::Context);

const UPDATE: Schema = Schema::object(&[
    kept(
        "parallelism",
        INTEGER.cast(Cast::Integer).form(Form::Unsigned),
        Keep::IfSet,
    ),
    field("delay", DURATION),
    field("failure_action", TEXT),
    field("monitor", DURATION),
    field("max_failure_ratio", NUMBER.cast(Cast::Number)),
    field("order", TEXT.one_of(&["start-first", "stop-first"])),
]);

const CPUS: Schema = NUMBER;
const MEMORY: Schema = Schema::of(Types::STRING, Form::Bytes);

const LIMITS: Schema = Schema::object(&[
    field("cpus", CPUS),
    field("memory", MEMORY),
    field("pids", INTEGER),
]);

const RESERVATIONS: Schema = Schema::object(&[
    field("cpus", CPUS),
    field("memory", MEMORY),
    field("devices", Schema::list(&RESERVED_DEVICES)),
    field("generic_resources", Schema::list(&GENERIC_RESOURCE)),
]);

const GENERIC_RESOURCE: Schema = Schema::object(&[field(
    "discrete_resource_spec",
    Schema::object(&[
        kept("kind", TEXT, Keep::Always),
        kept("value", TEXT_OR_NUMBER.form(Form::Integer), Keep::Always),
    ]),
)]);

pub(super) const DEVICES: Schema = Schema::object(&[
    field("capabilities", TEXTS),
    field("driver", TEXT),
    field(
        "count",
        Schema::of(Types::STRING.or(Types::INTEGER), Form::Count),
    ),
    field("device_ids", TEXTS),
    field("options", PAIRS.form(Form::Options).merge(Merge::Deep)),
]);

const RESERVED_DEVICES: Schema = DEVICES.require(&["capabilities"]);

pub(super) const DEPLOY: Schema = Schema::object(&[
    field("mode", TEXT),
    kept("replicas", INTEGER.cast(Cast::Integer), Keep::IfSet),
    field("labels", LABELS),
    kept("update_config", UPDATE, Keep::IfSet),
    kept("rollback_config", UPDATE, Keep::IfSet),
    kept(
        "resources",
        Schema::object(&[
            kept("limits", LIMITS, Keep::IfSet),
            kept("reservations", RESERVATIONS, Keep::IfSet),
        ]),
        Keep::Struct,
    ),
    kept(
        "restart_policy",
        Schema::object(&[
            field("condition", TEXT),
            kept("delay", DURATION, Keep::IfSet),
            kept(
                "max_attempts",
                INTEGER.cast(Cast::Integer).form(Form::Unsigned),
                Keep::IfSet,
            ),
            kept("window", DURATION, Keep::IfSet),
        ]),
        Keep::IfSet,
    ),
    kept(
        "placement",
        Schema::object(&[
            field("constraints", LINES),
            field(
                "preferences",
                Schema::list(&Schema::object(&[field("spread", TEXT)])),
            ),
            field(
                "max_replicas_per_node",
                INTEGER.cast(Cast::Integer).form(Form::Unsigned),
            ),
        ]),
        Keep::Struct,
    ),
    field("endpoint_mode", TEXT),
])
.or(Types::NULL);

pub(super) const DEVELOP: Schema =
    Schema::object(&[field("watch", Schema::list(&WATCH))]).or(Types::NULL);

const WATCH: Schema = Schema::object(&[
    kept("path", TEXT.path(PathRule::Real), Keep::Always),
    kept(
        "action",
        TEXT.one_of(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]),
        Keep::Always,
    ),
    field("target", TEXT),
    kept("exec", HOOK, Keep::Struct),
    field("include", TEXT_OR_TEXTS),
    field("ignore", TEXT_OR_TEXTS),
    field("initial_sync", Schema::of(Types::BOOLEAN, Form::Boolean)),
])
.require(&["path", "action"]);

const THROTTLES: Schema = Schema::list(&THROTTLE);
const THROTTLE: Schema = Schema::object(&[
    kept("path", TEXT, Keep::Always).in_json("Path"),
    kept(
        "rate",
        Schema::of(Types::INTEGER.or(Types::STRING), Form::Bytes),
        Keep::Always,
    )
    .in_json("Rate"),
])
.closed();

const WEIGHT: Schema = INTEGER.form(Form::Unsigned).within(0, 65_535);

pub(super) const BLKIO: Schema = Schema::object(&[
    field("weight", WEIGHT),
    field(
        "weight_device",
        Schema::list(
            &Schema::object(&[
                kept("path", TEXT, Keep::Always).in_json("Path"),
                kept("weight", WEIGHT, Keep::Always).in_json("Weight"),
            ])
            .closed(),
        ),
    ),
    field("device_read_bps", THROTTLES),
    field("device_read_iops", THROTTLES),
    field("device_write_bps", THROTTLES),
    field("device_write_iops", THROTTLES),
])
.closed();
