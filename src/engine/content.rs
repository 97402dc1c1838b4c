//! The content store: blobs by digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    AbortRequest, Info, InfoRequest, ReadContentRequest, ReadContentResponse, StatusRequest,
    UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use prost_types::FieldMask;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::connect::{Api, MESSAGE_LIMIT};
use super::{Engine, EngineError};

/// Bytes in one write; well under containerd's message limit.
const CHUNK: u64 = 1 << 20;
/// How long to wait for another writer of the same blob.
const LOCKED_TIMEOUT: Duration = Duration::from_mins(5);
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// A reference to a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    /// As `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// Where the bytes of a new blob come from.
#[derive(Clone, Debug)]
pub enum ContentSource {
    Bytes(Arc<[u8]>),
    /// The bytes of a file from `offset` on.
    File {
        file: Arc<File>,
        offset: u64,
    },
}

impl ContentSource {
    /// `length` bytes from `from` on; an error if there are fewer.
    async fn read(&self, from: u64, length: usize) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => {
                let start = usize::try_from(from).unwrap_or(usize::MAX);
                let end = start.saturating_add(length);
                let part = bytes.get(start..end);
                let part = part.ok_or(std::io::ErrorKind::UnexpectedEof)?;
                Ok(part.to_vec())
            }
            Self::File { file, offset } => {
                let file = Arc::clone(file);
                let start = offset.saturating_add(from);
                tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; length];
                    file.read_exact_at(&mut buffer, start)?;
                    Ok(buffer)
                })
                .await?
            }
        }
    }
}

/// Why one attempt to write a blob ended.
enum WriteFailure {
    Status(Status),
    Source(std::io::Error),
}

impl From<Status> for WriteFailure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Engine {
    /// Size in bytes of a blob; `None` if it is not there.
    pub async fn content_size(&self, digest: &str) -> Result<Option<u64>, EngineError> {
        let info = self.content_info(digest).await?;
        Ok(info.map(|info| u64::try_from(info.size).unwrap_or(0)))
    }

    /// Labels of a blob; `None` if it is not there.
    pub async fn content_labels(
        &self,
        digest: &str,
    ) -> Result<Option<BTreeMap<String, String>>, EngineError> {
        let info = self.content_info(digest).await?;
        Ok(info.map(|info| info.labels.into_iter().collect()))
    }

    async fn content_info(&self, digest: &str) -> Result<Option<Info>, EngineError> {
        let request = InfoRequest {
            digest: digest.into(),
        };
        match content_client(self.api()).info(request).await {
            Ok(answer) => Ok(Some(answer.into_inner().info.unwrap_or_default())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.failed(&format!("look up blob `{digest}`"), &status)),
        }
    }

    /// At most `limit` bytes of a blob from `offset` on; `None` if it is not there.
    pub async fn read_content(
        &self,
        digest: &str,
        offset: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let failed = |status: Status| match status.code() {
            Code::NotFound => Ok(None),
            _ => Err(self.failed(&format!("read blob `{digest}`"), &status)),
        };
        let request = ReadContentRequest {
            digest: digest.into(),
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            // Zero would mean everything; an overlong size is cut to the blob's.
            size: 0,
        };
        let mut stream = match content_client(self.api()).read(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return failed(status),
        };
        let mut bytes = Vec::new();
        while bytes.len() < limit {
            match stream.message().await {
                Ok(Some(message)) => bytes.extend_from_slice(&message.data),
                Ok(None) => break,
                Err(status) => return failed(status),
            }
        }
        bytes.truncate(limit);
        Ok(Some(bytes))
    }

    /// Stores a blob under `descriptor.digest`, which containerd checks. What an interrupted attempt has written is
    /// kept; another writer of the same blob is waited for; a blob that is there already is put under the lease.
    pub async fn write_content(
        &self,
        descriptor: &Descriptor,
        source: &ContentSource,
        labels: &BTreeMap<String, String>,
        lease: Option<&str>,
    ) -> Result<(), EngineError> {
        let digest = &descriptor.digest;
        let operation = format!("store blob `{digest}`");
        let reference = reference(digest);
        let started = Instant::now();
        let mut fresh = false;
        loop {
            let api = self.leased(lease)?;
            match self
                .write_once(api, &reference, descriptor, source, labels)
                .await
            {
                Ok(()) => return Ok(()),
                Err(WriteFailure::Source(error)) => return Err(EngineError::io(operation, error)),
                Err(WriteFailure::Status(status)) => match status.code() {
                    Code::AlreadyExists if labels.is_empty() => return Ok(()),
                    Code::AlreadyExists => return self.label_content(digest, labels).await,
                    Code::Unavailable
                        if std::error::Error::source(&status).is_none()
                            && started.elapsed() < LOCKED_TIMEOUT =>
                    {
                        tokio::time::sleep(LOCKED_PAUSE).await;
                    }
                    // What an earlier attempt left behind may be the bad part: once more from the start.
                    Code::FailedPrecondition | Code::OutOfRange | Code::InvalidArgument => {
                        self.abort_write(&reference).await;
                        if fresh {
                            return Err(self.failed(&operation, &status));
                        }
                        fresh = true;
                    }
                    _ => return Err(self.failed(&operation, &status)),
                },
            }
        }
    }

