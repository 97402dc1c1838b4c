//! `up` in the foreground: progress, output and ends of containers, until all have ended or the user stops them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};

use super::super::watch::{News, Sources, Work, accept, tell, update};
use super::UpArgs;
use super::menu::{Key, Menu};
use crate::cli::drive::{FRAME, Interrupts};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::prefix::short_name;
use crate::cli::print::{LogPrinter, LogStyle};
use crate::cli::progress::Renderer;
use crate::cli::ui::{Ui, paint};
use crate::load::{LoadOptions, Loaded};
use crate::reconcile::plan::{Plan, UpOptions};
use crate::stack::{
    FollowSelection, Followed, Follower, LogSelection, Reloaded, Stack, StackError, Watch, rehearse,
};
use crate::supervisor::protocol::Reply;
use crate::watch::WatchError;

/// What the end of a container does to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cascade {
    None,
    AnyExit,
    AnyFailure,
}

impl Cascade {
    const fn applies(self, code: u32) -> bool {
        match self {
            Self::None => false,
            Self::AnyExit => true,
            Self::AnyFailure => code != 0,
        }
    }
}

/// What the supervisor does for us at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Running,
    Stopping,
    Killing,
}

/// One attached `up`.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) stack: &'a Stack,
    pub(super) arguments: &'a UpArgs,
    pub(super) options: UpOptions,
    /// Services whose output is shown.
    pub(super) shown: BTreeSet<String>,
    /// Services whose ends count.
    pub(super) watched: BTreeSet<String>,
    /// The project's files, and how they were loaded.
    pub(super) files: (&'a LoadOptions, &'a Loaded),
    /// The files, if they are followed.
    pub(super) watch: Option<Watch>,
    /// Listen to keys.
    pub(super) has_menu: bool,
    pub(super) cascade: Cascade,
    pub(super) style: LogStyle,
}

/// How it went so far.
#[derive(Debug, Default)]
struct Record {
    interrupted: bool,
    /// Code of the container that made the others stop.
    cause: Option<u32>,
    /// First code of each service.
    codes: BTreeMap<String, u32>,
    failure: Option<StackError>,
}

