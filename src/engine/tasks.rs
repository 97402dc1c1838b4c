//! Tasks: the first process of a container and its shim.

use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, ListPidsRequest,
    ListTasksRequest, PauseTaskRequest, ResumeTaskRequest, StartRequest, UpdateTaskRequest,
    WaitRequest,
};
use containerd_client::types::v1::{Process, Status as ProcessStatus};
use jiff::Timestamp;
use prost::Message as _;
use prost_types::Any;
use tonic::Code;

use super::connect::{Api, MESSAGE_LIMIT};
use super::{Engine, EngineError, ExitStatus, NewTask, Stdio, TaskRecord, TaskStatus};

const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
const RUNC_OPTIONS_TYPE: &str = "containerd.runc.v1.Options";

/// Options of the runc shim that we set; numbers as in its `oci.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(bool, tag = "9")]
    systemd_cgroup: bool,
}

impl Engine {
    pub(super) fn tasks_client(&self) -> TasksClient<Api> {
        TasksClient::new(self.api()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    pub async fn tasks(&self) -> Result<Vec<TaskRecord>, EngineError> {
        let answer = self
            .tasks_client()
            .list(ListTasksRequest::default())
            .await
            .map_err(|status| self.failed("list tasks", &status))?;
        let tasks = answer.into_inner().tasks;
        Ok(tasks.into_iter().map(from_process).collect())
    }

    pub async fn task(&self, id: &str) -> Result<Option<TaskRecord>, EngineError> {
        let request = GetRequest {
            container_id: id.into(),
            exec_id: String::new(),
        };
        match self.tasks_client().get(request).await {
            Ok(answer) => Ok(answer.into_inner().process.map(from_process)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.failed(&format!("read task `{id}`"), &status)),
        }
    }

    /// Creates the task and returns its process id; nothing of the user runs before [`Engine::start_task`]. The FIFOs
    /// for output must have a reader by now: the shim waits for it and gives up after ten seconds.
    pub async fn create_task(&self, task: &NewTask) -> Result<u32, EngineError> {
        let [stdin, stdout, stderr] = task.stdio.paths();
        let options = RuncOptions {
            binary_name: task.runtime_binary.clone(),
            systemd_cgroup: task.systemd_cgroup,
        };
        let request = CreateTaskRequest {
            container_id: task.id.clone(),
            rootfs: task.rootfs.iter().map(Into::into).collect(),
            stdin,
            stdout,
            stderr,
            terminal: task.stdio.terminal,
            options: Some(Any {
                type_url: RUNC_OPTIONS_TYPE.into(),
                value: options.encode_to_vec(),
            }),
            ..CreateTaskRequest::default()
        };
        let answer = self.tasks_client().create(request).await;
        let answer = answer.map_err(|status| {
            let what = format!("task `{}`", task.id);
            let operation = format!("create {what}");
            match status.code() {
                Code::AlreadyExists => self.failed_on(&operation, &what, &status),
                _ => self.failed(&operation, &status),
            }
        })?;
        Ok(answer.into_inner().pid)
    }

    pub async fn start_task(&self, id: &str) -> Result<(), EngineError> {
        self.start_process(id, "").await?;
        Ok(())
    }

    /// Returns when the first process has ended (at once if it has). A lost connection is an error: the process
    /// may go on, so call again.
    pub async fn wait_task(&self, id: &str) -> Result<ExitStatus, EngineError> {
        self.wait_process(id, "").await
    }

    /// `all`: every process of the container. A process that is gone is not an error.
    pub async fn kill_task(&self, id: &str, signal: u32, all: bool) -> Result<(), EngineError> {
        self.kill_process(id, "", signal, all).await
    }

    /// Removes a stopped task and its shim. `None` if there was none.
    pub async fn delete_task(&self, id: &str) -> Result<Option<ExitStatus>, EngineError> {
        let request = DeleteTaskRequest {
            container_id: id.into(),
        };
        match self.tasks_client().delete(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                Ok(Some(exit_status(
                    answer.exit_status,
                    answer.exited_at.as_ref(),
                )))
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.failed(&format!("delete task `{id}`"), &status)),
        }
    }

    pub async fn pause_task(&self, id: &str) -> Result<(), EngineError> {
        let request = PauseTaskRequest {
            container_id: id.into(),
        };
        self.tasks_client()
            .pause(request)
            .await
            .map_err(|status| self.failed_on_task("pause", id, &status))?;
        Ok(())
    }

    pub async fn resume_task(&self, id: &str) -> Result<(), EngineError> {
        let request = ResumeTaskRequest {
            container_id: id.into(),
        };
        self.tasks_client()
            .resume(request)
            .await
            .map_err(|status| self.failed_on_task("resume", id, &status))?;
        Ok(())
    }

    /// Applies OCI `linux.resources` (JSON) to a running task.
    pub async fn update_task(&self, id: &str, resources: &[u8]) -> Result<(), EngineError> {
        let request = UpdateTaskRequest {
            container_id: id.into(),
            resources: Some(Any {
                type_url: RESOURCES_TYPE.into(),
                value: resources.to_vec(),
            }),
            ..UpdateTaskRequest::default()
        };
        self.tasks_client()
            .update(request)
            .await
            .map_err(|status| self.failed_on_task("update", id, &status))?;
        Ok(())
    }

    /// Processes in the container, host process ids.
    pub async fn task_pids(&self, id: &str) -> Result<Vec<u32>, EngineError> {
        let request = ListPidsRequest {
            container_id: id.into(),
        };
        let answer = self
            .tasks_client()
            .list_pids(request)
            .await
            .map_err(|status| self.failed_on_task("list the processes of", id, &status))?;
        let processes = answer.into_inner().processes;
        Ok(processes.into_iter().map(|process| process.pid).collect())
    }

    pub(super) async fn start_process(&self, id: &str, exec_id: &str) -> Result<u32, EngineError> {
        let request = StartRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
        };
        // "Not found" may be the program that is to run, so containerd's text must stay.
        let answer = self.tasks_client().start(request).await;
        let answer = answer.map_err(|status| {
            self.failed(&format!("start {}", process_name(id, exec_id)), &status)
        })?;
        Ok(answer.into_inner().pid)
    }