    async fn write_once(
        &self,
        api: Api,
        reference: &str,
        descriptor: &Descriptor,
        source: &ContentSource,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), WriteFailure> {
        let mut stream = WriteStream::open(api, reference, descriptor).await?;
        while stream.offset < descriptor.size {
            let length = CHUNK.min(descriptor.size - stream.offset);
            let data = source
                .read(stream.offset, usize::try_from(length).unwrap_or(usize::MAX))
                .await
                .map_err(WriteFailure::Source)?;
            stream.write(data).await?;
        }
        stream.commit(labels).await?;
        Ok(())
    }

    /// Begins or goes on with writing a blob piece by piece. What is written stays for a day if the blob does not get
    /// whole, whatever becomes of leases; the blob itself must be put under one with [`Engine::hold_content`] before.
    /// Waits for another writer of the same blob as long as that gets on.
    pub async fn open_content(&self, descriptor: &Descriptor) -> Result<OpenContent, EngineError> {
        let reference = reference(&descriptor.digest);
        let mut waited = (Instant::now(), None);
        loop {
            let opened = WriteStream::open(self.api(), &reference, descriptor).await;
            let status = match opened {
                Ok(stream) if stream.offset <= descriptor.size => {
                    return Ok(OpenContent::Writer(Box::new(ContentWriter {
                        engine: self.clone(),
                        stream,
                        operation: format!("store blob `{}`", descriptor.digest),
                    })));
                }
                Ok(_overlong) => {
                    self.abort_write(&reference).await;
                    continue;
                }
                Err(status) => status,
            };
            match status.code() {
                Code::AlreadyExists => return Ok(OpenContent::Exists),
                Code::Unavailable
                    if std::error::Error::source(&status).is_none()
                        && waited.0.elapsed() < LOCKED_TIMEOUT =>
                {
                    let progress = self.written(&reference).await;
                    if progress != waited.1 {
                        waited = (Instant::now(), progress);
                    }
                    tokio::time::sleep(LOCKED_PAUSE).await;
                }
                _ => {
                    let operation = format!("store blob `{}`", descriptor.digest);
                    return Err(self.failed(&operation, &status));
                }
            }
        }
    }

    /// Bytes that another writer has written so far.
    async fn written(&self, reference: &str) -> Option<i64> {
        let request = StatusRequest {
            r#ref: reference.into(),
        };
        let answer = content_client(self.api()).status(request).await.ok()?;
        Some(answer.into_inner().status?.offset)
    }

    /// The bytes of a blob from its start on, piece by piece, as they are asked for.
    pub async fn stream_content(&self, digest: &str) -> Result<ContentReader, EngineError> {
        let operation = format!("read blob `{digest}`");
        let request = ReadContentRequest {
            digest: digest.into(),
            offset: 0,
            size: 0,
        };
        let answer = content_client(self.api()).read(request).await;
        let answer = answer.map_err(|status| self.failed(&operation, &status))?;
        Ok(ContentReader {
            engine: self.clone(),
            stream: answer.into_inner(),
            operation,
        })
    }

    async fn abort_write(&self, reference: &str) {
        let request = AbortRequest {
            r#ref: reference.into(),
        };
        if let Err(status) = content_client(self.api()).abort(request).await {
            tracing::debug!(reference, %status, "an unfinished write stays");
        }
    }

    /// Adds labels to a blob.
    pub async fn label_content(
        &self,
        digest: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), EngineError> {
        let request = UpdateRequest {
            info: Some(Info {
                digest: digest.into(),
                labels: super::to_map(labels),
                ..Info::default()
            }),
            update_mask: Some(FieldMask {
                paths: labels.keys().map(|name| format!("labels.{name}")).collect(),
            }),
        };
        let what = format!("blob `{digest}`");
        content_client(self.api())
            .update(request)
            .await
            .map_err(|status| self.failed_on(&format!("label {what}"), &what, &status))?;
        Ok(())
    }
}

/// A blob that is to be written.
#[derive(Debug)]
pub enum OpenContent {
    /// It is there already.
    Exists,
    Writer(Box<ContentWriter>),
}

