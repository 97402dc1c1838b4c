//! Follows a project's containers: what they write, and how they end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt as _;

use super::logs::{entry, read_logs};
use super::request::{Events, is_alive};
use super::{LogEntry, LogSelection, Stack, StackError};
use crate::log::reader::{Item, LogHandle, LogStream, Source};
use crate::supervisor::protocol::{ContainerChange, ContainerEvent};

/// Time in which the news that a container will restart follows that of its end.
const RESTART_NEWS: Duration = Duration::from_millis(100);

/// Time between two looks at the world itself: news may be missed.
const LOOK: Duration = Duration::from_secs(5);

/// Time for which something that was stopped to start anew is expected back.
const RETURN: Duration = Duration::from_secs(30);

/// Time until a lost supervisor is asked again.
const REVIVAL: Duration = Duration::from_millis(500);

/// What happens while containers are followed.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    Entry(LogEntry),
    /// A container ended, and everything that it wrote has been told.
    Exited {
        name: String,
        service: String,
        code: u32,
        restarting: bool,
    },
    /// No container runs any more, and all has been told.
    Over,
}

/// Whose containers are followed.
#[derive(Clone, Debug, Default)]
pub struct FollowSelection {
    /// Services whose ends are told; `None`: all.
    pub watched: Option<BTreeSet<String>>,
    /// Services whose lines are told, too; `None`: all that are watched.
    pub shown: Option<BTreeSet<String>>,
    pub logs: LogSelection,
}

impl FollowSelection {
    fn watches(&self, service: &str) -> bool {
        self.watched
            .as_ref()
            .is_none_or(|services| services.contains(service))
    }

    fn shows(&self, service: &str) -> bool {
        self.shown.as_ref().map_or_else(
            || self.watches(service),
            |services| services.contains(service),
        )
    }
}

#[derive(Debug, Default)]
struct Member {
    name: String,
    service: String,
    alive: bool,
    /// Its log is read.
    shown: bool,
    ending: Option<Ending>,
}

/// An end that is not told yet.
#[derive(Debug)]
struct Ending {
    code: u32,
    /// All that was written before it has been told.
    told: bool,
    restarting: bool,
    due: Instant,
}

/// The containers of some services, followed.
#[derive(Debug)]
pub struct Follower<'a> {
    stack: &'a Stack,
    selection: FollowSelection,
    events: Option<Events>,
    handle: LogHandle,
    stream: LogStream,
    members: BTreeMap<String, Member>,
    /// Names by id, for lines.
    names: BTreeMap<String, String>,
    next_look: Instant,
    /// Until when something is expected back that was stopped to start anew.
    awaits_return: Option<Instant>,
    /// Ends when nothing runs.
    finite: bool,
    closing: bool,
}

impl Stack {
    /// Follows containers from now on; with history as the selection of lines says. Starts the supervisor if it does
    /// not run.
    pub async fn follow(&self, selection: FollowSelection) -> Result<Follower<'_>, StackError> {
        let events = self.events().await?;
        let (handle, stream) = read_logs(Vec::new(), selection.logs.options(true))?;
        Ok(Follower {
            stack: self,
            selection,
            events: Some(events),
            handle,
            stream,
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            next_look: Instant::now() + LOOK,
            awaits_return: None,
            finite: false,
            closing: false,
        })
    }
}

