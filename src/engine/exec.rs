//! Further processes in a running container.

use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, ResizePtyRequest,
};
use prost_types::Any;
use tonic::Code;

use super::{Engine, EngineError, ExitStatus, Stdio};

const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

impl Engine {
    /// `process` is an OCI process, JSON.
    pub async fn create_exec(
        &self,
        id: &str,
        exec_id: &str,
        process: &[u8],
        stdio: &Stdio,
    ) -> Result<(), EngineError> {
        let [stdin, stdout, stderr] = stdio.paths();
        let request = ExecProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            stdin,
            stdout,
            stderr,
            terminal: stdio.terminal,
            spec: Some(Any {
                type_url: PROCESS_TYPE.into(),
                value: process.to_vec(),
            }),
        };
        self.tasks_client().exec(request).await.map_err(|status| {
            let operation = format!("run a process in task `{id}`");
            match status.code() {
                Code::AlreadyExists => {
                    self.failed_on(&operation, &format!("process `{exec_id}`"), &status)
                }
                _ => self.failed_on(&operation, &format!("task `{id}`"), &status),
            }
        })?;
        Ok(())
    }

    pub async fn start_exec(&self, id: &str, exec_id: &str) -> Result<u32, EngineError> {
        self.start_process(id, exec_id).await
    }

    pub async fn wait_exec(&self, id: &str, exec_id: &str) -> Result<ExitStatus, EngineError> {
        self.wait_process(id, exec_id).await
    }

    /// A process that is gone is not an error.
    pub async fn kill_exec(&self, id: &str, exec_id: &str, signal: u32) -> Result<(), EngineError> {
        self.kill_process(id, exec_id, signal, false).await
    }

    /// Not an error if it is gone.
    pub async fn delete_exec(&self, id: &str, exec_id: &str) -> Result<(), EngineError> {
        let request = DeleteProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
        };
        match self.tasks_client().delete_process(request).await {
            Ok(_exit) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(self.failed(&format!("remove process `{exec_id}`"), &status)),
        }
    }

    /// `exec_id` empty: the first process.
    pub async fn resize(
        &self,
        id: &str,
        exec_id: &str,
        columns: u32,
        rows: u32,
    ) -> Result<(), EngineError> {
        let request = ResizePtyRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            width: columns,
            height: rows,
        };
        let what = format!("task `{id}`");
        self.tasks_client()
            .resize_pty(request)
            .await
            .map_err(|status| {
                self.failed_on(&format!("resize the terminal of {what}"), &what, &status)
            })?;
        Ok(())
    }

    /// Ends the input of a process once what is in its FIFO has been read. Not an error if it is gone.
    pub async fn close_stdin(&self, id: &str, exec_id: &str) -> Result<(), EngineError> {
        let request = CloseIoRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            stdin: true,
        };
        match self.tasks_client().close_io(request).await {
            Ok(_empty) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(self.failed(&format!("close the input of task `{id}`"), &status)),
        }
    }
}
