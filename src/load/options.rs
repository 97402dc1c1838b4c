//! What to load and what comes of it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::diagnostic::Diagnostic;
use super::render;
use super::source::SourceMap;
use super::trace::{Trace, TracedValue};
use super::variables::{Variable, variables};
use crate::model::Project;
use crate::yaml::{self, Node};

/// What to load, as the user asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadOptions {
    /// `-f`, as typed; `-` is standard input. Empty: `COMPOSE_FILE`, else files are looked for.
    pub files: Vec<PathBuf>,
    /// `--project-directory`.
    pub project_directory: Option<PathBuf>,
    /// `-p`.
    pub project_name: Option<String>,
    /// `--env-file`; empty: `COMPOSE_ENV_FILES`, else `.env`.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; empty: `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
    /// Services to keep, as names or patterns; empty means all. Their profiles become active.
    pub services: Vec<String>,
    /// Whether selected services bring their dependencies along.
    pub with_dependencies: bool,
    /// Directory that relative paths on the command line start from, absolute.
    pub working_dir: PathBuf,
    /// The environment of the process.
    pub environment: IndexMap<String, String>,
    /// Text for the file `-`.
    pub stdin: Option<String>,
    /// Replace `$VAR`.
    pub interpolate: bool,
    /// Fill in what a file leaves to convention: networks, names, dependencies.
    pub normalize: bool,
    /// Make paths absolute.
    pub resolve_paths: bool,
    /// Check that the files have the shape of Compose files.
    pub check_schema: bool,
    /// Check what one part of the file says of another.
    pub check_consistency: bool,
    /// Refuse values that no engine takes, such as a subnet that is none; else they are warned of.
    pub refuse_unusable: bool,
    /// Read files of variables into `environment`.
    pub resolve_env: bool,
    /// Read the files of services that are not selected too, so that what is missing is found.
    pub read_all_env_files: bool,
    /// Keep networks, volumes, configs, secrets and models that no service uses.
    pub all_resources: bool,
    /// Note which variables made which values, for [`Loaded::to_trace_yaml`].
    pub trace: bool,
    /// OCI runtime of services that name none; none: `COMPOSE_RUNTIME`.
    pub runtime: Option<String>,
    /// Names with `_` in them, as the first Compose made them.
    pub compatibility: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            project_directory: None,
            project_name: None,
            env_files: Vec::new(),
            profiles: Vec::new(),
            services: Vec::new(),
            with_dependencies: true,
            working_dir: PathBuf::new(),
            environment: IndexMap::new(),
            stdin: None,
            interpolate: true,
            normalize: true,
            resolve_paths: true,
            check_schema: true,
            check_consistency: true,
            refuse_unusable: true,
            resolve_env: true,
            read_all_env_files: false,
            all_resources: false,
            trace: false,
            runtime: None,
            compatibility: false,
        }
    }
}

/// A project and what was noticed while it was loaded.
#[derive(Debug)]
pub struct Loaded {
    pub project: Project,
    pub warnings: Vec<Diagnostic>,
    pub sources: SourceMap,
    /// Every path whose content or existence the project depends on; absolute. Files that would be found if they were
    /// there are among them.
    pub inputs: BTreeSet<PathBuf>,
    /// The canonical tree, of which `config` prints a view.
    pub(super) tree: Node,
    pub(super) trace: Trace,
}

impl Loaded {
    /// Of `environment`, what loading the same files again needs: variables that they mention, and those that Compose
    /// itself reads. Nothing else of a shell's environment has to be kept.
    pub fn needed_variables(
        &self,
        environment: &IndexMap<String, String>,
    ) -> IndexMap<String, String> {
        let is_needed = |name: &str| {
            ["HOME", "PWD"].contains(&name)
                || name.starts_with("COMPOSE_")
                || self.sources.mentions(name)
        };
        environment
            .iter()
            .filter(|(name, _)| is_needed(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// The project as [`Self::to_yaml`], with a comment behind every value that says where it was
    /// written, what it overrode and which variables it was made with.
    pub fn to_trace_yaml(&self) -> String {
        let view = render::project(&self.tree, &self.project, render::Format::Yaml);
        self.trace.to_yaml(view, &self.sources)
    }

    /// The same as data: an entry for each value.
    pub fn traced(&self) -> Vec<TracedValue> {
        let view = render::project(&self.tree, &self.project, render::Format::Yaml);
        self.trace.values(&view, &self.sources)
    }

    /// The project as `config` prints it in YAML, before `$` is doubled.
    pub fn to_yaml(&self) -> String {
        yaml::to_yaml(&render::project(
            &self.tree,
            &self.project,
            render::Format::Yaml,
        ))
    }

    /// The project as `config --format json` prints it, before `$` is doubled.
    pub fn to_json(&self) -> String {
        yaml::to_json(&render::project(
            &self.tree,
            &self.project,
            render::Format::Json,
        ))
    }
}

/// A project before texts are given types: merged and in long form, as far as variables allow.
#[derive(Debug)]
pub struct RawProject {
    pub(super) tree: Node,
}

impl RawProject {
    /// As `config --no-interpolate` prints it.
    pub fn to_yaml(&self) -> String {
        yaml::to_yaml(&render::plain(&self.tree, render::Format::Yaml))
    }

    /// As `config --no-interpolate --format json` prints it.
    pub fn to_json(&self) -> String {
        yaml::to_json(&render::plain(&self.tree, render::Format::Json))
    }

    /// Names in a section such as `services`.
    pub fn names(&self, section: &str) -> Vec<String> {
        let entries = self.tree.entries(section);
        entries.map(|(name, _)| name.to_owned()).collect()
    }

    /// The variables that the files refer to.
    pub fn variables(&self) -> IndexMap<String, Variable> {
        variables(&self.tree)
    }
}

/// Why a project cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{}", summary(.diagnostics))]
pub struct LoadError {
    /// All errors of the phase that failed, in the order of their places.
    pub diagnostics: Vec<Diagnostic>,
    /// What was noticed before that.
    pub warnings: Vec<Diagnostic>,
    pub sources: SourceMap,
    /// Whether there is no file at all, which commands that work from labels can do without.
    pub no_file: bool,
    /// As [`Loaded::inputs`], as far as loading came.
    pub inputs: BTreeSet<PathBuf>,
}

fn summary(diagnostics: &[Diagnostic]) -> String {
    match diagnostics {
        [] => "the project cannot be loaded".to_owned(),
        [only] => only.message.clone(),
        [first, rest @ ..] => format!("{} (and {} more)", first.message, rest.len()),
    }
}
