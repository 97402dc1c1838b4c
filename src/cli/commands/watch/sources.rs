//! Source files that `develop.watch` names, followed and brought into containers.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Work;
use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::model::{Develop as Definition, Project};
use crate::stack::{Stack, StackError};
use crate::watch::{Action, Batch, Develop};

/// What is to be told.
#[derive(Debug)]
pub(in crate::cli::commands) enum News {
    Note(String),
    Failed(StackError),
}

/// The source files of a project.
pub(in crate::cli::commands) struct Sources {
    develop: Develop,
    /// What the rules were made from.
    definitions: Vec<Option<Definition>>,
    /// Containers that have what they need: service and id.
    supplied: BTreeSet<(String, String)>,
    /// What is to be done next.
    queue: VecDeque<Vec<Batch>>,
    work: Option<Work<'static>>,
    say: UnboundedSender<String>,
    said: UnboundedReceiver<String>,
}

impl Sources {
    /// Begins to follow; shows what is wrong with rules, and what cannot be done.
    pub(in crate::cli::commands) fn new(
        ui: &mut Ui,
        project: &Project,
    ) -> Result<Self, CommandError> {
        let (say, said) = unbounded_channel();
        Ok(Self {
            develop: follow(ui, project)?,
            definitions: definitions(project),
            supplied: BTreeSet::new(),
            queue: VecDeque::new(),
            work: None,
            say,
            said,
        })
    }

    /// Follows what another state of the project says.
    pub(in crate::cli::commands) fn replace(
        &mut self,
        ui: &mut Ui,
        project: &Project,
    ) -> Result<(), CommandError> {
        let definitions = definitions(project);
        if definitions != self.definitions {
            let earlier = std::mem::replace(&mut self.develop, follow(ui, project)?);
            self.develop.resume(earlier);
            self.definitions = definitions;
        }
        Ok(())
    }

    /// Gives containers that are new what they lack; to be called when services have come up.
    pub(in crate::cli::commands) async fn supply(
        &mut self,
        stack: &Stack,
    ) -> Result<(), CommandError> {
        if self.develop.is_empty() {
            return Ok(());
        }
        let receivers = stack.receivers().await?;
        let new: BTreeSet<&String> = receivers
            .difference(&self.supplied)
            .map(|(service, _)| service)
            .collect();
        for service in new {
            let missing = self.develop.missing(service);
            if !missing.is_empty() {
                self.queue.push_back(missing);
            }
        }
        self.supplied = receivers;
        Ok(())
    }

    /// Does what changes ask for until there is something to tell. Cancel-safe: what goes on is kept.
    pub(in crate::cli::commands) async fn next(
        &mut self,
        stack: &Rc<Stack>,
    ) -> Result<News, CommandError> {
        loop {
            if self.work.is_none()
                && let Some(batches) = self.queue.pop_front()
            {
                self.work = Some(synchronize(Rc::clone(stack), batches, self.say.clone()));
            }
            tokio::select! {
                // What was told before the end is shown before it.
                biased;
                // Cancel-safe: a message is taken only when this arm wins.
                Some(note) = self.said.recv() => return Ok(News::Note(note)),
                // Polled until it has ended.
                result = super::next_result(&mut self.work) => {
                    self.work = None;
                    if let Err(error) = result {
                        return Ok(News::Failed(error));
                    }
                }
                // Cancel-safe by contract.
                batches = self.develop.next() => {
                    self.queue.push_back(batches.map_err(StackError::from)?);
                }
            }
        }
    }
}

fn synchronize(
    stack: Rc<Stack>,
    batches: Vec<Batch>,
    say: UnboundedSender<String>,
) -> Work<'static> {
    Box::pin(async move {
        let say = |note| {
            // The receiver lives as long as what sends.
            say.send(note).ok();
        };
        stack.synchronize(&batches, say, |_| {}).await
    })
}

fn follow(ui: &mut Ui, project: &Project) -> Result<Develop, CommandError> {
    let (develop, errors) = Develop::new(project).map_err(StackError::from)?;
    let place = |service: &str, rule: usize| {
        let path = format!("services.{service}.develop.watch[{rule}]");
        match project.provenance.origin(&path) {
            Some(origin) => format!("{origin}: `{path}`"),
            None => format!("`{path}`"),
        }
    };
    for error in errors {
        let text = format!(
            "{} is left out: {}",
            place(&error.service, error.rule),
            error.reason
        );
        ui.warn(&text);
    }
    for (service, rule, action) in develop.rules() {
        if action == Action::Rebuild {
            let text = format!(
                "{}: `rebuild` is not supported yet; changes there are told and nothing else",
                place(service, rule)
            );
            ui.warn(&text);
        }
    }
    Ok(develop)
}

fn definitions(project: &Project) -> Vec<Option<Definition>> {
    let services = project.services.values();
    services.map(|service| service.develop.clone()).collect()
}
