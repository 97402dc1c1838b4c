//! Writing to a registry.

use std::io;
use std::sync::Arc;

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::host::Host;
use super::hosts::Capability;
use super::patience::Patience;
use super::{Call, DIGEST_HEADER, Failures, Registry, RegistryError, is_passing, text_header};
use crate::engine::Descriptor;
use crate::image::name::Reference;

/// Pieces of a blob that are read ahead.
const AHEAD: usize = 2;

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image) enum Stored {
    Present,
    /// Taken over from another repository of the registry.
    Mounted,
    Uploaded,
}

/// A repository that is written to.
#[derive(Clone, Debug)]
pub(in crate::image) struct Upload {
    registry: Arc<Registry>,
    host: Arc<Host>,
    name: Reference,
    scope: String,
}

/// Sends the pieces of a blob; ends early if nobody wants them any more.
pub(in crate::image) type Pieces = mpsc::Receiver<Result<Vec<u8>, io::Error>>;
/// The sending end of [`Pieces`], with room for what is read ahead.
pub(in crate::image) fn pieces() -> (mpsc::Sender<Result<Vec<u8>, io::Error>>, Pieces) {
    mpsc::channel(AHEAD)
}

impl Upload {
    /// Finds the server that takes images of `name`'s registry.
    pub(in crate::image) async fn open(
        registry: &Arc<Registry>,
        name: &Reference,
    ) -> Result<Self, RegistryError> {
        let scope = format!("repository:{}:pull,push", name.repository);
        let mut failed = Failures::default();
        for host in registry.able(&name.registry, Capability::Push).await? {
            if failed.rules_out(&host) {
                continue;
            }
            let upload = Self {
                registry: Arc::clone(registry),
                host: Arc::clone(&host),
                name: name.clone(),
                scope: scope.clone(),
            };
            // Asked for the base, it says whether it is there and takes our credentials.
            let call = Call::new(Method::GET, "", &scope);
            let error = match registry.call(&host, &call).await {
                Ok(response) if response.status().is_success() => return Ok(upload),
                Ok(response) => upload.refusal(response, "API of version 2").await,
                Err(error) => error,
            };
            failed.add(&host, error);
        }
        Err(failed.error())
    }

    async fn refusal(&self, response: Response, what: &str) -> RegistryError {
        let registry = &self.registry;
        registry
            .refusal(&self.host, response, &self.name, what)
            .await
    }

    async fn has(&self, digest: &str) -> Result<bool, RegistryError> {
        let path = format!("{}/blobs/{digest}", self.name.repository);
        let call = Call::new(Method::HEAD, &path, &self.scope);
        let response = self.registry.call(&self.host, &call).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal(response, "repository").await),
        }
    }

    /// Brings a blob there, if it is not there already. `sources`: repositories of the same registry that may have it.
    /// `open` begins to read it, and is called once more for each further attempt.
    pub(in crate::image) async fn store(
        &self,
        blob: &Descriptor,
        sources: &[String],
        open: &(dyn Fn() -> Pieces + Send + Sync),
    ) -> Result<Stored, RegistryError> {
        if self.has(&blob.digest).await? {
            return Ok(Stored::Present);
        }
        let mut others = sources
            .iter()
            .filter(|source| **source != self.name.repository);
        let mut mount = others
            .next()
            .map(|source| (blob.digest.as_str(), source.as_str()));
        let mut patience = Patience::default();
        loop {
            let Some(location) = self.begin(mount.take()).await? else {
                return Ok(Stored::Mounted);
            };
            let error = match self.send(&location, blob, open()).await {
                Ok(response) if response.status() == StatusCode::CREATED => {
                    return Ok(Stored::Uploaded);
                }
                Ok(response) if is_passing(response.status()) => {
                    super::busy(&self.host, response, None).await
                }
                Ok(response) => return Err(self.refusal(response, "upload").await),
                Err(error) if error.is_passing() => error,
                Err(error) => return Err(error),
            };
            patience.wait(error, None).await?;
        }
    }

    /// Begins an upload and returns where to send it; `None`: the blob was taken over from another repository.
    async fn begin(&self, mount: Option<(&str, &str)>) -> Result<Option<Url>, RegistryError> {
        let mut path = format!("{}/blobs/uploads/", self.name.repository);
        let mut scope = self.scope.clone();
        if let Some((digest, source)) = mount {
            path = format!("{path}?mount={digest}&from={source}");
            scope = format!("{scope} repository:{source}:pull");
        }
        let mut call = Call::new(Method::POST, &path, &scope);
        call = call.header(CONTENT_LENGTH, "0");
        let response = self.registry.call(&self.host, &call).await?;
        match response.status() {
            StatusCode::CREATED if mount.is_some() => Ok(None),
            // What cannot be mounted begins an upload like any other.
            StatusCode::ACCEPTED => Ok(Some(self.location(&response)?)),
            // It may not tell us what is in the other repository.
            _ if mount.is_some() => Box::pin(self.begin(None)).await,
            _ => Err(self.refusal(response, "repository").await),
        }
    }

    fn location(&self, response: &Response) -> Result<Url, RegistryError> {
        let to = text_header(response, LOCATION.as_str());
        let base = &self.host.endpoint.base;
        let location = to.and_then(|to| base.join(&to).ok());
        location.ok_or_else(|| RegistryError::Nonsense {
            host: self.host.name().into(),
            reason: "it does not say where to send an upload".into(),
        })
    }

    /// Sends a whole blob in one request.
    async fn send(
        &self,
        location: &Url,
        blob: &Descriptor,
        pieces: Pieces,
    ) -> Result<Response, RegistryError> {
        let mut url = location.clone();
        url.query_pairs_mut().append_pair("digest", &blob.digest);
        let (client, same) = self.registry.client_for(&self.host, &url)?;
        let mut request = client
            .put(url)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(Body::wrap_stream(ReceiverStream::new(pieces)));
        let authorization = self.registry.authorization(&self.host, &self.scope);
        if let Some(authorization) = authorization.filter(|_| same) {
            request = request.header(AUTHORIZATION, authorization.value);
        }
        let sent = request.send().await;
        sent.map_err(|error| RegistryError::from_transport(self.host.name(), error))
    }

    /// Stores an index or a manifest, as `tag` or by its digest.
    pub(in crate::image) async fn publish(
        &self,
        document: &Descriptor,
        bytes: Arc<[u8]>,
        tag: Option<&str>,
    ) -> Result<(), RegistryError> {
        let wanted = tag.unwrap_or(&document.digest);
        let path = format!("{}/manifests/{wanted}", self.name.repository);
        let mut call = Call::new(Method::PUT, &path, &self.scope);
        call = call.header(CONTENT_TYPE, &document.media_type);
        call.body = Some(bytes);
        let response = self.registry.call(&self.host, &call).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response, "place for the manifest").await);
        }
        let stored = text_header(&response, DIGEST_HEADER);
        match stored.filter(|stored| *stored != document.digest) {
            None => Ok(()),
            Some(_other) => Err(RegistryError::WrongContent {
                host: self.host.name().into(),
                digest: document.digest.clone(),
            }),
        }
    }
}
