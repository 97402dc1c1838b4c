//! The shape of a Compose file as one table.
//!
//! Each attribute says once what it may hold, how two files merge in it, what makes its items unique,
//! which strings are paths and what its text means. Interpolation, merge, checks, canonical form,
//! path resolution and output all read this table, so they cannot disagree.

#[cfg(test)]
mod documented;
mod json;
mod resources;
mod root;
mod service;

pub use json::json_schema;
pub(super) use root::ROOT;
pub(super) use service::SERVICE;

/// The kinds of YAML values that an attribute accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const NULL: Self = Self(1);
    pub(super) const BOOLEAN: Self = Self(2);
    pub(super) const INTEGER: Self = Self(4);
    /// Numbers with a fraction.
    pub(super) const FLOAT: Self = Self(8);
    /// Integers too.
    pub(super) const NUMBER: Self = Self(8 | 4);
    pub(super) const STRING: Self = Self(16);
    pub(super) const SEQUENCE: Self = Self(32);
    pub(super) const MAPPING: Self = Self(64);
    pub(super) const ANY: Self = Self(127);

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn allows(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The kinds in words: `a string or a list`.
    pub(super) fn describe(self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (flag, name) in [
            (Self::STRING, "a string"),
            (Self::FLOAT, "a number"),
            (Self::INTEGER, "an integer"),
            (Self::BOOLEAN, "a boolean"),
            (Self::SEQUENCE, "a list"),
            (Self::MAPPING, "a mapping"),
            (Self::NULL, "nothing"),
        ] {
            // Whoever takes numbers takes integers; say it once.
            if self.allows(flag) && !(name == "an integer" && self.allows(Self::FLOAT)) {
                names.push(name);
            }
        }
        match names.split_last() {
            None => "nothing".to_owned(),
            Some((last, [])) => (*last).to_owned(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        }
    }
}

/// What text becomes once variables are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cast {
    None,
    Integer,
    Number,
    Boolean,
}

/// How the value of a later file joins that of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merge {
    /// Mappings by key, lists one after the other, the later scalar.
    Deep,
    /// The later value, even if it is null.
    Replace,
    /// Both as lists of `KEY=VALUE`, one after the other.
    Sequence,
    /// As lists, but without exact repetitions.
    Hosts,
    /// Text is the context.
    Build,
    /// Lists become mappings to the default dependency.
    Dependencies,
    /// Lists become mappings to nothing.
    Names,
    /// By key if the drivers agree.
    Logging,
    /// The later pools, over the earlier ones of the same subnets.
    Pools,
}

/// What makes the items of a list unique; a later item takes the place of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unique {
    No,
    /// What is before `=`.
    Key,
    Text,
    MountTarget,
    DeviceTarget,
    Port,
    Path,
    /// The target of a config.
    Config,
    /// The target of a secret.
    Secret,
}

/// Which strings are paths on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathRule {
    No,
    /// Any relative path.
    Plain,
    /// A relative path unless it is absolute on Windows.
    Portable,
    /// A path, a URL or a reference to a service.
    Context,
    /// A path whose symbolic links are followed.
    Real,
    /// The source of a bind mount.
    Mount,
    /// The device of a local volume that is a bind mount.
    Device,
}

/// What a value means and how it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it stands.
    Raw,
    Text,
    Integer,
    Unsigned,
    /// Single precision, as in the reference.
    Number,
    Boolean,
    Duration,
    /// A number of microseconds or a duration.
    Microseconds,
    Bytes,
    /// As [`Self::Bytes`], but not negative.
    UnsignedBytes,
    /// A command line: shell words or a list.
    Words,
    /// A probe: text is run by a shell.
    Probe,
    /// File permissions in octal.
    Mode,
    /// As [`Self::Mode`], but printed as a number.
    PlainMode,
    /// A number of devices or `all`.
    Count,
    /// Text or a list of texts.
    Texts,
    /// Keys to texts, or to nothing where the value is taken from elsewhere.
    Variables,
    /// Keys to texts.
    Labels,
    /// Keys to texts; null is empty.
    Options,
    /// Keys to lists of texts.
    MultiOptions,
    /// Host names to addresses.
    Hosts,
    /// One limit or a pair.
    Ulimit,
    /// Keys for the agent.
    Ssh,
}

/// When an attribute is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Unless it is zero, false or empty.
    NotEmpty,
    /// Whenever it is set.
    IfSet,
    /// In JSON always, `{}` if need be; in YAML unless it is empty.
    Struct,
    /// In JSON always, null if need be; in YAML whenever it is set, even if it is empty.
    Command,
    /// Unless it is true.
    NotTrue,
    /// Always.
    Always,
    /// As [`Self::NotEmpty`], but in YAML only.
    OnlyYaml,
    /// Never.
    Never,
}

