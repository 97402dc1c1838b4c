//! `compose config`: the project as it is understood.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use indexmap::IndexMap;

use crate::cli::diagnostics::{self, Style};
use crate::cli::drive::block_on;
use crate::cli::error::CommandError;
use crate::image::RegistrySettings;
use crate::load::{self, Diagnostic, LoadError, LoadOptions, Loaded, SourceMap, Variable};
use crate::model::{MountKind, Project, config_hash};
use crate::stack::Stack;

/// Parse, resolve and render the Compose files in canonical form
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    /// Only these services and what they depend on
    #[arg(value_name = "SERVICE")]
    pub services_named: Vec<String>,
    /// Format of the output
    #[arg(long, value_name = "yaml|json")]
    pub format: Option<String>,
    /// Save to a file instead of printing
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only check the files, print nothing
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the names of services, one per line
    #[arg(long)]
    pub services: bool,
    /// Print the names of volumes, one per line
    #[arg(long)]
    pub volumes: bool,
    /// Print the names of networks, one per line
    #[arg(long)]
    pub networks: bool,
    /// Print the names of models, one per line
    #[arg(long)]
    pub models: bool,
    /// Print the names of profiles, one per line
    #[arg(long)]
    pub profiles: bool,
    /// Print the images that services use, one per line
    #[arg(long)]
    pub images: bool,
    /// Print the hash of services, `*` for all of them
    #[arg(long, value_name = "SERVICE,…")]
    pub hash: Option<String>,
    /// Print where each value was written and what it overrode
    #[arg(long)]
    pub trace: bool,
    /// Pin image tags to digests
    #[arg(long)]
    pub resolve_image_digests: bool,
    /// Print an override file with nothing but image digests
    #[arg(long)]
    pub lock_image_digests: bool,
    /// Print the variables that the files refer to
    #[arg(long)]
    pub variables: bool,
    /// Print the variables that interpolation sees
    #[arg(long)]
    pub environment: bool,
    /// Leave variables as they are written
    #[arg(long)]
    pub no_interpolate: bool,
    /// Leave out what follows from convention
    #[arg(long)]
    pub no_normalize: bool,
    /// Leave relative paths as they are written
    #[arg(long)]
    pub no_path_resolution: bool,
    /// Do not check that references within the project are good
    #[arg(long)]
    pub no_consistency: bool,
    /// Do not read files of variables into services
    #[arg(long)]
    pub no_env_resolution: bool,
}

/// How diagnostics are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    pub style: Style,
    /// As data, for `--progress json`; `--format json` asks for it too.
    pub json: bool,
}

/// Runs the command and returns its exit code. Data goes to `stdout`, diagnostics to `stderr`.
pub(crate) fn run(
    args: &ConfigArgs,
    mut options: LoadOptions,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
    mut talk: Talk,
) -> io::Result<u8> {
    options.interpolate = !args.no_interpolate;
    // The flag does this too, the variable for it does not, as in Docker Compose.
    let is_flag_given =
        options.compatibility && !options.environment.contains_key("COMPOSE_COMPATIBILITY");
    options.normalize = !args.no_normalize && !is_flag_given;
    options.resolve_paths = !args.no_path_resolution;
    options.check_consistency = !args.no_consistency;
    // Only who wants to run it has to put it right.
    options.refuse_unusable = false;
    options.resolve_env = !args.no_env_resolution;
    options.read_all_env_files = true;
    options.trace = args.trace;
    talk.json |= args.format.as_deref() == Some("json");
    let mut command = Command {
        args,
        options,
        stderr,
        talk,
    };
    let written = command.output().and_then(|text| match &args.output {
        Some(path) if !text.is_empty() => write_file(path, &text),
        _ => Ok(stdout.write_all(text.as_bytes())?),
    });
    match written {
        Ok(()) => Ok(0),
        Err(Failure::Load(error)) => {
            let all = error.warnings.iter().chain(&error.diagnostics);
            command.report(all, &error.sources)?;
            Ok(1)
        }
        Err(Failure::Write(error)) => Err(error),
        Err(Failure::Command(error)) => {
            let text = error.shown(command.talk.json, command.talk.style.color);
            command.stderr.write_all(text.as_bytes())?;
            Ok(1)
        }
    }
}

fn write_file(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::user(format!("cannot write `{}`: {error}", path.display())))
}

enum Failure {
    Load(Box<LoadError>),
    Write(io::Error),
    Command(CommandError),
}

