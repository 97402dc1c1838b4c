//! Progress of a request on standard error.

mod tty;

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use serde_json::json;

use self::tty::TaskList;
use super::human;
use super::terminal;
use super::ui::{ProgressMode, Ui};
use crate::image::{LayerPhase, LayerProgress};
use crate::reconcile::failure::Failure;
use crate::supervisor::protocol::{Progress, ProgressStatus, Reply, Resource};

/// What Docker puts before each line of a dry run.
const DRY_RUN: &str = " DRY-RUN MODE - ";

/// Class of a status: what colour and sign it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Working,
    Done,
    Warning,
    Error,
}

impl Phase {
    fn of(status: ProgressStatus) -> Self {
        match status {
            ProgressStatus::Error => Self::Error,
            ProgressStatus::Skipped => Self::Warning,
            status if status.is_ongoing() => Self::Working,
            _ => Self::Done,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Working => "Working",
            Self::Done => "Done",
            Self::Warning => "Warning",
            Self::Error => "Error",
        }
    }
}

/// One event, ready to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Event {
    id: String,
    status: String,
    detail: String,
    phase: Phase,
    /// Id of what it is a part of; empty for what stands for itself.
    parent: String,
    /// Bytes moved, and bytes in all; zero where nothing is counted.
    current: u64,
    total: u64,
}

impl Event {
    /// By what later events of the same thing are known: a layer may be a part of several images.
    fn key(&self) -> String {
        if self.parent.is_empty() {
            self.id.clone()
        } else {
            format!("{}\n{}", self.parent, self.id)
        }
    }

    fn percent(&self) -> u64 {
        match self.total {
            0 => 0,
            total => (self.current.min(total) * 100) / total,
        }
    }
}

impl From<&LayerProgress> for Event {
    fn from(layer: &LayerProgress) -> Self {
        let counts = matches!(layer.phase, LayerPhase::Downloading | LayerPhase::Pushing);
        let detail = if counts {
            let size = human::decimal_size;
            format!("{}/{}", size(layer.current), size(layer.total))
        } else {
            String::new()
        };
        Self {
            id: layer.layer.clone(),
            status: layer.phase.words().into(),
            detail,
            phase: if layer.phase.is_end() {
                Phase::Done
            } else {
                Phase::Working
            },
            parent: format!("{:?} {}", Resource::Image, layer.image),
            current: layer.current,
            total: layer.total,
        }
    }
}

impl From<&Progress> for Event {
    fn from(progress: &Progress) -> Self {
        Self {
            id: format!("{:?} {}", progress.kind, progress.name),
            status: format!("{:?}", progress.status),
            detail: progress.detail.clone().unwrap_or_default(),
            phase: Phase::of(progress.status),
            ..Self::default()
        }
    }
}

/// Shows the events of one request. In a terminal nothing is drawn before the first event.
#[derive(Debug)]
pub(crate) struct Renderer {
    list: Option<TaskList>,
    /// Of layers that were told of.
    phases: HashMap<String, LayerPhase>,
    /// Ids of what was last told to have failed.
    failed: HashSet<String>,
}

impl Renderer {
    /// `operation` heads the list in a terminal, as `up`.
    pub(crate) fn new(ui: &Ui, operation: &'static str) -> Self {
        let list =
            (ui.progress == ProgressMode::Tty).then(|| TaskList::new(operation, ui.talk_color));
        Self {
            list,
            phases: HashMap::new(),
            failed: HashSet::new(),
        }
    }

    /// Shows what concerns progress in `reply`.
    pub(crate) fn reply(&mut self, ui: &mut Ui, reply: &Reply) {
        match reply {
            Reply::Progress(progress) => self.progress(ui, progress),
            Reply::Layer(layer) => self.layer(ui, layer),
            Reply::Queued { behind, since } => {
                let since = since.map_or_else(String::new, |since| {
                    let local = since.to_zoned(jiff::tz::TimeZone::system());
                    format!(", at work since {}", local.strftime("%H:%M:%S"))
                });
                self.event(
                    ui,
                    Event {
                        id: "Project".into(),
                        status: "Waiting".into(),
                        detail: format!("for {behind}{since}"),
                        ..Event::default()
                    },
                );
            }
            Reply::Warning { text } => self.above(ui, |ui| ui.warn(text)),
            Reply::Container(_)
            | Reply::Started { .. }
            | Reply::Ended { .. }
            | Reply::Finished
            | Reply::Failed { .. }
            | Reply::NotStarted { .. } => {}
        }
    }

    fn layer(&mut self, ui: &mut Ui, layer: &LayerProgress) {
        let event = Event::from(layer);
        if ui.progress == ProgressMode::Plain {
            // A line for each byte count would drown the rest: only what begins and ends is told.
            let phase = self.phases.insert(event.key(), layer.phase);
            if phase == Some(layer.phase) {
                return;
            }
        }
        self.event(ui, event);
    }

    pub(crate) fn progress(&mut self, ui: &mut Ui, progress: &Progress) {
        self.event(ui, Event::from(progress));
    }