/// What keys a mapping with free keys accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Any,
    /// Letters, digits, `.`, `_` and `-`.
    Names,
    /// As [`Self::Names`], where other keys are let through unchecked, as the reference does.
    NamesLeniently,
    /// Lower case letters; others are let through unchecked.
    LowerLeniently,
}

impl Keys {
    /// Whether `key` is checked against the schema of the values.
    pub(super) fn accepts(self, key: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Names | Self::NamesLeniently => {
                !key.is_empty()
                    && key
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            }
            Self::LowerLeniently => {
                !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase())
            }
        }
    }

    /// Whether a key that is not accepted is an error.
    pub(super) fn is_strict(self) -> bool {
        self == Self::Names
    }
}

/// An attribute with a fixed name.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// The name in JSON, where the reference has another.
    pub(super) json_name: &'static str,
    pub(super) schema: Schema,
    pub(super) keep: Keep,
    /// What it is for, in a line.
    about: &'static str,
    /// Values that are common where others are possible.
    examples: &'static [&'static str],
}

impl Field {
    const fn in_json(self, json_name: &'static str) -> Self {
        Self { json_name, ..self }
    }

    const fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    const fn examples(self, examples: &'static [&'static str]) -> Self {
        Self { examples, ..self }
    }
}

/// Everything that is to know of one value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema {
    pub(super) types: Types,
    pub(super) cast: Cast,
    pub(super) merge: Merge,
    pub(super) unique: Unique,
    pub(super) path: PathRule,
    pub(super) form: Form,
    pub(super) items: Option<&'static Self>,
    /// Whether equal items are an error.
    pub(super) distinct: bool,
    /// Attributes in the order in which they are printed.
    pub(super) fields: &'static [Field],
    /// Values of a mapping whose keys are the user's.
    pub(super) entries: Option<(&'static Self, Keys)>,
    /// Whether `x-` keys are extensions here.
    pub(super) extensible: bool,
    /// Whether null is printed as an empty mapping.
    pub(super) printed_if_null: bool,
    pub(super) required: &'static [&'static str],
    pub(super) choices: &'static [&'static str],
    pub(super) range: Option<(i64, i64)>,
    pub(super) pattern: Option<Pattern>,
}

/// Texts with a grammar of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    ContainerName,
    PullPolicy,
    /// The short form of a published port, which the canonical form reads.
    Ports,
    /// A port or a range, which the typed values are checked for.
    PortRange,
    /// The short form of a mount, which the canonical form reads.
    Mount,
    /// The short form of a device, which the canonical form reads.
    Device,
}

impl Schema {
    const BASE: Self = Self {
        types: Types::ANY,
        cast: Cast::None,
        merge: Merge::Deep,
        unique: Unique::No,
        path: PathRule::No,
        form: Form::Raw,
        items: None,
        distinct: false,
        fields: &[],
        entries: None,
        extensible: false,
        printed_if_null: false,
        required: &[],
        choices: &[],
        range: None,
        pattern: None,
    };

    const fn of(types: Types, form: Form) -> Self {
        Self {
            types,
            form,
            ..Self::BASE
        }
    }

    /// A mapping with known attributes.
    const fn object(fields: &'static [Field]) -> Self {
        Self {
            types: Types::MAPPING,
            fields,
            extensible: true,
            ..Self::BASE
        }
    }

    /// A mapping with the user's keys.
    const fn map(entries: &'static Self, keys: Keys) -> Self {
        Self {
            types: Types::MAPPING,
            entries: Some((entries, keys)),
            ..Self::BASE
        }
    }

    const fn list(items: &'static Self) -> Self {
        Self {
            types: Types::SEQUENCE,
            items: Some(items),
            ..Self::BASE
        }
    }

    const fn or(self, types: Types) -> Self {
        Self {
            types: self.types.or(types),
            ..self
        }
    }

    const fn cast(self, cast: Cast) -> Self {
        Self { cast, ..self }
    }

    const fn merge(self, merge: Merge) -> Self {
        Self { merge, ..self }
    }

    const fn unique(self, unique: Unique) -> Self {
        Self { unique, ..self }
    }

    const fn path(self, path: PathRule) -> Self {
        Self { path, ..self }
    }

    const fn form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    const fn distinct(self) -> Self {
        Self {
            distinct: true,
            ..self
        }
    }

    const fn closed(self) -> Self {
        Self {
            extensible: false,
            ..self
        }
    }

    const fn printed_if_null(self) -> Self {
        Self {
            printed_if_null: true,
            ..self
        }
    }

