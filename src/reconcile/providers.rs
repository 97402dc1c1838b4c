//! Services that other programs provide: `provider`. Such a program is called before the project is planned, as what it answers is
//! part of what the services that depend on it are made from. What it has answered is remembered, for whoever only looks.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use crate::model::{Project, Provider, Service};
use crate::state::{StateError, StateRoot, Versioned, create_private_dir, read_json, write_json};

/// Where Docker looks for plugins, beside the user's own folder.
const PLUGIN_FOLDERS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
/// Bytes of a program's complaints that are shown.
const COMPLAINT: u64 = 8 << 10;

/// A provider could not do what it was asked for.
#[derive(Debug, Error)]
pub enum ProviderError {
    #[error("provider `{kind}` of service `{service}` is not installed")]
    Missing { service: String, kind: String },
    #[error("provider `{kind}` of service `{service}` failed: {message}")]
    Failed {
        service: String,
        kind: String,
        message: String,
        /// What it wrote to standard error.
        complaint: Vec<String>,
    },
    #[error("cannot run provider `{kind}` of service `{service}`")]
    Run {
        service: String,
        kind: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    State(#[from] StateError),
}

impl ProviderError {
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Missing { kind, .. } => vec![format!(
                "it is looked for as the Docker plugin `docker-{kind}`, and as the program `{kind}` in PATH"
            )],
            _ => Vec::new(),
        }
    }
}

/// What a provider tells while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News<'a> {
    Begins,
    Info(&'a str),
    /// A variable of a dependent is replaced by one of the provider.
    Overrides {
        dependent: &'a str,
        variable: &'a str,
    },
    Done,
}

/// Variables that a provider gives to the services that depend on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Variables {
    /// With the name of the service in front.
    prefixed: IndexMap<String, String>,
    raw: IndexMap<String, String>,
}

/// What the providers of a project have answered: `projects/<name>/providers.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct ProviderRecord {
    services: BTreeMap<String, Variables>,
}

impl Versioned for ProviderRecord {
    const FORMAT: u64 = 1;
}

/// One line of a provider's answer.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

/// What a provider says of itself, if it does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    up: CommandMetadata,
    down: CommandMetadata,
    stop: Option<CommandMetadata>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CommandMetadata {
    parameters: Vec<Parameter>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parameter {
    name: String,
    required: bool,
}

/// What a provider is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Up,
    Down,
    Stop,
}

impl Call {
    const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Stop => "stop",
        }
    }
}

/// Whether a service of `project` is provided by another program.
pub fn has_providers(project: &Project) -> bool {
    let mut services = project.services.values();
    services.any(|service| service.provider.is_some())
}

