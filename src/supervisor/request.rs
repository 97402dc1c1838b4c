//! One connection to the worker: queue, plan, apply, and tell how it went.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::effects::RequestEffects;
use super::frame::Connection;
use super::history::EventRecord;
use super::protocol::{Failure, Hello, Progress, ProgressStatus, Reply, Request, Resource};
use super::unit::Command;
use super::worker::Worker;
use crate::container::parse_signal;
use crate::image::{Registry, RegistrySettings};
use crate::model::Project;
use crate::reconcile::apply::apply;
use crate::reconcile::plan::{self, Plan, PlanError};
use crate::reconcile::prepare::{PrepareError, prepare, prepare_up};

/// Steps that run at the same time if the command does not say; more gains nothing on a few cores (`docs/architecture.md`, "Figures").
const PARALLEL: usize = 8;

/// Answers one connection; true if it may have changed something.
pub(super) async fn serve(worker: &Arc<Worker>, (mut reader, mut writer): Connection) -> bool {
    let hello = Hello::new("supervisor");
    if writer.send(&hello).await.is_err() {
        return false;
    }
    let (Ok(Some(hello)), Ok(Some(request))) =
        (reader.next::<Hello>().await, reader.next::<Request>().await)
    else {
        return false;
    };
    let changes = !matches!(
        request,
        Request::Ping | Request::Follow | Request::Replace { .. }
    );
    let (replies, mut outgoing) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let write = async {
        while let Some(reply) = outgoing.recv().await {
            if writer.send(&reply).await.is_err() {
                break;
            }
        }
    };
    let answer = async {
        let last = match request {
            Request::Ping => Reply::Finished,
            Request::Replace { program } => replace(worker, &program).await,
            Request::Follow => {
                follow(worker, &replies, &cancel).await;
                Reply::Finished
            }
            Request::Kill {
                services, signal, ..
            } => kill(worker, &services, &signal, &replies).await,
            Request::Live { record } => {
                match record {
                    Some(record) => worker.begin_live(*record),
                    None => worker.end_live(),
                }
                Reply::Finished
            }
            Request::Pause { services } => pause(worker, &services, true, &replies).await,
            Request::Unpause { services } => pause(worker, &services, false, &replies).await,
            request => in_turn(worker, hello, request, &replies, &cancel).await,
        };
        replies.send(last).ok();
        drop(replies);
    };
    let watch_end = async {
        // Nothing more is expected: whatever arrives, the end above all, cancels.
        reader.next::<Request>().await.ok();
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Cancel-safe: it runs to its end whatever the other does.
        _ = async { tokio::join!(write, answer) } => {}
        () = watch_end => {}
    }
    changes
}