    const fn require(self, required: &'static [&'static str]) -> Self {
        Self { required, ..self }
    }

    const fn one_of(self, choices: &'static [&'static str]) -> Self {
        Self { choices, ..self }
    }

    const fn within(self, least: i64, most: i64) -> Self {
        Self {
            range: Some((least, most)),
            ..self
        }
    }

    const fn matching(self, pattern: Pattern) -> Self {
        Self {
            pattern: Some(pattern),
            ..self
        }
    }

    /// The attribute called `name`.
    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// What is known of the value at `key`.
    pub(super) fn child(&self, key: &str) -> Option<&'static Self> {
        if let Some(field) = self.field(key) {
            return Some(&field.schema);
        }
        let (entries, keys) = self.entries?;
        keys.accepts(key).then_some(entries)
    }
}

const fn field(name: &'static str, schema: Schema) -> Field {
    kept(name, schema, Keep::NotEmpty)
}

const fn kept(name: &'static str, schema: Schema, keep: Keep) -> Field {
    Field {
        name,
        json_name: name,
        schema,
        keep,
        about: "",
        examples: &[],
    }
}

// The kinds of values that many attributes share.
const TEXT: Schema = Schema::of(Types::STRING, Form::Text);
const BOOLEAN: Schema = Schema::of(Types::BOOLEAN.or(Types::STRING), Form::Boolean);
const INTEGER: Schema = Schema::of(Types::INTEGER.or(Types::STRING), Form::Integer);
const NUMBER: Schema = Schema::of(Types::NUMBER.or(Types::STRING), Form::Number);
const BYTES: Schema = Schema::of(Types::NUMBER.or(Types::STRING), Form::Bytes);
const DURATION: Schema = Schema::of(Types::STRING, Form::Duration);
const SCALAR: Schema = Schema::of(
    Types::STRING
        .or(Types::NUMBER)
        .or(Types::BOOLEAN)
        .or(Types::NULL),
    Form::Raw,
);
const TEXT_OR_NUMBER: Schema = Schema::of(Types::STRING.or(Types::NUMBER), Form::Raw);
/// A list of different texts.
const TEXTS: Schema = Schema::list(&TEXT).distinct().form(Form::Texts);
/// A list of texts that may repeat.
const LINES: Schema = Schema::list(&TEXT).form(Form::Texts);
const TEXT_OR_TEXTS: Schema = TEXTS.or(Types::STRING);
/// `KEY=VALUE` in a list or a mapping.
const PAIRS: Schema = Schema {
    types: Types::MAPPING.or(Types::SEQUENCE),
    entries: Some((&SCALAR, Keys::Any)),
    items: Some(&TEXT),
    distinct: true,
    merge: Merge::Sequence,
    ..Schema::BASE
};
const VARIABLES: Schema = PAIRS.form(Form::Variables).unique(Unique::Key);
const LABELS: Schema = PAIRS.form(Form::Labels).unique(Unique::Key);
const OPTIONS: Schema = Schema::map(&TEXT_OR_NUMBER, Keys::Any).form(Form::Options);
const COMMAND: Schema = LINES
    .or(Types::STRING)
    .or(Types::NULL)
    .form(Form::Words)
    .merge(Merge::Replace);
const HOSTS: Schema = Schema {
    types: Types::MAPPING.or(Types::SEQUENCE),
    entries: Some((&ADDRESSES, Keys::Any)),
    items: Some(&TEXT),
    distinct: true,
    merge: Merge::Hosts,
    form: Form::Hosts,
    ..Schema::BASE
};
const ADDRESSES: Schema = LINES.or(Types::STRING).form(Form::Raw);
const ULIMITS: Schema = Schema::map(&ULIMIT, Keys::LowerLeniently);
const ULIMIT: Schema = Schema::object(&[
    field("soft", INTEGER.cast(Cast::Integer))
        .about("Limit that the process may raise itself, up to the hard one"),
    field("hard", INTEGER.cast(Cast::Integer)).about("Limit that only root may raise"),
])
.require(&["soft", "hard"])
.or(Types::INTEGER.or(Types::STRING))
.cast(Cast::Integer)
.form(Form::Ulimit)
.merge(Merge::Replace);
/// A reference to a config or secret.
const FILE_REFERENCE: Schema = Schema::object(&[
    field("source", TEXT).about("Name in the top-level section"),
    field("target", TEXT).about("Path or file name in the container"),
    field("uid", TEXT).about("Owner of the file in the container"),
    field("gid", TEXT).about("Group of the file in the container"),
    kept("mode", TEXT_OR_NUMBER.form(Form::Mode), Keep::IfSet)
        .about("Permissions of the file in octal, such as 0440"),
])
.or(Types::STRING);
/// A hook that runs in the service's container.
const HOOK: Schema = Schema::object(&[
    kept("command", COMMAND, Keep::Command).about("Command line to run in the container"),
    field("user", TEXT).about("User to run as, else the service's"),
    field("privileged", BOOLEAN).about("Run with all privileges"),
    field("working_dir", TEXT).about("Directory to run in, else the service's"),
    field("environment", PAIRS.form(Form::Variables))
        .about("Variables to set besides the service's"),
])
.require(&["command"]);
