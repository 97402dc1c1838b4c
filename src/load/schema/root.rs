//! The document and its top-level resources.

use super::service::SERVICE;
use super::{
    BOOLEAN, Cast, Field, Form, Keep, Keys, LABELS, LINES, Merge, OPTIONS, PathRule, Schema, TEXT,
    TEXT_OR_TEXTS, Types, Unique, field, kept,
};

/// A whole file.
pub(in crate::load) static ROOT: Schema = Schema::object(&[
    kept("version", TEXT, Keep::Never)
        .about("Ignored; accepted from files written for old versions of Compose"),
    field("name", TEXT).about("Name of the project, unless -p or COMPOSE_PROJECT_NAME gives one"),
    kept("include", Schema::list(&INCLUDE), Keep::Never)
        .about("Other Compose projects whose resources become part of this one"),
    kept("services", Schema::map(&SERVICE, Keys::Names), Keep::Always)
        .about("What runs: a container, or several equal ones, each"),
    field("networks", Schema::map(&NETWORK, Keys::NamesLeniently))
        .about("Networks that services can join"),
    field("volumes", Schema::map(&VOLUME, Keys::Names)).about("Storage that outlives containers"),
    field("secrets", Schema::map(&SECRET, Keys::Names))
        .about("Sensitive files that services can be given"),
    field("configs", Schema::map(&CONFIG, Keys::Names)).about("Files that services can be given"),
    // Docker Compose leaves them out of JSON, too.
    kept(
        "models",
        Schema::map(&MODEL, Keys::NamesLeniently),
        Keep::OnlyYaml,
    )
    .about("AI models that services can use"),
]);

const INCLUDE: Schema = Schema::object(&[
    field("path", TEXT_OR_TEXTS)
        .about("The file, or several that are merged, relative to this one"),
    field("env_file", TEXT_OR_TEXTS)
        .about("Files of variables for what is included, instead of the .env beside it"),
    field("project_directory", TEXT).about("What relative paths in the included files start from"),
])
.closed()
.or(Types::STRING);

/// `external`: a flag, or a mapping with the deprecated name.
const EXTERNAL: Schema = Schema::object(&[
    field("name", TEXT).about("Deprecated; write the name beside `external: true`")
])
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
    field("name", TEXT).about("Name outside of the project, as it stands"),
    field("driver", TEXT)
        .about("What makes the network")
        .examples(&["bridge", "host", "macvlan", "ipvlan", "none"]),
    field("driver_opts", OPTIONS).about("Options for the driver"),
    kept("ipam", IPAM, Keep::Struct).about("Where addresses come from"),
    field("external", EXTERNAL).about("The network exists already and is neither made nor removed"),
    field("internal", FLAG).about("No way out of the network"),
    field("attachable", FLAG).about("Accepted for Swarm; containers can always join"),
    field("labels", LABELS).about("Labels of the network"),
    kept("enable_ipv4", FLAG, Keep::IfSet).about("Give IPv4 addresses"),
    kept("enable_ipv6", FLAG, Keep::IfSet).about("Give IPv6 addresses"),
])
.or(Types::NULL)
.printed_if_null();

const IPAM: Schema = Schema::object(&[
    field("driver", TEXT)
        .about("What hands out addresses")
        .examples(&["default"]),
    field("config", Schema::list(&POOL).merge(Merge::Pools)).about("Subnets of the network"),
    field(
        "options",
        Schema::map(&TEXT, Keys::Any)
            .form(Form::Options)
            .unique(Unique::Key),
    )
    .about("Options for the driver"),
]);

const POOL: Schema = Schema::object(&[
    field("subnet", TEXT).about("Subnet in CIDR notation, such as 172.28.0.0/16"),
    field("gateway", TEXT).about("Address of the gateway"),
    field("ip_range", TEXT).about("Part of the subnet from which addresses are given"),
    field(
        "aux_addresses",
        Schema::map(&TEXT, Keys::Any).form(Form::Options),
    )
    .about("Addresses that are never given, by host name"),
]);

const VOLUME: Schema = Schema::object(&[
    field("name", TEXT).about("Name outside of the project, as it stands"),
    field("driver", TEXT)
        .about("What makes the volume")
        .examples(&["local"]),
    field("driver_opts", OPTIONS).about("Options for the driver, such as type, o and device"),
    field("external", EXTERNAL).about("The volume exists already and is neither made nor removed"),
    // Unlike those of networks, repeated labels are left to the conversion.
    field("labels", LABELS.unique(Unique::No)).about("Labels of the volume"),
])
.or(Types::NULL)
.printed_if_null()
.path(PathRule::Device);

// What secrets, configs and models have in common.
const NAME: Field = field("name", TEXT).about("Name outside of the project");
const FILE: Field = field("file", TEXT.path(PathRule::Portable)).about("File with the content");
const VARIABLE: Field = field("environment", TEXT).about("Variable with the content");
const LABELED: Field =
    field("labels", LABELS.unique(Unique::No).merge(Merge::Deep)).about("Labels of the resource");
const TEMPLATE: Field = field("template_driver", TEXT).about("Accepted for Swarm");
// Printed with the other extensions.
const ON_CHANGE: Field = kept("x-on-change", TEXT, Keep::Never)
    .about("What a running container is told of a new content: by default it is recreated")
    .examples(&["recreate", "restart", "signal:SIGHUP"]);

const SECRET: Schema = Schema::object(&[
    NAME,
    FILE,
    VARIABLE,
    field("external", LENIENT_EXTERNAL).about("The secret exists already in the platform"),
    LABELED,
    field("driver", TEXT).about("Accepted for Swarm"),
    field("driver_opts", OPTIONS).about("Accepted for Swarm"),
    TEMPLATE,
    ON_CHANGE,
]);

const CONFIG: Schema = Schema::object(&[
    NAME,
    FILE,
    VARIABLE,
    field("content", TEXT).about("The content itself, in which variables are replaced"),
    field("external", LENIENT_EXTERNAL).about("The config exists already in the platform"),
    LABELED,
    TEMPLATE,
    ON_CHANGE,
]);

const MODEL: Schema = Schema::object(&[
    NAME,
    field("model", TEXT).about("Reference of the model in a registry"),
    field("context_size", Schema::of(Types::INTEGER, Form::Integer))
        .about("Most tokens of context"),
    field("runtime_flags", LINES).about("Flags for what runs the model"),
])
.require(&["model"]);