impl Failure {
    fn user(message: impl Into<String>) -> Self {
        Self::Command(CommandError::user(message))
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Yaml,
    Json,
}

struct Command<'a> {
    args: &'a ConfigArgs,
    options: LoadOptions,
    stderr: &'a mut dyn Write,
    talk: Talk,
}

impl Command<'_> {
    fn output(&mut self) -> Result<String, Failure> {
        let args = self.args;
        for (is_asked, section) in [
            (args.services, "services"),
            (args.volumes, "volumes"),
            (args.networks, "networks"),
        ] {
            if is_asked && args.no_interpolate {
                let raw = load::load_raw(&self.options)?;
                return Ok(sorted_lines(raw.names(section)));
            }
        }
        if args.services {
            return self.names(|project| project.services.keys().cloned().collect());
        }
        if args.volumes {
            return self.names(|project| project.volumes.keys().cloned().collect());
        }
        if args.networks {
            return self.names(|project| project.networks.keys().cloned().collect());
        }
        if args.models {
            return self.names(|project| {
                let models = project.models.values();
                models.map(|model| model.model.clone()).collect()
            });
        }
        if let Some(hash) = &args.hash {
            return self.hashes(hash);
        }
        if args.profiles {
            return self.profiles();
        }
        if args.images {
            return self.images();
        }
        if args.variables {
            return self.variables();
        }
        if args.environment {
            return self.environment();
        }
        let format = self.format()?;
        if args.trace {
            return self.trace(format);
        }
        if args.no_interpolate {
            return self.raw(format);
        }
        let mut loaded = self.load(&args.services_named)?;
        if args.resolve_image_digests || args.lock_image_digests {
            let references = loaded.image_references();
            let pins = pins(&loaded.project.environment, references)?;
            loaded.pin_images(&pins);
        }
        if args.lock_image_digests {
            for service in loaded.services_with_hook_images() {
                writeln!(
                    self.stderr,
                    "warning: images of `pre_start` hooks of service `{service}` are not in the override file; \
                     --resolve-image-digests pins them"
                )?;
            }
        }
        if args.quiet {
            return Ok(String::new());
        }
        let text = match (args.lock_image_digests, format) {
            (true, Format::Yaml) => loaded.images_to_yaml(),
            (true, Format::Json) => loaded.images_to_json(),
            (false, Format::Yaml) => loaded.to_yaml(),
            (false, Format::Json) => loaded.to_json(),
        };
        // The output can be loaded again, where a dollar sign would start a variable.
        Ok(text.replace('$', "$$"))
    }

    fn format(&self) -> Result<Format, Failure> {
        match self.args.format.as_deref() {
            None | Some("" | "yaml") => Ok(Format::Yaml),
            Some("json") => Ok(Format::Json),
            Some(other) => Err(Failure::user(format!(
                "`{other}` is not a format; use `yaml` or `json`"
            ))),
        }
    }

    fn report<'d>(
        &mut self,
        diagnostics: impl IntoIterator<Item = &'d Diagnostic>,
        sources: &SourceMap,
    ) -> io::Result<()> {
        let text = if self.talk.json {
            diagnostics::to_json_lines(diagnostics)
        } else {
            diagnostics::render(diagnostics, sources, self.talk.style)
        };
        self.stderr.write_all(text.as_bytes())
    }

    fn load(&mut self, services: &[String]) -> Result<Loaded, Failure> {
        self.options.services = services.to_vec();
        let loaded = load::load(&self.options)?;
        self.report(&loaded.warnings, &loaded.sources)?;
        Ok(loaded)
    }

    fn names(&mut self, names: impl Fn(&Project) -> Vec<String>) -> Result<String, Failure> {
        self.options.resolve_env = false;
        let loaded = self.load(&[])?;
        Ok(sorted_lines(names(&loaded.project)))
    }

    fn hashes(&mut self, wanted: &str) -> Result<String, Failure> {
        let services: Vec<String> = if wanted == "*" {
            Vec::new()
        } else {
            wanted.split(',').map(str::to_owned).collect()
        };
        self.options.with_dependencies = false;
        self.options.read_all_env_files = false;
        let loaded = self.load(&services)?;
        let services = loaded.project.services.values();
        let hashes = services.map(|service| format!("{} {}", service.name, config_hash(service)));
        Ok(sorted_lines(hashes.collect()))
    }

    fn profiles(&mut self) -> Result<String, Failure> {
        let loaded = self.load(&self.args.services_named)?;
        let project = &loaded.project;
        let profiles: BTreeSet<String> = project
            .services
            .values()
            .chain(project.disabled_services.values())
            .flat_map(|service| service.profiles.iter().cloned())
            .collect();
        Ok(lines(profiles))
    }

    fn images(&mut self) -> Result<String, Failure> {
        let loaded = self.load(&self.args.services_named)?;
        let project = &loaded.project;
        let mut images = Vec::new();
        for service in project.services.values() {
            images.push(project.image_reference(service));
            let hooks = service
                .pre_start
                .iter()
                .filter_map(|hook| hook.image.clone());
            let mounts = service
                .volumes
                .iter()
                .filter(|mount| mount.kind == MountKind::Image)
                .filter_map(|mount| {
                    let source = mount.source.clone()?;
                    Some(match project.services.get(&source) {
                        Some(service) => project.image_reference(service),
                        None => source,
                    })
                });
            for image in hooks.chain(mounts) {
                if !images.contains(&image) {
                    images.push(image);
                }
            }
        }
        Ok(lines(images))
    }

    fn trace(&mut self, format: Format) -> Result<String, Failure> {
        let loaded = self.load(&self.args.services_named)?;
        Ok(match format {
            Format::Yaml => loaded.to_trace_yaml(),
            Format::Json => serde_json::to_string_pretty(&loaded.traced())
                .map_err(|error| Failure::user(error.to_string()))?,
        })
    }

    fn raw(&mut self, format: Format) -> Result<String, Failure> {
        if !self.args.services_named.is_empty() {
            writeln!(
                self.stderr,
                "warning: services are not filtered with --no-interpolate; the whole model follows"
            )?;
        }
        let mut raw = load::load_raw(&self.options)?;
        if self.args.resolve_image_digests || self.args.lock_image_digests {
            let references = raw.image_references();
            let pins = pins(&self.options.environment, references)?;
            raw.pin_images(&pins);
        }
        if self.args.lock_image_digests {
            raw.keep_images();
        }
        Ok(match format {
            Format::Yaml => raw.to_yaml(),
            Format::Json => raw.to_json(),
        })
    }

    fn variables(&mut self) -> Result<String, Failure> {
        if !self.args.services_named.is_empty() {
            writeln!(
                self.stderr,
                "warning: services are not filtered with --variables; those of the whole model follow"
            )?;
        }
        self.options.interpolate = false;
        let variables = load::load_raw(&self.options)?.variables();
        Ok(match self.args.format.as_deref() {
            Some("json") => variables_json(&variables),
            Some("yaml") => serde_yaml::to_string(&variables_value(&variables))
                .map_err(|error| Failure::user(error.to_string()))?,
            _ => variables_table(&variables),
        })
    }

    fn environment(&mut self) -> Result<String, Failure> {
        let loaded = self.load(&self.args.services_named)?;
        let environment = loaded.project.environment.iter();
        let pairs = environment.map(|(name, value)| format!("{name}={value}"));
        Ok(sorted_lines(pairs.collect()))
    }
}

