//! Live reload: a project whose files the supervisor follows.
//!
//! What loading the files again takes is kept in a record, so that it means the same after the command, its terminal and
//! this worker are gone. The containers follow with the least change; what does not run and has not changed is left alone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::history::EventRecord;
use super::protocol::{Hello, Reply, Request};
use super::request::in_turn;
use super::worker::Worker;
use crate::load::{LoadError, LoadOptions, Loaded};
use crate::model::Project;
use crate::reconcile::failure::Failure;
use crate::reconcile::plan::{Recreate, UpOptions};
use crate::reconcile::providers;
use crate::state::{StateError, StateRoot, Versioned, create_private_dir, read_json, write_json};
use crate::watch::{Reloader, WatchError};

/// Time until files are looked at again that could not be watched.
const RETRY: Duration = Duration::from_secs(5);

/// How waiting commands are told of a reload.
const WHO: &str = "live reload";

/// What a project is followed with: `projects/<name>/live.json`, for root only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveRecord {
    /// Of the environment only what the files need.
    pub load: LoadOptions,
    pub options: UpOptions,
    /// Services that this has brought up: their containers go when the file does not have them any more.
    pub services: BTreeSet<String>,
}

impl Versioned for LiveRecord {
    const FORMAT: u64 = 1;
}

/// How the last reload went: `projects/<name>/live.json` among the run files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveStatus {
    /// Why the files as they are now are not what runs.
    pub problems: Vec<String>,
}

impl Versioned for LiveStatus {
    const FORMAT: u64 = 1;
}

impl LiveRecord {
    /// What following the files of `loaded` takes, as `options` have brought them up.
    pub fn new(load: &LoadOptions, loaded: &Loaded, options: &UpOptions) -> Self {
        Self {
            load: LoadOptions {
                environment: loaded.needed_variables(&load.environment),
                stdin: None,
                ..load.clone()
            },
            options: options.clone(),
            services: loaded.project.services.keys().cloned().collect(),
        }
    }

    /// The request that makes the world follow `project`; notes which services are to go when a later one lacks them.
    pub fn request(&mut self, project: &Project) -> Request {
        let wanted: BTreeSet<String> = project.services.keys().cloned().collect();
        let given_up = self.services.difference(&wanted).cloned().collect();
        self.services.extend(wanted);
        Request::Up {
            project: Box::new(project.clone()),
            options: following(&self.options, given_up),
        }
    }

    /// Notes that the request for `project` has been fulfilled.
    pub fn settle(&mut self, project: &Project) {
        self.services = project.services.keys().cloned().collect();
    }

    pub fn read(state: &StateRoot, project: &str) -> Result<Option<Self>, StateError> {
        read_json(&path(state, project))
    }

    pub fn write(&self, state: &StateRoot, project: &str) -> Result<(), StateError> {
        create_private_dir(&state.project(project))?;
        write_json(&path(state, project), self)
    }

    /// Removes the record and what is known of its success.
    pub fn remove(state: &StateRoot, project: &str) {
        for path in [path(state, project), status_path(state, project)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::error!(%error, path = %path.display(), "cannot remove a file");
                }
                _ => {}
            }
        }
    }
}

impl LiveStatus {
    pub fn read(state: &StateRoot, project: &str) -> Option<Self> {
        read_json(&status_path(state, project)).ok().flatten()
    }
}

fn path(state: &StateRoot, project: &str) -> PathBuf {
    state.project(project).join("live.json")
}

fn status_path(state: &StateRoot, project: &str) -> PathBuf {
    state.project_run(project).join("live.json")
}

/// As `options`, for a project that runs already.
fn following(options: &UpOptions, given_up: BTreeSet<String>) -> UpOptions {
    UpOptions {
        recreate: Recreate::Diverged,
        recreate_dependencies: Recreate::Diverged,
        renew_anonymous_volumes: false,
        wait: false,
        wait_timeout: None,
        // A save is no reason to ask registries for what is here.
        pull: None,
        only_changes: true,
        given_up,
        ..options.clone()
    }
}

/// Why `project` is not the one that is followed, if it is another.
pub fn other_project(project: &Project, name: &str, directory: &std::path::Path) -> Option<String> {
    if project.name != name {
        return Some(format!(
            "the project's name changed from `{name}` to `{}`: take it down and up again",
            project.name
        ));
    }
    (project.working_dir != directory).then(|| {
        format!(
            "the files of {} are gone, and those of {} are another project's",
            directory.display(),
            project.working_dir.display()
        )
    })
}

/// Follows the files of `record` until `end`.
pub(super) async fn follow(worker: Arc<Worker>, record: LiveRecord, end: CancellationToken) {
    let live = Live {
        worker,
        record,
        end,
        directory: None,
        work: None,
    };
    live.run().await;
}

/// A change that is being applied.
#[derive(Debug)]
struct Work {
    cancel: CancellationToken,
    done: JoinHandle<Reply>,
    project: Project,
}

#[derive(Debug)]
struct Live {
    worker: Arc<Worker>,
    record: LiveRecord,
    end: CancellationToken,
    /// Where the files were at first.
    directory: Option<PathBuf>,
    work: Option<Work>,
}