    /// Marks the resources that failed and are not marked yet; the error itself is reported elsewhere.
    pub(crate) fn failed(&mut self, ui: &mut Ui, failures: &[Failure]) {
        for failure in failures {
            let Some((kind, name)) = failure.resource.split_once(' ') else {
                continue;
            };
            let mut kind = kind.to_owned();
            if let Some(first) = kind.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            let id = format!("{kind} {name}");
            if self.failed.contains(&id) {
                continue;
            }
            let event = Event {
                id,
                status: "Error".into(),
                detail: String::new(),
                phase: Phase::Error,
                ..Event::default()
            };
            self.event(ui, event);
        }
    }

    fn event(&mut self, ui: &mut Ui, event: Event) {
        if event.phase == Phase::Error {
            self.failed.insert(event.id.clone());
        } else {
            self.failed.remove(&event.id);
        }
        if let Some(list) = &mut self.list {
            list.update(event, Instant::now());
            return;
        }
        match ui.progress {
            ProgressMode::Quiet | ProgressMode::Tty => {}
            ProgressMode::Plain => ui.talk(&plain(&event, ui.dry_run)),
            ProgressMode::Json => ui.talk(&json_line(&event, ui.dry_run)),
        }
    }

    /// Draws the list again; does nothing where none is drawn.
    pub(crate) fn tick(&mut self, ui: &mut Ui) {
        let dry_run = ui.dry_run;
        if let Some(list) = &mut self.list {
            // Data that was written above the list comes before it. If it cannot be written, the next write says so.
            ui.flush().ok();
            let (columns, rows) = terminal::size();
            let frame = list.draw(Instant::now(), columns, rows, dry_run);
            ui.talk(&frame);
        }
    }

    /// Lets `write` print above the list, which comes back with the next frame.
    pub(crate) fn above<T>(&mut self, ui: &mut Ui, write: impl FnOnce(&mut Ui) -> T) -> T {
        if let Some(list) = &mut self.list {
            ui.talk(&list.clear());
        }
        write(ui)
    }

    /// Draws the last state, which stays.
    pub(crate) fn finish(&mut self, ui: &mut Ui) {
        self.tick(ui);
        if let Some(list) = &mut self.list {
            list.leave();
        }
    }
}

/// ` Container shop-web-1 Started`.
fn plain(event: &Event, dry_run: bool) -> String {
    let prefix = if dry_run { DRY_RUN } else { "" };
    let line = format!("{prefix} {} {} {}", event.id, event.status, event.detail);
    format!("{}\n", line.trim_end())
}

fn json_line(event: &Event, dry_run: bool) -> String {
    let mut object = serde_json::Map::new();
    if dry_run {
        object.insert("dry-run".into(), true.into());
    }
    object.insert("id".into(), event.id.clone().into());
    if !event.parent.is_empty() {
        object.insert("parent_id".into(), event.parent.clone().into());
    }
    object.insert("status".into(), event.phase.word().into());
    object.insert("text".into(), event.status.clone().into());
    if !event.detail.is_empty() {
        object.insert("details".into(), event.detail.clone().into());
    }
    if event.total > 0 {
        object.insert("current".into(), event.current.into());
        object.insert("total".into(), event.total.into());
        object.insert("percent".into(), event.percent().into());
    }
    format!("{}\n", json!(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(status: ProgressStatus, detail: Option<&str>) -> Event {
        Event::from(&Progress {
            kind: Resource::Container,
            name: "shop-web-1".into(),
            status,
            detail: detail.map(Into::into),
        })
    }

    #[test]
    fn a_plain_line_is_docker_s() {
        let started = event(ProgressStatus::Started, None);
        assert_eq!(plain(&started, false), " Container shop-web-1 Started\n");
        assert_eq!(
            plain(&started, true),
            " DRY-RUN MODE -  Container shop-web-1 Started\n"
        );
        let failed = event(ProgressStatus::Error, Some("no space"));
        assert_eq!(
            plain(&failed, false),
            " Container shop-web-1 Error no space\n"
        );
    }

    #[test]
    fn a_layer_is_told_as_a_part_of_its_image() {
        let layer = Event::from(&LayerProgress {
            image: "busybox".into(),
            layer: "17897edf7588".into(),
            phase: LayerPhase::Downloading,
            current: 500_000,
            total: 2_000_000,
        });
        assert_eq!(
            plain(&layer, false),
            " 17897edf7588 Downloading 500kB/2MB\n"
        );
        assert_eq!(
            json_line(&layer, false),
            "{\"id\":\"17897edf7588\",\"parent_id\":\"Image busybox\",\"status\":\"Working\",\"text\":\"Downloading\",\"details\":\"500kB/2MB\",\"current\":500000,\"total\":2000000,\"percent\":25}\n"
        );
    }

    #[test]
    fn a_json_line_has_docker_s_keys() {
        let line = json_line(&event(ProgressStatus::Creating, None), false);
        assert_eq!(
            line,
            "{\"id\":\"Container shop-web-1\",\"status\":\"Working\",\"text\":\"Creating\"}\n"
        );
        let line = json_line(&event(ProgressStatus::Healthy, Some("after 2s")), true);
        assert_eq!(
            line,
            "{\"dry-run\":true,\"id\":\"Container shop-web-1\",\"status\":\"Done\",\"text\":\"Healthy\",\"details\":\"after 2s\"}\n"
        );
    }
}