impl Session<'_> {
    pub(super) async fn run(mut self, ui: &mut Ui) -> Result<ExitStatus, CommandError> {
        let mut watch = self.watch.take();
        let mut sources = match (&watch, self.stack.project()) {
            (Some(_), Some(project)) => Some(Sources::new(ui, project)?),
            _ => None,
        };
        let mut interrupts = Interrupts::listen()?;
        let mut menu = self.has_menu.then(Menu::open).flatten();
        let plan = self.stack.plan_up(&self.options).await?;
        let selection = FollowSelection {
            watched: Some(self.watched.union(&self.shown).cloned().collect()),
            shown: Some(self.shown.clone()),
            logs: LogSelection {
                since: Some(Timestamp::now()),
                ..LogSelection::default()
            },
        };
        let mut follower = self.stack.follow(selection).await?;
        let mut printer = LogPrinter::new(self.stack.name(), self.style);
        let mut renderer = Renderer::new(ui, "up");
        self.greet(ui, &plan, &mut printer)?;
        let (sender, mut replies) = unbounded_channel();
        let mut stage = Stage::Starting;
        let mut work = Some(self.start(&plan, sender.clone()));
        let mut record = Record::default();
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unflushed = false;
        // Nothing that is shown runs any more.
        let mut is_over = false;
        let mut stack = Rc::new(self.stack.clone());
        loop {
            tokio::select! {
                // What was told first is shown first.
                biased;
                // Cancel-safe by contract.
                _ = interrupts.next() => {
                    record.interrupted = true;
                    stage = match stage {
                        Stage::Starting | Stage::Running => {
                            renderer.above(ui, |ui| {
                                ui.talk("Gracefully Stopping... press Ctrl+C again to force\n");
                            });
                            Stage::Stopping
                        }
                        Stage::Stopping => Stage::Killing,
                        Stage::Killing => return Ok(ExitStatus::Interrupted),
                    };
                    work = Some(self.end(&stack, stage, sender.clone()));
                }
                // Cancel-safe: a message is taken only when this arm wins.
                Some(reply) = replies.recv() => renderer.reply(ui, &reply),
                // Polled until it has ended, or given up for a successor.
                result = next_result(&mut work) => {
                    work = None;
                    if let Err(StackError::Failed(failures)) = &result {
                        renderer.failed(ui, failures);
                    }
                    renderer.finish(ui);
                    let followed = watch.as_mut().filter(|_| stage == Stage::Running);
                    match (result, followed) {
                        (Ok(()), Some(watch)) => watch.settle(),
                        (Ok(()), None) => {}
                        // The next edit may put it right.
                        (Err(error), Some(_)) => {
                            CommandError::from(error).report(ui);
                        }
                        (Err(error), None) if stage == Stage::Starting => {
                            drain(ui, &mut follower, &mut printer).await?;
                            return Err(error.into());
                        }
                        (Err(error), None) => {
                            record.failure = record.failure.or(Some(error));
                        }
                    }
                    if stage == Stage::Starting {
                        stage = Stage::Running;
                        if menu.is_some() {
                            let help = paint(ui.talk_color, "2", Menu::HELP);
                            renderer.above(ui, |ui| ui.talk(&format!("{help}\n")));
                        }
                    }
                    if let Some(sources) = sources.as_mut().filter(|_| stage == Stage::Running) {
                        sources.supply(&stack).await?;
                    }
                    if is_over {
                        break;
                    }
                    follower.look().await?;
                    // What is followed may come to life again.
                    follower.until_over(watch.is_none() || stage != Stage::Running);
                }
                // Cancel-safe by contract.
                key = Menu::next(&mut menu) => match key {
                    Key::Blank => renderer.above(ui, |ui| ui.talk("\n")),
                    Key::Detach if stage == Stage::Running && work.is_none() => break,
                    Key::Watch if stage == Stage::Running => {
                        renderer.above(ui, |ui| {
                            if let Err(error) = self.toggle(ui, &stack, &mut watch, &mut sources) {
                                error.report(ui);
                            }
                        });
                        follower.until_over(watch.is_none());
                        if let Some(sources) = &mut sources {
                            sources.supply(&stack).await?;
                        }
                    }
                    Key::Detach | Key::Watch => {}
                },
                // Cancel-safe by contract.
                news = next_news(&mut sources, &stack), if stage == Stage::Running => {
                    let news = news?;
                    renderer.above(ui, |ui| tell(ui, news));
                }
                // Cancel-safe by contract.
                reloaded = next_reload(&mut watch), if stage == Stage::Running => {
                    let reloaded = reloaded.map_err(StackError::from)?;
                    let Some(project) = renderer.above(ui, |ui| accept(ui, reloaded)) else {
                        continue;
                    };
                    match self.arguments.attached(&project) {
                        Ok((shown, watched)) => follower.select(
                            Some(watched.union(&shown).cloned().collect()),
                            Some(shown),
                        ),
                        Err(error) => {
                            renderer.above(ui, |ui| error.report(ui));
                            continue;
                        }
                    }
                    if let Some(sources) = &mut sources {
                        sources.replace(ui, &project)?;
                    }
                    stack = Rc::new(stack.with_project(project));
                    // What is still being done for an earlier edit is given up between two steps.
                    work = watch.as_mut().map(|watch| update(&stack, watch.request(), sender.clone()));
                }
                // Cancel-safe: a frame that is lost is drawn by the next.
                _ = frames.tick() => renderer.tick(ui),
                // Cancel-safe by contract.
                followed = follower.next(), if !is_over => match followed? {
                    Followed::Entry(entry) => {
                        renderer.above(ui, |ui| printer.entry(ui, entry))?;
                        unflushed = true;
                    }
                    Followed::Exited { name, service, code, restarting } => {
                        let suffix = if restarting { " (restarting)" } else { "" };
                        renderer.above(ui, |ui| {
                            printer.status(ui, &name, &format!("exited with code {code}{suffix}"))
                        })?;
                        if restarting {
                            continue;
                        }
                        record.codes.entry(service).or_insert(code);
                        let stopping = matches!(stage, Stage::Stopping | Stage::Killing);
                        let updating = stage == Stage::Running && work.is_some();
                        if !stopping && !updating && self.cascade.applies(code) {
                            record.cause = Some(code);
                            stage = Stage::Stopping;
                            renderer.above(ui, |ui| {
                                let text = paint(ui.talk_color, "1;31", "Aborting on container exit...");
                                ui.talk(&format!("{text}\n"));
                            });
                            work = Some(self.end(&stack, stage, sender.clone()));
                        }
                    }
                    Followed::Over if work.is_none() => break,
                    // What is not shown may be stopped still.
                    Followed::Over => is_over = true,
                },
                // Output reaches the reader as soon as there is no more of it at hand.
                () = tokio::task::yield_now(), if unflushed => {
                    ui.flush()?;
                    unflushed = false;
                }
            }
        }
        printer.flush(ui, None)?;
        renderer.finish(ui);
        self.conclude(record)
    }

    /// Begins or ends to follow the files.
    fn toggle(
        &self,
        ui: &mut Ui,
        stack: &Stack,
        watch: &mut Option<Watch>,
        sources: &mut Option<Sources>,
    ) -> Result<(), CommandError> {
        if watch.take().is_some() {
            *sources = None;
            ui.note("Watch disabled");
            return Ok(());
        }
        let (load, loaded) = self.files;
        if let Some(project) = stack.project() {
            *sources = Some(Sources::new(ui, project)?);
        }
        *watch = Some(Watch::new(load, loaded, &self.options).map_err(StackError::from)?);
        ui.note("Watch enabled");
        Ok(())
    }

    /// `Attaching to db-1, web-1`.
    fn greet(
        &self,
        ui: &mut Ui,
        plan: &Plan,
        printer: &mut LogPrinter,
    ) -> Result<(), CommandError> {
        let mut names: Vec<&str> = plan
            .changes
            .iter()
            .filter(|change| change.kind == "container" && change.change != "remove")
            .filter(|change| {
                change
                    .service
                    .as_ref()
                    .is_some_and(|service| self.shown.contains(service))
            })
            .map(|change| change.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        printer.register(names.iter().copied());
        let short: Vec<&str> = names
            .iter()
            .map(|name| short_name(self.stack.name(), name))
            .collect();
        ui.data(&format!("Attaching to {}\n", short.join(", ")))?;
        Ok(ui.flush()?)
    }

    fn start(&self, plan: &Plan, replies: UnboundedSender<Reply>) -> Work<'_> {
        if plan.is_empty() {
            for progress in rehearse(plan) {
                // The receiver lives as long as the session.
                replies.send(Reply::Progress(progress)).ok();
            }
            return Box::pin(async { Ok(()) });
        }
        Box::pin(async move {
            let request = self.stack.up(self.options.clone())?;
            let tell = move |reply| {
                replies.send(reply).ok();
            };
            self.stack.request(request, tell).await
        })
    }

    /// Stops or kills what runs.
    fn end(&self, stack: &Rc<Stack>, stage: Stage, replies: UnboundedSender<Reply>) -> Work<'_> {
        let tell = move |reply| {
            replies.send(reply).ok();
        };
        let services = self.arguments.services.clone();
        let stack = Rc::clone(stack);
        Box::pin(async move {
            let request = if stage == Stage::Killing {
                stack.kill(services, "SIGKILL".into(), false)
            } else {
                stack.stop(services, self.options.timeout)
            };
            stack.ask(request, tell).await.map(drop)
        })
    }

    fn conclude(&self, record: Record) -> Result<ExitStatus, CommandError> {
        if let Some(error) = record.failure {
            return Err(error.into());
        }
        if record.interrupted {
            return Ok(ExitStatus::Interrupted);
        }
        let wanted = self
            .arguments
            .exit_code_from
            .as_ref()
            .and_then(|service| record.codes.get(service));
        Ok(wanted
            .copied()
            .or(record.cause)
            .map_or(ExitStatus::Success, ExitStatus::container))
    }
}

async fn next_news(sources: &mut Option<Sources>, stack: &Rc<Stack>) -> Result<News, CommandError> {
    match sources {
        Some(sources) => sources.next(stack).await,
        None => std::future::pending().await,
    }
}

async fn next_reload(watch: &mut Option<Watch>) -> Result<Reloaded, WatchError> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

async fn next_result(work: &mut Option<Work<'_>>) -> Result<(), StackError> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Shows what containers have written until now.
async fn drain(
    ui: &mut Ui,
    follower: &mut Follower<'_>,
    printer: &mut LogPrinter,
) -> Result<(), CommandError> {
    follower.close();
    loop {
        match follower.next().await? {
            Followed::Entry(entry) => printer.entry(ui, entry)?,
            Followed::Exited { .. } => {}
            Followed::Over => return Ok(printer.flush(ui, None)?),
        }
    }
}
