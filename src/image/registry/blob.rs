//! Reading a blob, over broken connections.

use std::sync::Arc;

use reqwest::header::RANGE;
use reqwest::{Method, Response, StatusCode};

use super::host::Host;
use super::hosts::Capability;
use super::patience::Patience;
use super::{Call, Failures, Registry, RegistryError, pull_scope};
use crate::engine::Descriptor;
use crate::image::name::Reference;

/// A connection that brings less than this counts as one that brings nothing: many of them must come to an end.
const WORTHWHILE: u64 = 256 << 10;

/// A blob that is being read from some byte on. What it gives is not verified: whoever stores it does that.
#[derive(Debug)]
pub(in crate::image) struct BlobReader {
    registry: Arc<Registry>,
    name: Reference,
    size: u64,
    digest: String,
    /// Elsewhere it may be had, too: `urls` of a layer that registries must not distribute.
    urls: Vec<String>,
    offset: u64,
    source: Option<Source>,
    patience: Patience,
    /// Bytes since `patience` was last renewed.
    gained: u64,
}

/// An answer that is being read.
#[derive(Debug)]
struct Source {
    host: Arc<Host>,
    response: Response,
    /// Bytes at its beginning that are here already.
    skip: u64,
}

impl BlobReader {
    pub(in crate::image) fn new(
        registry: Arc<Registry>,
        name: Reference,
        blob: &Descriptor,
        urls: Vec<String>,
        offset: u64,
    ) -> Self {
        Self {
            registry,
            name,
            size: blob.size,
            digest: blob.digest.clone(),
            urls,
            offset,
            source: None,
            patience: Patience::default(),
            gained: 0,
        }
    }

    /// The next bytes; `None` when all are there. After a broken connection it goes on where that ended, as long as
    /// each new one brings something.
    pub(in crate::image) async fn next(&mut self) -> Result<Option<Vec<u8>>, RegistryError> {
        while self.offset < self.size {
            let source = match self.source.take() {
                Some(source) => source,
                None => self.open().await?,
            };
            if let Some(bytes) = self.read(source).await? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Who sends wrong bytes is not asked again before the others.
    pub(in crate::image) async fn distrust(&self) -> RegistryError {
        let hosts = self.registry.able(&self.name.registry, Capability::Pull);
        let first = hosts.await.ok().and_then(|hosts| hosts.first().cloned());
        let host = match (&self.source, first) {
            (Some(source), _) => Some(Arc::clone(&source.host)),
            (None, first) => first,
        };
        if let Some(host) = &host {
            host.avoid();
        }
        RegistryError::WrongContent {
            host: host.map_or_else(String::new, |host| host.name().to_owned()),
            digest: self.digest.clone(),
        }
    }

    async fn open(&mut self) -> Result<Source, RegistryError> {
        let mut failed = Failures::default();
        let hosts = self.registry.able(&self.name.registry, Capability::Pull);
        let hosts = hosts.await?;
        let path = format!("{}/blobs/{}", self.name.repository, self.digest);
        for host in &hosts {
            if failed.rules_out(host) {
                continue;
            }
            match self.open_at(host, &path).await {
                Ok(source) => return Ok(source),
                Err(error) => failed.add(host, error),
            }
        }
        let error = failed.error();
        if let (true, Some(host)) = (error.is_not_found(), hosts.last()) {
            // The registry's own settings are not for strangers, and a redirect is to one.
            for url in self.urls.iter().filter(|url| url.starts_with("https://")) {
                if let Ok(source) = self.open_at(host, url).await {
                    return Ok(source);
                }
            }
        }
        Err(error)
    }

    async fn open_at(&self, host: &Arc<Host>, path: &str) -> Result<Source, RegistryError> {
        let scope = pull_scope(&self.name);
        let mut call = Call::new(Method::GET, path, &scope);
        if self.offset > 0 {
            call = call.header(RANGE, &format!("bytes={}-", self.offset));
        }
        let response = self.registry.call(host, &call).await?;
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if self.offset > 0 => 0,
            // It knows no ranges and begins at the beginning.
            StatusCode::OK => self.offset,
            _ => {
                let what = format!("blob {}", self.digest);
                return Err(self
                    .registry
                    .refusal(host, response, &self.name, &what)
                    .await);
            }
        };
        Ok(Source {
            host: Arc::clone(host),
            response,
            skip,
        })
    }

    /// Bytes of the answer that are new; `None`: it has ended and another must be asked for.
    async fn read(&mut self, mut source: Source) -> Result<Option<Vec<u8>>, RegistryError> {
        loop {
            let broken = match source.response.chunk().await {
                Ok(Some(part)) => {
                    let skipped = source.skip.min(part.len() as u64);
                    source.skip -= skipped;
                    let new = &part[usize::try_from(skipped).unwrap_or(part.len())..];
                    if new.is_empty() {
                        continue;
                    }
                    let bytes = new.to_vec();
                    self.offset += bytes.len() as u64;
                    self.gained += bytes.len() as u64;
                    if self.gained >= WORTHWHILE {
                        self.gained = 0;
                        self.patience.renew();
                    }
                    if self.offset > self.size {
                        source.host.avoid();
                        return Err(RegistryError::WrongContent {
                            host: source.host.name().into(),
                            digest: self.digest.clone(),
                        });
                    }
                    self.source = Some(source);
                    return Ok(Some(bytes));
                }
                Ok(None) => RegistryError::Cut {
                    host: source.host.name().into(),
                    done: self.offset,
                    size: self.size,
                },
                Err(error) => {
                    let host = source.host.name();
                    tracing::debug!(host, %error, "a connection broke");
                    RegistryError::Cut {
                        host: host.into(),
                        done: self.offset,
                        size: self.size,
                    }
                }
            };
            self.patience.wait(broken, None).await?;
            return Ok(None);
        }
    }
}