/// A blob that is being written. Dropping it keeps what it has, for whoever goes on.
#[derive(Debug)]
pub struct ContentWriter {
    engine: Engine,
    stream: WriteStream,
    operation: String,
}

impl ContentWriter {
    /// Bytes that are there already.
    pub fn offset(&self) -> u64 {
        self.stream.offset
    }

    /// Adds bytes; at most a few megabytes at once.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<(), EngineError> {
        let written = self.stream.write(data).await;
        written.map_err(|status| self.engine.failed(&self.operation, &status))
    }

    /// Ends the blob and gives it `labels`. False: it is not what it was announced as, and is dropped.
    pub async fn commit(mut self, labels: &BTreeMap<String, String>) -> Result<bool, EngineError> {
        match self.stream.commit(labels).await {
            Ok(()) => Ok(true),
            Err(status) => match status.code() {
                Code::AlreadyExists => Ok(true),
                Code::FailedPrecondition | Code::OutOfRange | Code::InvalidArgument => {
                    self.discard().await;
                    Ok(false)
                }
                _ => Err(self.engine.failed(&self.operation, &status)),
            },
        }
    }

    /// Drops what was written.
    pub async fn discard(self) {
        let Self { engine, stream, .. } = self;
        let reference = stream.reference.clone();
        drop(stream);
        engine.abort_write(&reference).await;
    }
}

/// A blob that is being read.
#[derive(Debug)]
pub struct ContentReader {
    engine: Engine,
    stream: Streaming<ReadContentResponse>,
    operation: String,
}

impl ContentReader {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        let message = self.stream.message().await;
        let message = message.map_err(|status| self.engine.failed(&self.operation, &status))?;
        Ok(message.map(|message| message.data))
    }
}

/// containerd's end of a write, and how far it is.
#[derive(Debug)]
struct WriteStream {
    sender: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    reference: String,
    expected: String,
    total: i64,
    offset: u64,
}

impl WriteStream {
    async fn open(api: Api, reference: &str, descriptor: &Descriptor) -> Result<Self, Status> {
        let total = i64::try_from(descriptor.size)
            .map_err(|_large| Status::invalid_argument("the blob is too large"))?;
        let (sender, receiver) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.into(),
            total,
            expected: descriptor.digest.clone(),
            ..WriteContentRequest::default()
        };
        // The answer below tells why containerd hung up; so it is with all that is sent.
        let _hung_up = sender.send(first).await;
        let answers = content_client(api)
            .write(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let mut stream = Self {
            sender,
            answers,
            reference: reference.into(),
            expected: descriptor.digest.clone(),
            total,
            offset: 0,
        };
        stream.offset = u64::try_from(stream.answer().await?.offset).unwrap_or(0);
        Ok(stream)
    }

    fn request(&self, action: WriteAction) -> WriteContentRequest {
        WriteContentRequest {
            action: action.into(),
            r#ref: self.reference.clone(),
            total: self.total,
            expected: self.expected.clone(),
            offset: i64::try_from(self.offset).unwrap_or(self.total),
            ..WriteContentRequest::default()
        }
    }

    async fn write(&mut self, data: Vec<u8>) -> Result<(), Status> {
        let length = data.len() as u64;
        let request = WriteContentRequest {
            data,
            ..self.request(WriteAction::Write)
        };
        let _hung_up = self.sender.send(request).await;
        self.answer().await?;
        self.offset += length;
        Ok(())
    }

    async fn commit(&mut self, labels: &BTreeMap<String, String>) -> Result<(), Status> {
        let request = WriteContentRequest {
            labels: super::to_map(labels),
            ..self.request(WriteAction::Commit)
        };
        let _hung_up = self.sender.send(request).await;
        self.answer().await?;
        Ok(())
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        let ended = || Status::aborted("containerd ended the write");
        self.answers.message().await?.ok_or_else(ended)
    }
}

/// The name under which the unfinished blob is kept.
fn reference(digest: &str) -> String {
    format!("compose-{digest}")
}

fn content_client(api: Api) -> ContentClient<Api> {
    ContentClient::new(api)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

impl From<&Descriptor> for containerd_client::types::Descriptor {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.clone(),
            size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
            ..Self::default()
        }
    }
}

impl From<containerd_client::types::Descriptor> for Descriptor {
    fn from(message: containerd_client::types::Descriptor) -> Self {
        Self {
            media_type: message.media_type,
            digest: message.digest,
            size: u64::try_from(message.size).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_that_is_too_short_is_an_error() {
        let source = ContentSource::Bytes(Arc::from(*b"abc"));
        assert_eq!(source.read(1, 2).await.unwrap(), b"bc");
        assert!(source.read(2, 2).await.is_err());
        assert!(source.read(u64::MAX, 2).await.is_err());
    }
}
