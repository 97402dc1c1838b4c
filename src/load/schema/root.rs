//! The document and its top-level resources.

use super::service::SERVICE;
use super::{
    BOOLEAN, Cast, Field, Form, Keep, Keys, LABELS, LINES, Merge, OPTIONS, PathRule, Schema, TEXT,
    TEXT_OR_TEXTS, Types, Unique, field, kept,
};

/// A whole file.
pub(in crate::load) static ROOT: Schema = Schema::object(&[
    kept("version", TEXT, Keep::Never),
    field("name", TEXT),
    kept("include", Schema::list(&INCLUDE), Keep::Never),
    kept("services", Schema::map(&SERVICE, Keys::Names), Keep::Always),
    field("networks", Schema::map(&NETWORK, Keys::NamesLeniently)),
    field("volumes", Schema::map(&VOLUME, Keys::Names)),
    field("secrets", Schema::map(&SECRET, Keys::Names)),
    field("configs", Schema::map(&CONFIG, Keys::Names)),
    field("models", Schema::map(&MODEL, Keys::NamesLeniently)),
]);

const INCLUDE: Schema = Schema::object(&[
    field("path", TEXT_OR_TEXTS),
    field("env_file", TEXT_OR_TEXTS),
    field("project_directory", TEXT),
])
.closed()
.or(Types::STRING);

/// `external`: a flag, or a mapping with the deprecated name.
const EXTERNAL: Schema = Schema::object(&[field("name", TEXT)])
    .or(Types::BOOLEAN.or(Types::STRING))
    .cast(Cast::Boolean)
    .form(Form::Boolean);
/// As [`EXTERNAL`], where the reference lets other keys through.
const LENIENT_EXTERNAL: Schema = Schema {
    entries: Some((&Schema::BASE, Keys::Any)),
    ..EXTERNAL
};
const FLAG: Schema = BOOLEAN.cast(Cast::Boolean);

const NETWORK: Schema = Schema::object(&[
    field("name", TEXT),
    field("driver", TEXT),
    field("driver_opts", OPTIONS),
    kept("ipam", IPAM, Keep::Struct),
    field("external", EXTERNAL),
    field("internal", FLAG),
    field("attachable", FLAG),
    field("labels", LABELS),
    kept("enable_ipv4", FLAG, Keep::IfSet),
    kept("enable_ipv6", FLAG, Keep::IfSet),
])
.or(Types::NULL)
.printed_if_null();

const IPAM: Schema = Schema::object(&[
    field("driver", TEXT),
    field("config", Schema::list(&POOL).merge(Merge::Pools)),
    field(
        "options",
        Schema::map(&TEXT, Keys::Any)
            .form(Form::Options)
            .unique(Unique::Key),
    ),
]);

const POOL: Schema = Schema::object(&[
    field("subnet", TEXT),
    field("gateway", TEXT),
    field("ip_range", TEXT),
    field(
        "aux_addresses",
        Schema::map(&TEXT, Keys::Any).form(Form::Options),
    ),
]);

const VOLUME: Schema = Schema::object(&[
    field("name", TEXT),
    field("driver", TEXT),
    field("driver_opts", OPTIONS),
    field("external", EXTERNAL),
    // Unlike those of networks, repeated labels are left to the conversion.
    field("labels", LABELS.unique(Unique::No)),
])
.or(Types::NULL)
.printed_if_null()
.path(PathRule::Device);

const FILE: Schema = TEXT.path(PathRule::Portable);
const PLAIN_LABELS: Schema = LABELS.unique(Unique::No).merge(Merge::Deep);

const SECRET_FIELDS: &[Field] = &[
    field("name", TEXT),
    field("file", FILE),
    field("environment", TEXT),
    field("external", LENIENT_EXTERNAL),
    field("labels", PLAIN_LABELS),
    field("driver", TEXT),
    field("driver_opts", OPTIONS),
    field("template_driver", TEXT),
];
const SECRET: Schema = Schema::object(SECRET_FIELDS);

const CONFIG: Schema = Schema::object(&[
    field("name", TEXT),
    field("file", FILE),
    field("environment", TEXT),
    field("content", TEXT),
    field("external", LENIENT_EXTERNAL),
    field("labels", PLAIN_LABELS),
    field("template_driver", TEXT),
]);

const MODEL: Schema = Schema::object(&[
    field("name", TEXT),
    field("model", TEXT),
    field("context_size", Schema::of(Types::INTEGER, Form::Integer)),
    field("runtime_flags", LINES),
])
.require(&["model"]);
