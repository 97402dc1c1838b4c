//! One connection to the worker: queue, plan, apply, and tell how it went.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::attach::{self, Attached};
use super::effects::{OneOffUnit, RequestEffects, reasons_text};
use super::frame::Connection;
use super::history::EventRecord;
use super::protocol::{Hello, Progress, ProgressStatus, Reply, Request, Resource};
use super::unit::Command;
use super::worker::{Turn, Worker};
use crate::container::parse_signal;
use crate::image::Registry;
use crate::reconcile::apply::apply;
use crate::reconcile::failure::Failure;
use crate::reconcile::plan::{Change, Plan};
use crate::reconcile::prepare::PrepareError;

/// Steps that run at the same time if the command does not say; more gains nothing on a few cores.
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
    let mut attached = None;
    let write = async {
        while let Some(reply) = outgoing.recv().await {
            if writer.send(&reply).await.is_err() {
                break;
            }
        }
    };
    let answer = async {
        let last = match request {
            Request::Ping => Answer::Last(Reply::Finished),
            Request::Replace { program } => Answer::Last(replace(worker, &program).await),
            Request::Follow => {
                follow(worker, &replies, &cancel).await;
                Answer::Last(Reply::Finished)
            }
            Request::Attach { id } => attach_to(worker, &id).await,
            Request::Kill {
                services, signal, ..
            } => Answer::Last(kill(worker, &services, &signal, &replies).await),
            Request::Live { record } => {
                match record {
                    Some(record) => worker.begin_live(*record),
                    None => worker.end_live(),
                }
                Answer::Last(Reply::Finished)
            }
            Request::Pause { services } => {
                Answer::Last(pause(worker, &services, true, &replies).await)
            }
            Request::Unpause { services } => {
                Answer::Last(pause(worker, &services, false, &replies).await)
            }
            request => in_turn(worker, hello, request, &replies, &cancel).await,
        };
        match last {
            // Nobody may listen any more.
            Answer::Last(reply) => drop(replies.send(reply)),
            Answer::Attached(to) => attached = Some(to),
        }
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
    if let Some(attached) = attached {
        attach::serve(worker, attached, (reader, writer)).await;
    }
    changes
}

/// How the answer to a request ends.
pub(super) enum Answer {
    Last(Reply),
    /// The connection now belongs to a container.
    Attached(Attached),
}

impl Answer {
    fn of(failures: Vec<Failure>) -> Self {
        Self::Last(if failures.is_empty() {
            Reply::Finished
        } else {
            Reply::Failed { failures }
        })
    }

    /// The last reply, for who asks for nothing to be connected to.
    pub(super) fn into_reply(self) -> Reply {
        match self {
            Self::Last(reply) => reply,
            Self::Attached(_) => Reply::Finished,
        }
    }

    fn failures(&self) -> &[Failure] {
        match self {
            Self::Last(Reply::Failed { failures } | Reply::NotStarted { failures, .. }) => failures,
            _ => &[],
        }
    }
}

/// Connects to a container that runs.
async fn attach_to(worker: &Worker, id: &str) -> Answer {
    let not_running = || {
        Answer::of(vec![Failure::new(
            format!("container {id}"),
            "is not running",
        )])
    };
    let Some(unit) = worker.unit(id) else {
        return not_running();
    };
    let settled = unit.ask(|reply| Command::Settle { reply }).await;
    let attachment = unit.attach();
    let status = unit.status.borrow().clone();
    // Who waited for its end and lost an earlier worker gets to know how it ended.
    if settled.is_err() || !(status.running || unit.one_off && status.was_started) {
        return not_running();
    }
    Answer::Attached(Attached { unit, attachment })
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
        if !chosen || !(status.running || status.restarting) {
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
) -> Answer {
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
        let owner = current().clone();
        let since = owner.as_ref().map(|owner| owner.since);
        let behind = owner.map_or_else(|| "another command".into(), |owner| owner.who);
        replies.send(Reply::Queued { behind, since }).ok();
        let turn = async {
            match hello.lock_timeout {
                Some(limit) => tokio::time::timeout(limit, worker.queue.lock()).await.ok(),
                None => Some(worker.queue.lock().await),
            }
        };
        let turn = tokio::select! {
            // Cancel-safe: the place in the queue is given up.
            turn = turn => turn,
            () = cancel.cancelled() => return Answer::Last(Reply::Finished),
        };
        let Some(turn) = turn else {
            let owner = current().clone();
            let limit = hello.lock_timeout.unwrap_or_default();
            return Answer::of(vec![busy(&worker.shared.project, owner, limit)]);
        };
        turn
    };
    let Hello { who, parallel, .. } = hello;
    *current() = Some(Turn {
        who: who.clone(),
        since: Timestamp::now(),
    });
    let action = who.split(' ').next().unwrap_or_default().to_owned();
    let begun = EventRecord::new("project", &action).with("by", &who);
    worker.shared.note(&begun);
    let parallel = parallel.map_or(PARALLEL, NonZeroUsize::get);
    let answer = execute(worker, request, parallel, replies, cancel).await;
    let ended = EventRecord::new("project", format!("{action}: end")).with("by", &who);
    let failures = answer.failures();
    worker.shared.note(&match failures.first() {
        Some(failure) => ended
            .with("failures", failures.len())
            .with("reason", failure_text(failure)),
        None => ended,
    });
    *current() = None;
    answer
}