/// Streams what happens to containers until the connection ends.
async fn follow(
    worker: &Worker,
    replies: &mpsc::UnboundedSender<Reply>,
    cancel: &CancellationToken,
) {
    let mut events = worker.shared.events.subscribe();
    loop {
        let event = tokio::select! {
            // Cancel-safe: a message is taken only when this arm wins.
            event = events.recv() => event,
            () = cancel.cancelled() => return,
        };
        match event {
            Ok(event) => {
                if replies.send(Reply::Container(event)).is_err() {
                    return;
                }
            }
            // A slow follower misses events; it looks at states when it matters.
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "a follower is too slow");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Has the keeper start `program` in place of this worker, which holds nothing that the next one does not find.
async fn replace(worker: &Worker, program: &Path) -> Reply {
    let _turn = worker.queue.lock().await;
    let told = worker.shared.holder.set_program(&program.to_string_lossy());
    if let Err(error) = told {
        let failure = Failure::from_error("", &error);
        return Reply::Failed {
            failures: vec![failure],
        };
    }
    worker.replaced.notify_one();
    Reply::Finished
}

/// Sends a signal to every container of `services` (all if empty), past the queue: it must reach those that are being
/// stopped, too.
async fn kill(
    worker: &Worker,
    services: &[String],
    signal: &str,
    replies: &mpsc::UnboundedSender<Reply>,
) -> Reply {
    let Some(number) = parse_signal(signal) else {
        let failure = Failure::new("", format!("`{signal}` is not a signal"));
        return Reply::Failed {
            failures: vec![failure],
        };
    };
    let mut failures = Vec::new();
    for unit in worker.units() {
        let chosen = services.is_empty() || services.contains(&unit.service);
        let status = unit.status.borrow().clone();
        // One between two runs has no process, but must not begin another.
        if !chosen || unit.one_off || !(status.running || status.restarting) {
            continue;
        }
        say(replies, &unit.name, ProgressStatus::Killing);
        match worker.kill(&unit.id, number).await {
            Ok(()) => say(replies, &unit.name, ProgressStatus::Killed),
            Err(error) => failures.push(Failure::from_error(
                format!("container {}", unit.name),
                &error,
            )),
        }
    }
    if failures.is_empty() {
        Reply::Finished
    } else {
        Reply::Failed { failures }
    }
}

/// Pauses or resumes the running containers of `services` (all if empty).
async fn pause(
    worker: &Worker,
    services: &[String],
    pause: bool,
    replies: &mpsc::UnboundedSender<Reply>,
) -> Reply {
    let (ongoing, done) = if pause {
        (ProgressStatus::Pausing, ProgressStatus::Paused)
    } else {
        (ProgressStatus::Unpausing, ProgressStatus::Unpaused)
    };
    let mut failures = Vec::new();
    for unit in worker.units() {
        let chosen = services.is_empty() || services.contains(&unit.service);
        let status = unit.status.borrow().clone();
        if !chosen || unit.one_off || !status.running {
            continue;
        }
        if status.paused == pause {
            let message = format!("is {} paused", if pause { "already" } else { "not" });
            failures.push(Failure::new(format!("container {}", unit.name), message));
            continue;
        }
        say(replies, &unit.name, ongoing);
        let ask = unit.ask(|reply| {
            if pause {
                Command::Pause { reply }
            } else {
                Command::Unpause { reply }
            }
        });
        match ask.await {
            Ok(()) => say(replies, &unit.name, done),
            Err(error) => failures.push(Failure::from_error(
                format!("container {}", unit.name),
                &error,
            )),
        }
    }
    if failures.is_empty() {
        Reply::Finished
    } else {
        Reply::Failed { failures }
    }
}

/// Tells that something happened to a container.
fn say(replies: &mpsc::UnboundedSender<Reply>, name: &str, status: ProgressStatus) {
    say_of(replies, Resource::Container, name, status);
}

fn say_of(
    replies: &mpsc::UnboundedSender<Reply>,
    kind: Resource,
    name: &str,
    status: ProgressStatus,
) {
    let progress = Progress {
        kind,
        name: name.into(),
        status,
        detail: None,
    };
    // Nobody may listen any more.
    replies.send(Reply::Progress(progress)).ok();
}

/// Waits for its turn, then does what is asked.
pub(super) async fn in_turn(
    worker: &Arc<Worker>,
    hello: Hello,
    request: Request,
    replies: &mpsc::UnboundedSender<Reply>,
    cancel: &CancellationToken,
) -> Reply {
    if request.ends_live() {
        worker.end_live();
    }
    let current = || {
        worker
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    let _turn = if let Ok(turn) = worker.queue.try_lock() {
        turn
    } else {
        let behind = current()
            .clone()
            .unwrap_or_else(|| "another command".into());
        replies.send(Reply::Queued { behind }).ok();
        tokio::select! {
            // Cancel-safe: the place in the queue is given up.
            turn = worker.queue.lock() => turn,
            () = cancel.cancelled() => return Reply::Finished,
        }
    };
    let Hello { who, parallel, .. } = hello;
    *current() = Some(who.clone());
    let action = who.split(' ').next().unwrap_or_default().to_owned();
    let begun = EventRecord::new("project", &action).with("by", &who);
    worker.shared.note(&begun);
    let parallel = parallel.map_or(PARALLEL, NonZeroUsize::get);
    let failures = execute(worker, request, parallel, replies, cancel).await;
    let ended = EventRecord::new("project", format!("{action}: end")).with("by", &who);
    worker.shared.note(&match failures.first() {
        Some(failure) => ended
            .with("failures", failures.len())
            .with("reason", failure_text(failure)),
        None => ended,
    });
    *current() = None;
    if failures.is_empty() {
        Reply::Finished
    } else {
        Reply::Failed { failures }
    }
}

/// A failure in one line.
fn failure_text(failure: &Failure) -> String {
    let causes = failure.causes.iter().map(String::as_str);
    let parts = [failure.resource.as_str(), failure.message.as_str()];
    let parts: Vec<&str> = parts.into_iter().chain(causes).collect();
    parts.join(": ").trim_start_matches(": ").to_owned()
}

/// Plans one request afresh and applies the plan.
async fn execute(
    worker: &Arc<Worker>,
    request: Request,
    parallel: usize,
    replies: &mpsc::UnboundedSender<Reply>,
    cancel: &CancellationToken,
) -> Vec<Failure> {
    let patience = match &request {
        Request::Up { options, .. } if options.wait => options.wait_timeout,
        _ => None,
    };
    let quiet_pull = matches!(&request, Request::Up { options, .. } if options.quiet_pull);
    let planning = planned(worker, request);
    let planned = tokio::select! {
        // Cancel-safe: planning changes nothing.
        planned = planning => planned,
        () = cancel.cancelled() => return Vec::new(),
    };
    let Planned {
        project,
        plan,
        restarting,
        registry,
    } = match planned {
        Ok(planned) => planned,
        Err(failures) => return failures,
    };
    for warning in &plan.warnings {
        replies
            .send(Reply::Warning {
                text: warning.clone(),
            })
            .ok();
    }
    for (name, has_completed) in plan.unchanged_containers() {
        let status = if has_completed {
            ProgressStatus::Exited
        } else {
            ProgressStatus::Running
        };
        say(replies, name, status);
    }
    for reference in plan.unchanged_images() {
        say_of(replies, Resource::Image, reference, ProgressStatus::Pulled);
    }
    let effects = RequestEffects::new(
        Arc::clone(worker),
        project,
        &plan,
        restarting,
        replies.clone(),
        (registry, quiet_pull),
    );
    let effects = Arc::new(effects);
    let work = apply(&plan, Arc::clone(&effects), parallel, cancel);
    tokio::pin!(work);
    let work = async {
        match patience {
            None => (work.await, false),
            Some(seconds) => {
                let patience = Duration::from_secs(seconds);
                if let Ok(failures) = tokio::time::timeout(patience, &mut work).await {
                    return (failures, false);
                }
                cancel.cancel();
                (work.await, true)
            }
        }
    };
    let (mut failures, late) = work.await;
    if late {
        let seconds = patience.unwrap_or_default();
        failures.push(Failure::new(
            "",
            format!("application not healthy after {seconds}s"),
        ));
    }
    effects.finish().await;
    failures
}

/// A plan with what its effects need.
struct Planned {
    project: Option<Arc<Project>>,
    plan: Plan,
    /// Stops and starts are told as one restart.
    restarting: bool,
    /// With what was looked up.
    registry: Arc<Registry>,
}

/// Looks at the world and plans what `request` asks for.
async fn planned(worker: &Worker, request: Request) -> Result<Planned, Vec<Failure>> {
    let observed = worker
        .observe()
        .await
        .map_err(|error| vec![Failure::from_error("", &error)])?;
    let failed = |error: PlanError| PrepareError::Plan(error).failures();
    let mut registry = Arc::new(Registry::new(RegistrySettings::default()));
    let images = &worker.shared.containers.images;
    let desired = async |project: &Project| {
        prepare(images, project)
            .await
            .map_err(PrepareError::failures)
    };
    let shared = |project: Option<Box<Project>>| project.map(|project| Arc::new(*project));
    let mut restarting = false;
    let (project, plan) = match request {
        Request::Up { project, options } => {
            let project = Arc::new(*project);
            let settings = RegistrySettings::new(project.environment.clone());
            registry = Arc::new(Registry::new(settings));
            let desired = prepare_up(images, &registry, &project, &options)
                .await
                .map_err(PrepareError::failures)?;
            let plan = plan::plan_up(&project, &desired, &observed, &options);
            (Some(project), plan)
        }
        Request::Down { project, options } => {
            let project = shared(project);
            let plan = plan::plan_down(
                &worker.shared.project,
                project.as_deref(),
                &observed,
                &options,
            );
            (project, plan)
        }
        Request::Start {
            project,
            services,
            wait,
        } => {
            let project = shared(project);
            let plan = plan::plan_start(project.as_deref(), &observed, &services, wait);
            (project, plan)
        }
        Request::Stop {
            project,
            services,
            timeout,
        } => {
            let project = shared(project);
            let plan = plan::plan_stop(project.as_deref(), &observed, &services, timeout);
            (project, plan)
        }
        Request::Restart {
            project,
            services,
            timeout,
            no_deps,
        } => {
            restarting = true;
            let project = shared(project);
            let desired = match &project {
                Some(project) => Some(desired(project).await?),
                None => None,
            };
            let plan = plan::plan_restart(
                project.as_deref(),
                desired.as_ref(),
                &observed,
                &services,
                timeout,
                no_deps,
            );
            (project, plan)
        }
        Request::Remove {
            project,
            services,
            stop,
            volumes,
        } => {
            let project = shared(project);
            let plan = plan::plan_remove(project.as_deref(), &observed, &services, stop, volumes);
            (project, plan)
        }
        Request::Kill { .. }
        | Request::Pause { .. }
        | Request::Unpause { .. }
        | Request::Live { .. }
        | Request::Follow
        | Request::Ping
        | Request::Replace { .. } => (None, Ok(Plan::default())),
    };
    Ok(Planned {
        project,
        plan: plan.map_err(failed)?,
        restarting,
        registry,
    })
}
