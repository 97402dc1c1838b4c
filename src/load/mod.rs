//! From files to a [`Project`](crate::model::Project).
//!
//! Each phase works on the whole tree of nodes, in the order of the reference implementation:
//! environment, files, interpolation, `include`, `extends`, merge, checks, canonical form, defaults,
//! paths, normalisation, typed values, profiles, consistency, selection, files of variables. A phase
//! reports everything that it finds wrong and leaves it out; the phases behind it, up to consistency,
//! go on with what is intact, and do not complain of what may have been left out.

mod bind;
mod canonical;
mod checks;
mod cycles;
mod diagnostic;
mod discover;
pub mod dotenv;
mod environment;
mod extends;
mod files;
mod grammar;
mod include;
mod interpolate;
mod merge;
mod name;
mod normalize;
mod options;
mod path;
mod paths;
mod pins;
mod pipeline;
mod read;
mod render;
mod schema;
mod select;
mod semantic;
mod session;
mod source;
pub mod template;
mod trace;
mod unique;
mod validate;
mod values;
mod variables;

#[cfg(test)]
mod limits;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Label, Link, Severity};
pub use environment::means_yes;
pub use name::is_project_name;
pub use options::{LoadError, LoadOptions, Loaded, RawProject};
pub use pipeline::{load, load_raw, project_environment, project_name};
pub use read::read_text;
pub use schema::json_schema;
pub use source::{Reason, Source, SourceMap};
pub use trace::{TracedValue, TracedVariable};
pub use variables::Variable;