/// Says who has held the queue for longer than a request was to wait.
fn busy(project: &str, owner: Option<Turn>, limit: Duration) -> Failure {
    let limit = limit.as_secs();
    let message = match owner {
        Some(Turn { who, since }) => {
            let seconds = Timestamp::now().duration_since(since).as_secs();
            format!(
                "`{who}` has been at work for {seconds} s, and no more than {limit} s were to be waited"
            )
        }
        None => format!("its turn has not come within {limit} s"),
    };
    Failure {
        hints: vec![
            "`--lock-timeout` says how long to wait; without it, as long as it takes".into(),
        ],
        ..Failure::new(format!("project {project}"), message)
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
) -> Answer {
    let registry = request.registry();
    let planned = tokio::select! {
        // Cancel-safe: planning changes nothing.
        planned = planned(worker, &request, &registry) => planned,
        () = cancel.cancelled() => return Answer::of(Vec::new()),
    };
    let plan = match planned {
        Ok(plan) => plan,
        Err(failures) => return Answer::of(failures),
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
    if matches!(request, Request::Up { .. }) {
        worker.mend_firewall().await;
        worker.show_hidden().await;
    }
    for change in plan.changes.iter().filter(|change| !change.is_none()) {
        worker.shared.note(&planned_change(change));
    }
    let effects = RequestEffects::new(
        Arc::clone(worker),
        request,
        &plan,
        replies.clone(),
        registry,
    );
    let patience = effects.patience();
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
    let relapsed = effects.relapsed(&plan, &failures).await;
    failures.extend(relapsed);
    if late {
        let seconds = patience.unwrap_or_default();
        failures.push(Failure::new(
            "",
            format!("application not healthy after {seconds}s"),
        ));
    }
    effects.finish().await;
    if let Some(one_off) = effects.take_one_off() {
        return hand_over(worker, one_off, failures, replies).await;
    }
    if let Some(name) = effects.one_off_name() {
        // What was made for a container that was not made serves nobody else.
        worker.remove_sandbox(name).await;
    }
    Answer::of(failures)
}

/// What is to happen to a resource, and why.
fn planned_change(change: &Change) -> EventRecord {
    let mut event = EventRecord::new("plan", &change.change)
        .with("kind", &change.kind)
        .with("name", &change.name);
    if !change.reasons.is_empty() {
        event = event.with("reason", reasons_text(&change.reasons));
    }
    event.service = change.service.clone().unwrap_or_default();
    event
}

/// Gives the container of a single command to whoever asked for it. One that did not come to run goes.
async fn hand_over(
    worker: &Worker,
    one_off: OneOffUnit,
    failures: Vec<Failure>,
    replies: &mpsc::UnboundedSender<Reply>,
) -> Answer {
    let OneOffUnit { unit, attachment } = one_off;
    let status = unit.status.borrow().clone();
    if !status.was_started || status.error.is_some() {
        drop(attachment);
        worker.remove_one_off(&unit).await;
        return match status.exit.filter(|_| status.error.is_some()) {
            Some(exit) => Answer::Last(Reply::NotStarted {
                code: exit.code,
                failures,
            }),
            None => Answer::of(failures),
        };
    }
    // It runs, whatever else was to be done beside.
    for failure in failures {
        let text = format!("{}: {}", failure.resource, failure.message);
        replies.send(Reply::Warning { text }).ok();
    }
    if let Some(attachment) = attachment {
        return Answer::Attached(Attached { unit, attachment });
    }
    replies.send(Reply::Started { id: unit.id }).ok();
    Answer::Last(Reply::Finished)
}

/// Looks at the world and plans what `request` asks for.
async fn planned(
    worker: &Worker,
    request: &Request,
    registry: &Arc<Registry>,
) -> Result<Plan, Vec<Failure>> {
    let observed = worker
        .observe()
        .await
        .map_err(|error| vec![Failure::from_error("", &error)])?;
    let containers = &worker.shared.containers;
    let plan = request
        .plan(&worker.shared.project, containers, registry, &observed)
        .await
        .map_err(PrepareError::failures)?;
    Ok(plan.unwrap_or_default())
}