impl Follower<'_> {
    /// Looks at the world: which containers there are, and which run.
    pub async fn look(&mut self) -> Result<(), StackError> {
        self.next_look = Instant::now() + LOOK;
        let observed = self.stack.observe().await?;
        let mut unread = Vec::new();
        for container in &observed.containers {
            let index = self.selection.logs.index;
            if container.one_off
                || !self.selection.watches(&container.service)
                || (index > 0 && container.number != index)
            {
                continue;
            }
            let alive = is_alive(container.status);
            unread.extend(self.admit(&container.id, &container.name, &container.service));
            let Some(member) = self.members.get_mut(&container.id) else {
                continue;
            };
            let was_alive = std::mem::replace(&mut member.alive, alive);
            if was_alive && !alive && member.ending.is_none() {
                let code = container.exit_code.unwrap_or(0);
                self.end(&container.id, code);
            }
        }
        // All at once: only then is their history merged by time.
        self.handle.add(unread);
        let gone = |id: &String| {
            !observed
                .containers
                .iter()
                .any(|container| container.id == *id)
        };
        for member in self
            .members
            .iter_mut()
            .filter(|(id, _)| gone(id))
            .map(|(_, member)| member)
        {
            member.alive = false;
        }
        Ok(())
    }

    /// Names of the containers whose lines are told.
    pub fn shown_names(&self) -> Vec<&str> {
        let shown = self.members.values().filter(|member| member.shown);
        shown.map(|member| member.name.as_str()).collect()
    }

    /// Whose ends and whose lines are told from now on, as the project has changed.
    pub fn select(&mut self, watched: Option<BTreeSet<String>>, shown: Option<BTreeSet<String>>) {
        self.selection.watched = watched;
        self.selection.shown = shown;
    }

    /// Whether from now on [`Followed::Over`] comes when nothing runs.
    pub fn until_over(&mut self, finite: bool) {
        self.finite = finite;
    }

    /// Ends after what is written now, whatever runs.
    pub fn close(&mut self) {
        if !self.closing {
            self.closing = true;
            self.handle.finish_all();
        }
    }

    /// The next thing that happens; after [`Followed::Over`] nothing does. Cancel-safe but for a look at the world,
    /// which then begins again.
    pub async fn next(&mut self) -> Result<Followed, StackError> {
        loop {
            if let Some(exited) = self.due_exit() {
                return Ok(exited);
            }
            let busy = self
                .members
                .values()
                .any(|member| member.alive || member.ending.is_some());
            self.awaits_return = self.awaits_return.filter(|until| *until > Instant::now());
            if self.finite && !busy && self.awaits_return.is_none() {
                self.close();
            }
            let due = self.next_due();
            tokio::select! {
                // Cancel-safe: an item is taken only when this arm wins.
                item = self.stream.next() => match item {
                    Some(Item::CaughtUp { key }) => self.caught_up(&key),
                    Some(item) => {
                        if let Some(entry) = entry(item, &self.names) {
                            return Ok(Followed::Entry(entry));
                        }
                    }
                    None => return Ok(self.last_exit().unwrap_or(Followed::Over)),
                },
                // Cancel-safe by contract.
                event = next_event(&mut self.events) => match event {
                    Some(event) => self.heard(&event),
                    None => self.lost(),
                },
                // Cancel-safe: the time does not change.
                () = sleep_until(due) => {
                    if Instant::now() >= self.next_look && !self.closing {
                        self.look().await?;
                        self.reconnect().await?;
                    }
                }
            }
        }
    }

    fn lost(&mut self) {
        self.events = None;
        self.next_look = Instant::now() + REVIVAL;
    }

    /// After the supervisor was lost: follows its successor if there is something to follow.
    async fn reconnect(&mut self) -> Result<(), StackError> {
        let alive = self.members.values().any(|member| member.alive);
        if self.events.is_none() && alive {
            self.events = Some(self.stack.events().await?);
        }
        Ok(())
    }

    /// Makes a container a member; its log if it is to be read from now on.
    fn admit(&mut self, id: &str, name: &str, service: &str) -> Option<Source> {
        if self.members.contains_key(id) {
            return None;
        }
        let shown = self.selection.shows(service);
        self.names.insert(id.into(), name.into());
        let member = Member {
            name: name.into(),
            service: service.into(),
            shown,
            ..Member::default()
        };
        self.members.insert(id.into(), member);
        shown.then(|| self.stack.log_source(id))
    }

    fn heard(&mut self, event: &ContainerEvent) {
        if event.one_off
            || !self.selection.watches(&event.service)
            || self.selection.logs.index > 0 && !self.members.contains_key(&event.id)
        {
            return;
        }
        if let Some(unread) = self.admit(&event.id, &event.name, &event.service) {
            self.handle.add(vec![unread]);
        }
        let Some(member) = self.members.get_mut(&event.id) else {
            return;
        };
        match event.change {
            ContainerChange::Started => {
                member.alive = true;
                self.awaits_return = None;
            }
            ContainerChange::Exited { code } => {
                member.alive = false;
                self.end(&event.id, code);
            }
            ContainerChange::Restarting { .. } => {
                member.alive = true;
                if let Some(ending) = &mut member.ending {
                    ending.restarting = true;
                }
            }
            ContainerChange::Stopped if event.returns => {
                member.alive = false;
                if let Some(ending) = &mut member.ending {
                    ending.restarting = true;
                }
                self.awaits_return = Some(Instant::now() + RETURN);
            }
            ContainerChange::Stopped | ContainerChange::Removed => member.alive = false,
            ContainerChange::Created
            | ContainerChange::Health { .. }
            | ContainerChange::OutOfMemory
            | ContainerChange::Paused
            | ContainerChange::Unpaused => {}
        }
    }

    fn end(&mut self, id: &str, code: u32) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        if member.shown {
            self.handle.mark(id);
        }
        member.ending = Some(Ending {
            code,
            told: !member.shown,
            restarting: false,
            due: Instant::now() + RESTART_NEWS,
        });
    }

    fn caught_up(&mut self, id: &str) {
        if let Some(ending) = self
            .members
            .get_mut(id)
            .and_then(|member| member.ending.as_mut())
        {
            ending.told = true;
        }
    }

    fn due_exit(&mut self) -> Option<Followed> {
        let now = Instant::now();
        let due = |member: &&mut Member| {
            let ending = member.ending.as_ref();
            ending.is_some_and(|ending| ending.told && (ending.restarting || ending.due <= now))
        };
        self.members.values_mut().find(due).and_then(exited)
    }

    /// An end that was not told when the logs had ended.
    fn last_exit(&mut self) -> Option<Followed> {
        self.members.values_mut().find_map(exited)
    }

    fn next_due(&self) -> Instant {
        let endings = self
            .members
            .values()
            .filter_map(|member| member.ending.as_ref());
        let told = endings
            .filter(|ending| ending.told)
            .map(|ending| ending.due);
        told.chain(self.awaits_return)
            .chain([self.next_look])
            .min()
            .unwrap_or(self.next_look)
    }
}

fn exited(member: &mut Member) -> Option<Followed> {
    let ending = member.ending.take()?;
    Some(Followed::Exited {
        name: member.name.clone(),
        service: member.service.clone(),
        code: ending.code,
        restarting: ending.restarting,
    })
}

async fn next_event(events: &mut Option<Events>) -> Option<ContainerEvent> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}