    pub(super) async fn wait_process(
        &self,
        id: &str,
        exec_id: &str,
    ) -> Result<ExitStatus, EngineError> {
        let request = WaitRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
        };
        let answer = self.tasks_client().wait(request).await;
        let answer = answer.map_err(|status| {
            let what = process_name(id, exec_id);
            self.failed_on(&format!("wait for {what}"), &what, &status)
        })?;
        let answer = answer.into_inner();
        Ok(exit_status(answer.exit_status, answer.exited_at.as_ref()))
    }

    pub(super) async fn kill_process(
        &self,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), EngineError> {
        let request = KillRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            signal,
            all,
        };
        match self.tasks_client().kill(request).await {
            Ok(_empty) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => {
                let what = process_name(id, exec_id);
                Err(self.failed(&format!("send signal {signal} to {what}"), &status))
            }
        }
    }

    fn failed_on_task(&self, verb: &str, id: &str, status: &tonic::Status) -> EngineError {
        let what = format!("task `{id}`");
        self.failed_on(&format!("{verb} {what}"), &what, status)
    }
}

impl Stdio {
    /// Input, output and errors as the shim takes them: it knows "nothing at all", but not "no errors only".
    pub(super) fn paths(&self) -> [String; 3] {
        let [stdin, mut stdout, mut stderr] = [&self.stdin, &self.stdout, &self.stderr]
            .map(|path| path.to_string_lossy().into_owned());
        if !self.terminal
            && [&stdin, &stdout, &stderr]
                .iter()
                .any(|path| !path.is_empty())
        {
            for output in [&mut stdout, &mut stderr] {
                if output.is_empty() {
                    *output = "/dev/null".into();
                }
            }
        }
        [stdin, stdout, stderr]
    }
}

fn process_name(id: &str, exec_id: &str) -> String {
    if exec_id.is_empty() {
        format!("task `{id}`")
    } else {
        format!("process `{exec_id}` of task `{id}`")
    }
}

pub(super) fn exit_status(code: u32, at: Option<&prost_types::Timestamp>) -> ExitStatus {
    ExitStatus {
        code,
        at: at
            .and_then(super::to_timestamp)
            .unwrap_or_else(Timestamp::now),
    }
}

fn from_process(process: Process) -> TaskRecord {
    let status = match ProcessStatus::try_from(process.status) {
        Ok(ProcessStatus::Created) => TaskStatus::Created,
        Ok(ProcessStatus::Running) => TaskStatus::Running,
        Ok(ProcessStatus::Stopped) => TaskStatus::Stopped,
        Ok(ProcessStatus::Paused) => TaskStatus::Paused,
        Ok(ProcessStatus::Pausing) => TaskStatus::Pausing,
        Ok(ProcessStatus::Unknown) | Err(_) => TaskStatus::Unknown,
    };
    TaskRecord {
        // Either may be empty, depending on the call and the version.
        id: if process.container_id.is_empty() {
            process.id
        } else {
            process.container_id
        },
        pid: process.pid,
        status,
        exit_code: process.exit_status,
        exited_at: process.exited_at.as_ref().and_then(super::to_timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_never_ended_has_no_exit_time() {
        let record = from_process(Process {
            id: "a".into(),
            status: ProcessStatus::Running.into(),
            // Go's zero time.
            exited_at: Some(prost_types::Timestamp {
                seconds: -62_135_596_800,
                nanos: 0,
            }),
            ..Process::default()
        });
        assert_eq!(record.id, "a");
        assert_eq!(record.status, TaskStatus::Running);
        assert_eq!(record.exited_at, None);
    }

    #[test]
    fn a_single_missing_output_is_dev_null() {
        let stdio = Stdio {
            stdout: "/f".into(),
            ..Stdio::default()
        };
        assert_eq!(stdio.paths(), ["", "/f", "/dev/null"]);
        assert_eq!(Stdio::default().paths(), ["", "", ""]);
        let terminal = Stdio {
            terminal: true,
            ..stdio
        };
        assert_eq!(terminal.paths(), ["", "/f", ""]);
    }

    #[test]
    fn runtime_options_have_the_numbers_of_the_shim() {
        let options = RuncOptions {
            binary_name: "crun".into(),
            systemd_cgroup: true,
        };
        assert_eq!(options.encode_to_vec(), b"\x32\x04crun\x48\x01");
    }
}