/// Images by the digests that their registries give them now.
fn pins(
    environment: &IndexMap<String, String>,
    references: Vec<String>,
) -> Result<IndexMap<String, String>, Failure> {
    let settings = RegistrySettings::new(environment.clone());
    let pinned = block_on(async { Ok(Stack::pinned_images(settings, references).await?) });
    pinned.map_err(Failure::Command)
}

fn sorted_lines(mut items: Vec<String>) -> String {
    items.sort();
    lines(items)
}

fn lines(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().map(|item| item + "\n").collect()
}

fn variables_value(variables: &IndexMap<String, Variable>) -> serde_json::Value {
    variables
        .iter()
        .map(|(name, variable)| {
            let value = serde_json::json!({
                "Name": name,
                "DefaultValue": variable.default,
                "PresenceValue": variable.alternative,
                "Required": variable.required,
            });
            (name.clone(), value)
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn variables_json(variables: &IndexMap<String, Variable>) -> String {
    format!("{}\n", variables_value(variables))
}

fn variables_table(variables: &IndexMap<String, Variable>) -> String {
    let header = ["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"].map(str::to_owned);
    let rows: Vec<[String; 4]> = std::iter::once(header)
        .chain(variables.iter().map(|(name, variable)| {
            [
                name.clone(),
                variable.required.to_string(),
                variable.default.clone(),
                variable.alternative.clone(),
            ]
        }))
        .collect();
    let widths: [usize; 4] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| unicode_width::UnicodeWidthStr::width(row[column].as_str()))
            .max()
            .unwrap_or_default()
    });
    let mut table = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let padding = width - unicode_width::UnicodeWidthStr::width(cell.as_str());
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', padding + 3));
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}
