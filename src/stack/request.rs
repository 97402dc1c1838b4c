//! Asking the project's supervisor for something.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::{Stack, StackError};
use crate::reconcile::observe::{Observed, ObservedContainer, Status};
use crate::state::Wanted;
use crate::supervisor::frame::{self, Connection, FrameError};
use crate::supervisor::launch::{self, LaunchSettings};
use crate::supervisor::protocol::{ContainerEvent, Hello, Reply, Request};

/// Bytes and lines of a supervisor's log in an error.
const LOG_BYTES: u64 = 8 << 10;
const LOG_LINES: usize = 10;
/// Supervisors in a row that are asked, if each ends before it answers.
const CONNECTIONS: usize = 3;

/// A stream of what happens to the project's containers.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
}

impl Events {
    /// The next event; `None` when the supervisor has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<ContainerEvent> {
        loop {
            match self.connection.0.next::<Reply>().await {
                Ok(Some(Reply::Container(event))) => return Some(event),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Stack {
    /// Makes sure that the supervisor runs, has it do `request`, and passes on what it tells. Dropping the future
    /// cancels the request.
    pub async fn request(
        &self,
        request: Request,
        on_reply: impl FnMut(Reply),
    ) -> Result<(), StackError> {
        self.exchange(request, on_reply).await.map(drop)
    }

    /// As [`Stack::request`]. Returns the id of the container that the request is about, if it is about one, and the
    /// connection if that belongs to the container now.
    pub(super) async fn exchange(
        &self,
        request: Request,
        mut on_reply: impl FnMut(Reply),
    ) -> Result<(Option<String>, Option<Connection>), StackError> {
        let mut connection = self.connect_supervisor(who(&request)).await?;
        connection.1.send(&request).await?;
        let mut container = None;
        loop {
            match connection.0.next::<Reply>().await {
                Ok(Some(Reply::Started { id })) if ends_attached(&request) => {
                    return Ok((Some(id), Some(connection)));
                }
                Ok(Some(Reply::Started { id })) => container = Some(id),
                Ok(Some(Reply::Finished)) => return Ok((container, None)),
                Ok(Some(Reply::Failed { failures })) => return Err(StackError::Failed(failures)),
                Ok(Some(Reply::NotStarted { code, failures })) => {
                    return Err(StackError::NotStarted { code, failures });
                }
                // What this process itself asked for before, and gave up, is no news.
                Ok(Some(Reply::Queued { behind, .. })) if behind.ends_with(&own_process()) => {}
                Ok(Some(reply)) => on_reply(reply),
                Ok(None) | Err(_) => return Err(self.supervisor_ended()),
            }
        }
    }

    /// Follows the project's containers from now on; starts the supervisor if it does not run.
    pub async fn events(&self) -> Result<Events, StackError> {
        let mut connection = self.connect_supervisor("follow").await?;
        connection.1.send(&Request::Follow).await?;
        Ok(Events { connection })
    }

    /// Starts a supervisor that is not alive although containers run, or would if it had been there, as after a reboot. That
    /// it failed is no reason to fail for a command that only reads, so it is only noted.
    pub async fn revive(&self, observed: &Observed) {
        let supervised = observed.containers.iter().any(needs_supervisor) || self.live().is_some();
        if !supervised || launch::is_running(&self.options.state, &self.options.name) {
            return;
        }
        if let Err(error) = self.ensure_supervisor().await {
            tracing::warn!(error = %error, "cannot start the supervisor");
        }
    }

    pub(super) async fn ensure_supervisor(&self) -> Result<std::path::PathBuf, StackError> {
        let containers = self.containers().await?;
        self.record_engine(containers)?;
        let options = containers.engine.options();
        let settings = LaunchSettings {
            program: self.options.program.clone(),
            address: Some(options.address.display().to_string()),
            namespace: Some(options.namespace.clone()),
        };
        let (state, name) = (self.options.state.clone(), self.options.name.clone());
        let launch = move || launch::ensure_running(&state, &name, &settings);
        let launched = tokio::task::spawn_blocking(launch).await;
        Ok(launched.map_err(|error| StackError::Io {
            operation: "start the supervisor".into(),
            source: error.into(),
        })??)
    }

    /// A connection on which the supervisor has answered. One that is just ending because nothing is left may still take
    /// a connection and never answer; it is asked nothing before it does, so its successor can be asked instead.
    async fn connect_supervisor(&self, command: &str) -> Result<Connection, StackError> {
        for _ in 1..CONNECTIONS {
            match self.greet_supervisor(command).await {
                Err(StackError::SupervisorEnded { .. } | StackError::Frame(FrameError::Io(_))) => {}
                result => return result,
            }
        }
        self.greet_supervisor(command).await
    }

    async fn greet_supervisor(&self, command: &str) -> Result<Connection, StackError> {
        let path = self.ensure_supervisor().await?;
        let mut connection = frame::connect(&path).await.map_err(FrameError::Io)?;
        let hello = Hello {
            parallel: self.options.parallel,
            lock_timeout: self.options.lock_timeout,
            ..Hello::new(format!("{command} {}", own_process()))
        };
        connection.1.send(&hello).await?;
        match connection.0.next::<Hello>().await? {
            Some(_) => Ok(connection),
            None => Err(self.supervisor_ended()),
        }
    }

    pub(super) fn supervisor_ended(&self) -> StackError {
        let path = launch::log_path(&self.options.state, &self.options.name);
        StackError::SupervisorEnded {
            project: self.options.name.clone(),
            log: last_lines(&path).unwrap_or_default(),
            path,
        }
    }
}

/// Whether the answer to a request ends with a connection to a container.
fn ends_attached(request: &Request) -> bool {
    match request {
        Request::Attach { .. } => true,
        Request::Run { options, .. } => options
            .one_off
            .as_ref()
            .is_some_and(|one_off| one_off.attended),
        _ => false,
    }
}

/// Whether a supervisor has something to look after: a container that is up, or that ended unseen and is to run again.
pub(super) fn needs_supervisor(container: &ObservedContainer) -> bool {
    let Some(desired) = &container.desired else {
        return false;
    };
    let state = &container.state;
    let was_cut_off = state.wanted == Wanted::Running && state.exit.is_none();
    let restarts = !matches!(desired.restart.as_str(), "" | "no");
    // A container of a single command may have ended without anybody to remove it.
    let is_left = desired.auto_remove;
    is_alive(container.status) || (was_cut_off && restarts) || is_left
}

/// Whether it is up, or comes up by itself.
pub(super) fn is_alive(status: Status) -> bool {
    matches!(
        status,
        Status::Running | Status::Paused | Status::Restarting
    )
}

/// How this process is named to those who wait for it.
fn own_process() -> String {
    format!("(pid {})", std::process::id())
}

/// Name of the command behind a request.
fn who(request: &Request) -> &'static str {
    match request {
        Request::Up { .. } => "up",
        Request::Run { .. } => "run",
        Request::Attach { .. } => "attach",
        Request::Down { .. } => "down",
        Request::Start { .. } => "start",
        Request::Stop { .. } => "stop",
        Request::Restart { .. } => "restart",
        Request::Kill { .. } => "kill",
        Request::Remove { .. } => "rm",
        Request::Pause { .. } => "pause",
        Request::Unpause { .. } => "unpause",
        Request::Live { .. } => "live",
        Request::Follow => "follow",
        Request::Ping => "ping",
        Request::Replace { .. } => "replace",
    }
}

fn last_lines(path: &Path) -> std::io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LOG_LINES);
    Ok(lines[first..].iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Desired;
    use crate::state::{ContainerState, Exit};

    #[test]
    fn a_container_that_a_reboot_cut_off_needs_a_supervisor_if_it_restarts() {
        let container = |restart: &str, wanted, exit: Option<Exit>| ObservedContainer {
            id: "a".into(),
            name: "shop-web-1".into(),
            service: "web".into(),
            number: 1,
            one_off: false,
            status: Status::Exited,
            pid: None,
            exit_code: Some(137),
            image: String::new(),
            labels: std::collections::BTreeMap::new(),
            spec: Vec::new(),
            desired: Some(Desired {
                restart: restart.into(),
                ..Desired::default()
            }),
            state: ContainerState {
                wanted,
                exit,
                ..ContainerState::default()
            },
            created_at: jiff::Timestamp::UNIX_EPOCH,
            has_lost_network: false,
        };
        let exit = Exit {
            code: 1,
            at: jiff::Timestamp::UNIX_EPOCH,
            out_of_memory: false,
            lost: false,
        };
        assert!(needs_supervisor(&container(
            "always",
            Wanted::Running,
            None
        )));
        for left_alone in [
            container("no", Wanted::Running, None),
            container("always", Wanted::Stopped, None),
            container("on-failure:1", Wanted::Running, Some(exit)),
            ObservedContainer {
                desired: None,
                ..container("always", Wanted::Running, None)
            },
        ] {
            assert!(!needs_supervisor(&left_alone), "{left_alone:?}");
        }
    }
}