impl Live {
    async fn run(mut self) {
        let end = self.end.clone();
        let mut reloader = loop {
            match Reloader::new(self.record.load.clone(), BTreeSet::new()) {
                Ok(reloader) => break reloader,
                Err(error) => self.blind(&error),
            }
            tokio::select! {
                // Cancel-safe: nothing is lost.
                () = tokio::time::sleep(RETRY) => {}
                () = end.cancelled() => return,
            }
        };
        let mut loaded = reloader.load();
        loop {
            let is_blind = loaded.is_err();
            match loaded {
                Ok(Ok(loaded)) => self.begin(&loaded).await,
                Ok(Err(error)) => self.refuse(&error),
                Err(error) => self.blind(&error),
            }
            loaded = loop {
                tokio::select! {
                    // Cancel-safe: it is for good.
                    () = end.cancelled() => {
                        self.give_up().await;
                        return;
                    }
                    // Cancel-safe: the handle is kept until it is answered.
                    reply = finished(&mut self.work) => self.finish(reply),
                    // Cancel-safe by contract.
                    loaded = reloader.next() => break loaded,
                    // Cancel-safe: the wait begins again.
                    () = tokio::time::sleep(RETRY), if is_blind => break reloader.load(),
                }
            };
        }
    }

    /// Begins to apply what was loaded, instead of what was not yet applied.
    async fn begin(&mut self, loaded: &Loaded) {
        let project = &loaded.project;
        let directory = self
            .directory
            .get_or_insert_with(|| project.working_dir.clone());
        if let Some(problem) = other_project(project, &self.worker.shared.project, directory) {
            self.report(vec![problem]);
            return;
        }
        let mut provided = project.clone();
        // A provider that was not called yet is called by the next `up`.
        if let Err(error) = providers::remembered(&mut provided, &self.worker.shared.state) {
            self.report(vec![error.to_string()]);
            return;
        }
        self.give_up().await;
        let request = self.record.request(&provided);
        self.save();
        let cancel = CancellationToken::new();
        let done = tokio::spawn(apply(Arc::clone(&self.worker), request, cancel.clone()));
        self.work = Some(Work {
            cancel,
            done,
            project: project.clone(),
        });
    }

    /// Ends what is being applied between two steps.
    async fn give_up(&mut self) {
        if let Some(work) = self.work.take() {
            work.cancel.cancel();
            work.done.await.ok();
        }
    }

    fn finish(&mut self, reply: Reply) {
        let Some(work) = self.work.take() else { return };
        let problems = if let Reply::Failed { failures } = reply {
            failures.iter().map(line).collect()
        } else {
            self.record.settle(&work.project);
            self.save();
            Vec::new()
        };
        self.report(problems);
        self.worker.ended.notify_one();
    }

    fn refuse(&self, error: &LoadError) {
        let lines = error.diagnostics.iter().map(ToString::to_string);
        self.report(lines.collect());
    }

    fn blind(&self, error: &WatchError) {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| {
            error.source()
        });
        let mut causes: Vec<String> = causes.map(ToString::to_string).collect();
        causes.extend(error.hints());
        self.report(vec![causes.join(": ")]);
    }

    /// Notes how it went, for the log and for whoever asks.
    fn report(&self, problems: Vec<String>) {
        for problem in &problems {
            tracing::error!("live reload: {problem}");
        }
        if problems.is_empty() {
            tracing::info!("live reload: up to date with the files");
        }
        let shared = &self.worker.shared;
        let event = EventRecord::new(
            "live",
            if problems.is_empty() {
                "reload"
            } else {
                "refuse"
            },
        );
        shared.note(&match problems.first() {
            Some(problem) => event
                .with("problems", problems.len())
                .with("reason", problem),
            None => event,
        });
        let path = status_path(&shared.state, &shared.project);
        if let Err(error) = write_json(&path, &LiveStatus { problems }) {
            tracing::warn!(%error, "cannot note how a live reload went");
        }
    }

    fn save(&self) {
        self.worker.save_live(&self.record, &self.end);
    }
}

async fn finished(work: &mut Option<Work>) -> Reply {
    let Some(work) = work else {
        return std::future::pending().await;
    };
    (&mut work.done)
        .await
        .unwrap_or_else(|error| Reply::Failed {
            failures: vec![Failure::from_error("", &error)],
        })
}

async fn apply(worker: Arc<Worker>, request: Request, cancel: CancellationToken) -> Reply {
    let (replies, mut told) = mpsc::unbounded_channel();
    let log = async {
        while let Some(reply) = told.recv().await {
            match reply {
                Reply::Warning { text } => tracing::warn!("live reload: {text}"),
                Reply::Progress(progress) => tracing::debug!(?progress, "live reload"),
                _ => {}
            }
        }
    };
    let work = async {
        let reply = in_turn(&worker, Hello::new(WHO), request, &replies, &cancel)
            .await
            .into_reply();
        drop(replies);
        reply
    };
    tokio::join!(work, log).0
}

/// A failure in one line.
fn line(failure: &Failure) -> String {
    let parts = [&failure.resource, &failure.message].into_iter();
    let parts = parts.chain(&failure.causes).filter(|part| !part.is_empty());
    parts.cloned().collect::<Vec<_>>().join(": ")
}