/// Has the providers of `services` (all if empty) do what `call` says, and gives what they answer to their dependents. `tell`
/// gets the name of a service and what there is to say of it.
pub async fn call(
    project: &mut Project,
    state: &StateRoot,
    services: &[String],
    call: Call,
    mut tell: impl FnMut(&str, News<'_>),
) -> Result<(), ProviderError> {
    let path = record_path(state, &project.name);
    let mut record: ProviderRecord = read_json(&path)?.unwrap_or_default();
    let before = record.clone();
    let provided = project.services.values();
    let mut provided: Vec<Service> = provided
        .filter(|service| service.provider.is_some())
        .filter(|service| services.is_empty() || services.contains(&service.name))
        .cloned()
        .collect();
    if call != Call::Up {
        provided.reverse();
    }
    for service in provided {
        let name = service.name.as_str();
        if let Some(variables) = ask(project, &service, call, &mut tell).await? {
            match call {
                Call::Up => {
                    record.services.insert(name.to_owned(), variables);
                }
                Call::Down => {
                    record.services.remove(name);
                }
                Call::Stop => {}
            }
        }
    }
    if record != before {
        create_private_dir(&state.project(&project.name))?;
        write_json(&path, &record)?;
    }
    give_all(project, &record, &mut tell);
    Ok(())
}

/// Gives to the dependents of providers what these have answered when they were last called.
pub fn remembered(project: &mut Project, state: &StateRoot) -> Result<(), ProviderError> {
    if has_providers(project) {
        let record: Option<ProviderRecord> = read_json(&record_path(state, &project.name))?;
        give_all(project, &record.unwrap_or_default(), &mut |_, _| {});
    }
    Ok(())
}

fn record_path(state: &StateRoot, project: &str) -> PathBuf {
    state.project(project).join("providers.json")
}

fn give_all(project: &mut Project, record: &ProviderRecord, tell: &mut impl FnMut(&str, News<'_>)) {
    for (provider, variables) in &record.services {
        let is_provided = project
            .services
            .get(provider)
            .is_some_and(|it| it.provider.is_some());
        let prefixes = prefixes(provider);
        let prefixed = prefixes.iter().flat_map(|prefix| {
            let variables = variables.prefixed.iter();
            variables.map(move |(name, value)| (format!("{prefix}{name}"), value.clone()))
        });
        let raw = variables.raw.iter();
        let raw = raw.map(|(name, value)| (name.clone(), value.clone()));
        let all: Vec<(String, String)> = prefixed.chain(raw).collect();
        for (dependent, service) in &mut project.services {
            if !is_provided || !service.depends_on.contains_key(provider) {
                continue;
            }
            for (name, value) in &all {
                let old = service
                    .environment
                    .insert(name.clone(), Some(value.clone()));
                if old.is_some_and(|old| old.as_ref() != Some(value)) {
                    let variable = name;
                    tell(
                        provider,
                        News::Overrides {
                            dependent,
                            variable,
                        },
                    );
                }
            }
        }
    }
}

/// What the variables of a provider begin with: as Docker makes it, and as a shell can read it.
fn prefixes(service: &str) -> BTreeSet<String> {
    let upper = service.to_uppercase();
    let plain = upper.replace(|it: char| !it.is_ascii_alphanumeric(), "_");
    [upper, plain].map(|name| format!("{name}_")).into()
}

/// Calls one provider; `None` if it has no such command.
async fn ask(
    project: &Project,
    service: &Service,
    call: Call,
    tell: &mut impl FnMut(&str, News<'_>),
) -> Result<Option<Variables>, ProviderError> {
    let Some(provider) = &service.provider else {
        return Ok(None);
    };
    let (name, kind) = (service.name.clone(), provider.kind.clone());
    let failed = |message: String| ProviderError::Failed {
        service: name.clone(),
        kind: kind.clone(),
        message,
        complaint: Vec::new(),
    };
    let program = find(project, &kind).ok_or_else(|| ProviderError::Missing {
        service: name.clone(),
        kind: kind.clone(),
    })?;
    let metadata = metadata(project, &program).await;
    let known = match (&metadata, call) {
        (None, Call::Stop) => return Ok(None),
        (None, _) => None,
        (Some(metadata), Call::Up) => Some(&metadata.up),
        (Some(metadata), Call::Down) => Some(&metadata.down),
        (Some(metadata), Call::Stop) => match &metadata.stop {
            Some(stop) => Some(stop),
            None => return Ok(None),
        },
    };
    let known = known.map(|command| &command.parameters[..]);
    let mut missing = known
        .into_iter()
        .flatten()
        .filter(|parameter| parameter.required && !provider.options.contains_key(&parameter.name));
    if let Some(parameter) = missing.next() {
        return Err(failed(format!("it needs the option `{}`", parameter.name)));
    }
    let mut command = command(project, &program);
    command.arg("compose");
    command.arg(format!("--project-name={}", project.name));
    command.arg(call.word());
    command.args(options(provider, known));
    command.arg(&name);
    tell(&name, News::Begins);
    let run = |source| ProviderError::Run {
        service: name.clone(),
        kind: kind.clone(),
        source,
    };
    let mut child = command.spawn().map_err(run)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaint = tokio::spawn(async move {
        let mut text = Vec::new();
        if let Some(stderr) = stderr {
            // What cannot be read is not shown.
            stderr.take(COMPLAINT).read_to_end(&mut text).await.ok();
        }
        let text = String::from_utf8_lossy(&text);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    let mut variables = Variables::default();
    let mut error = None;
    let stdout = stdout.ok_or_else(|| run(std::io::ErrorKind::BrokenPipe.into()))?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.map_err(run)? {
        match read(&line, &mut variables) {
            Ok(Some(info)) => tell(&name, News::Info(&info)),
            Ok(None) => {}
            Err(message) => {
                error.get_or_insert(message);
            }
        }
    }
    let status = child.wait().await.map_err(run)?;
    let message = error.or_else(|| (!status.success()).then(|| status.to_string()));
    if let Some(message) = message {
        return Err(ProviderError::Failed {
            service: name.clone(),
            kind: kind.clone(),
            message,
            complaint: complaint.await.unwrap_or_default(),
        });
    }
    tell(&name, News::Done);
    Ok(Some(variables))
}

/// Reads one line of an answer: what it says to the user, or an error.
fn read(line: &str, variables: &mut Variables) -> Result<Option<String>, String> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let message: Message =
        serde_json::from_str(line).map_err(|_| format!("its answer is not understood: {line}"))?;
    let variable = || {
        let (name, value) = message.message.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    let needed = || variable().ok_or_else(|| format!("it sets no variable: {}", message.message));
    match message.kind.as_str() {
        "error" => return Err(message.message),
        "info" => return Ok(Some(message.message)),
        "setenv" => variables.prefixed.extend([needed()?]),
        "rawsetenv" => variables.raw.extend([needed()?]),
        "debug" => tracing::debug!(message = message.message, "a provider says"),
        other => return Err(format!("its answer is of the unknown type `{other}`")),
    }
    Ok(None)
}

/// The options of the file that the command has; all of them if it does not say.
fn options(provider: &Provider, known: Option<&[Parameter]>) -> Vec<OsString> {
    let options = provider.options.iter();
    let taken = options.filter(|(name, _)| {
        known.is_none_or(|known| known.iter().any(|parameter| parameter.name == **name))
    });
    taken
        .flat_map(|(name, values)| {
            values
                .iter()
                .map(move |value| format!("--{name}={value}").into())
        })
        .collect()
}

async fn metadata(project: &Project, program: &Path) -> Option<Metadata> {
    let output = command(project, program)
        .args(["compose", "metadata"])
        .output()
        .await;
    let output = output.ok().filter(|output| output.status.success())?;
    serde_json::from_slice(&output.stdout).ok()
}

fn command(project: &Project, program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .envs(&project.environment)
        .current_dir(&project.working_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A plugin of Docker of that name, else a program in `PATH`, or one that is named by its path.
fn find(project: &Project, kind: &str) -> Option<PathBuf> {
    if kind.contains('/') {
        let path = project.working_dir.join(kind);
        return path.is_file().then_some(path);
    }
    if kind.is_empty() || kind == "compose" {
        return None;
    }
    let variable = |name: &str| -> Option<OsString> {
        let own = project.environment.get(name).map(OsString::from);
        own.or_else(|| std::env::var_os(name))
    };
    let home = variable("HOME").map(|home| PathBuf::from(home).join(".docker/cli-plugins"));
    let plugins = home.into_iter().chain(PLUGIN_FOLDERS.map(PathBuf::from));
    let plugins = plugins.map(|folder| folder.join(format!("docker-{kind}")));
    let path = variable("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&path).map(|folder| folder.join(kind));
    plugins.chain(programs).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::{Condition, Dependency};

    /// A project in `folder` with a service `data-base` of the program `script`, and one that depends on it.
    fn project(folder: &Path, script: &str) -> Project {
        let program = folder.join("provide");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let provided = Service {
            name: "data-base".into(),
            provider: Some(Provider {
                kind: "./provide".into(),
                options: [("size".into(), vec!["1".into(), "2".into()])].into(),
            }),
            ..Service::default()
        };
        let dependency = Dependency {
            condition: Condition::ServiceStarted,
            restart: false,
            required: true,
        };
        let dependent = Service {
            name: "web".into(),
            depends_on: [("data-base".into(), dependency)].into(),
            ..Service::default()
        };
        Project {
            name: "shop".into(),
            working_dir: folder.to_owned(),
            services: [("data-base".into(), provided), ("web".into(), dependent)].into(),
            ..Project::default()
        }
    }

    async fn up(project: &mut Project, state: &StateRoot) -> (Result<(), ProviderError>, String) {
        let mut told = String::new();
        let done = call(project, state, &[], Call::Up, |service, news| {
            writeln!(told, "{service} {news:?}").unwrap();
        });
        (done.await, told)
    }

    #[tokio::test]
    async fn a_provider_gives_variables_to_those_that_depend_on_it_and_they_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(folder.path()));
        let script = r#"
            [ "$2" = metadata ] && exit 1
            echo '{"type":"info","message":"'"$*"'"}'
            echo '{"type":"debug","message":"hush"}'
            echo '{"type":"setenv","message":"URL=db://a=b"}'
            echo '{"type":"rawsetenv","message":"REGION=here"}'"#;
        let mut first = project(folder.path(), script);
        let (done, told) = up(&mut first, &state).await;
        done.unwrap();
        let arguments = "compose --project-name=shop up --size=1 --size=2 data-base";
        assert!(told.contains(arguments), "{told}");
        let web = &first.services["web"].environment;
        for name in ["DATA_BASE_URL", "DATA-BASE_URL"] {
            assert_eq!(web[name].as_deref(), Some("db://a=b"), "{name}");
        }
        assert_eq!(web["REGION"].as_deref(), Some("here"));

        let mut second = project(folder.path(), "exit 1");
        remembered(&mut second, &state).unwrap();
        assert_eq!(second.services["web"].environment, *web);
        let down = project(folder.path(), "exit 0");
        call(&mut down.clone(), &state, &[], Call::Down, |_, _| {})
            .await
            .unwrap();
        let mut third = down;
        remembered(&mut third, &state).unwrap();
        assert!(third.services["web"].environment.is_empty());
    }

    #[tokio::test]
    async fn a_provider_that_fails_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(folder.path()));
        let message = |script: &'static str| {
            let mut project = project(folder.path(), script);
            let state = state.clone();
            async move { up(&mut project, &state).await.0.unwrap_err().to_string() }
        };
        let told = message(r#"echo '{"type":"error","message":"no quota"}'"#).await;
        assert!(told.ends_with("failed: no quota"), "{told}");
        let told = message("exit 3").await;
        assert!(told.contains("exit status: 3"), "{told}");
        let told = message("echo what").await;
        assert!(told.contains("not understood: what"), "{told}");
        let mut absent = project(folder.path(), "");
        absent.services["data-base"].provider.as_mut().unwrap().kind = "no-such-program".into();
        let error = up(&mut absent, &state).await.0.unwrap_err();
        assert!(
            error.hints()[0].contains("docker-no-such-program"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_a_provider_says_of_itself_decides_which_options_and_commands_it_gets() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(folder.path()));
        let script = r#"
            if [ "$2" = metadata ]; then
                echo '{"up":{"parameters":[{"name":"level"}]},"stop":{}}'
                exit
            fi
            echo "$*" >>calls"#;
        let mut project = project(folder.path(), script);
        up(&mut project, &state).await.0.unwrap();
        call(&mut project, &state, &[], Call::Stop, |_, _| {})
            .await
            .unwrap();
        let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
        assert_eq!(
            calls,
            "compose --project-name=shop up data-base\ncompose --project-name=shop stop data-base\n"
        );
    }
}
