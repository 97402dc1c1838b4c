//! Registries, by the distribution specification: what a tag means, documents, blobs, uploads; mirrors, credentials,
//! patience.

mod blob;
mod challenge;
mod credentials;
mod error;
mod host;
mod hosts;
mod patience;
mod token;
mod upload;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use indexmap::IndexMap;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::config::{DOCUMENT_LIMIT, INDEX_TYPES, MANIFEST_TYPE, digest_of};
use super::name::Reference;
use crate::engine::Descriptor;
use host::{Host, body_text};
use hosts::Capability;
use patience::Patience;
use token::Authorization;

pub use error::RegistryError;

pub(super) use blob::BlobReader;
pub(super) use upload::{Stored, Upload, pieces};

/// Where containerd and Docker keep what is said about registries.
const HOSTS_FOLDERS: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";
/// Names other folders, parted by colons.
const HOSTS_VARIABLE: &str = "COMPOSE_HOSTS_DIR";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DIGEST_HEADER: &str = "docker-content-digest";
const MOST_REDIRECTS: usize = 10;

/// What the user's environment says about registries: `DOCKER_CONFIG`, `HOME`, `PATH` (credential helpers), proxies.
#[derive(Clone, Default)]
pub struct RegistrySettings {
    environment: IndexMap<String, String>,
}

impl std::fmt::Debug for RegistrySettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // An environment may hold secrets.
        f.debug_struct("RegistrySettings").finish_non_exhaustive()
    }
}

impl RegistrySettings {
    pub fn new(environment: IndexMap<String, String>) -> Self {
        Self { environment }
    }

    /// A variable that is set to something.
    fn variable(&self, name: &str) -> Option<&str> {
        let value = self.environment.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    fn folders(&self) -> Vec<PathBuf> {
        let folders = self.variable(HOSTS_VARIABLE).unwrap_or(HOSTS_FOLDERS);
        std::env::split_paths(folders).collect()
    }
}

/// Servers that have images of a registry, best first.
type Hosts = Arc<Vec<Arc<Host>>>;
/// A reference, and the platform that is wanted of it.
type Wish = (String, Option<String>);

/// Access to all registries for one request of the user: settings and tokens live as long.
#[derive(Debug)]
pub struct Registry {
    settings: RegistrySettings,
    hosts: Mutex<HashMap<String, Hosts>>,
    tokens: Mutex<HashMap<(String, String), Authorization>>,
    plain: OnceLock<Client>,
    /// What was looked up, so that planning and pulling see the same.
    pub(super) known: Mutex<HashMap<Wish, Arc<super::Remote>>>,
}

/// What is asked of a server.
struct Call<'a> {
    method: Method,
    /// Below the endpoint, as `library/busybox/manifests/latest`; or a whole address of the same server.
    path: &'a str,
    scope: &'a str,
    headers: HeaderMap,
    /// Sent again with every attempt.
    body: Option<Arc<[u8]>>,
}

impl<'a> Call<'a> {
    fn new(method: Method, path: &'a str, scope: &'a str) -> Self {
        Self {
            method,
            path,
            scope,
            headers: HeaderMap::new(),
            body: None,
        }
    }

    fn header(mut self, name: reqwest::header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

impl Registry {
    pub fn new(settings: RegistrySettings) -> Self {
        Self {
            settings,
            hosts: Mutex::default(),
            tokens: Mutex::default(),
            plain: OnceLock::new(),
            known: Mutex::default(),
        }
    }

    /// Servers to ask for images of `registry`, best first.
    async fn hosts(&self, registry: &str) -> Result<Hosts, RegistryError> {
        let known = || locked(&self.hosts).get(registry).cloned();
        if let Some(hosts) = known() {
            return Ok(hosts);
        }
        let (folders, name) = (self.settings.folders(), registry.to_owned());
        let read = tokio::task::spawn_blocking(move || hosts::endpoints(&folders, &name));
        let endpoints = read.await.map_err(|error| RegistryError::Settings {
            path: registry.into(),
            message: error.to_string(),
        })??;
        let hosts: Vec<Arc<Host>> = endpoints
            .into_iter()
            .map(|endpoint| Arc::new(Host::new(endpoint, &self.settings)))
            .collect();
        let mut all = locked(&self.hosts);
        Ok(Arc::clone(
            all.entry(registry.to_owned())
                .or_insert_with(|| Arc::new(hosts)),
        ))
    }

    /// Those of [`Registry::hosts`] that can do what is wanted; those that failed before come last.
    async fn able(
        &self,
        registry: &str,
        capability: Capability,
    ) -> Result<Vec<Arc<Host>>, RegistryError> {
        let hosts = self.hosts(registry).await?;
        let mut able: Vec<Arc<Host>> = hosts
            .iter()
            .filter(|host| host.endpoint.can(capability))
            .cloned()
            .collect();
        able.sort_by_key(|host| host.is_avoided());
        if able.is_empty() {
            return Err(RegistryError::Settings {
                path: registry.into(),
                message: format!(
                    "no server in its hosts.toml has the capability `{}`",
                    format!("{capability:?}").to_lowercase()
                ),
            });
        }
        Ok(able)
    }

    fn plain_client(&self) -> Result<&Client, RegistryError> {
        if let Some(client) = self.plain.get() {
            return Ok(client);
        }
        let client = host::plain_client(&self.settings)?;
        Ok(self.plain.get_or_init(|| client))
    }

    fn authorization(&self, host: &Host, scope: &str) -> Option<Authorization> {
        let key = (host.endpoint.base.to_string(), scope.to_owned());
        let known = locked(&self.tokens).get(&key).cloned();
        known.filter(Authorization::is_fresh)
    }

    fn remember(&self, host: &Host, scope: &str, authorization: Authorization) {
        let key = (host.endpoint.base.to_string(), scope.to_owned());
        locked(&self.tokens).insert(key, authorization);
    }

    /// What a tag of `name` points to now, by asking for no more than its head.
    pub(super) async fn resolve(&self, name: &Reference) -> Result<Descriptor, RegistryError> {
        let mut failed = Failures::default();
        for host in self.able(&name.registry, Capability::Resolve).await? {
            if failed.rules_out(&host) {
                continue;
            }
            match self.resolve_at(&host, name).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => failed.add(&host, error),
            }
        }
        Err(failed.error())
    }

    async fn resolve_at(&self, host: &Host, name: &Reference) -> Result<Descriptor, RegistryError> {
        let wanted = wanted_of(name);
        let path = format!("{}/manifests/{wanted}", name.repository);
        let scope = pull_scope(name);
        let call = Call::new(Method::HEAD, &path, &scope).header(ACCEPT, &accepted());
        let response = self.call(host, &call).await?;
        // Some servers know no HEAD, or leave the digest out.
        let digest = text_header(&response, DIGEST_HEADER).filter(|digest| is_digest(digest));
        let size = response
            .headers()
            .get(reqwest::header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        if response.status().is_success()
            && let (Some(digest), Some(size)) = (digest, size)
        {
            return Ok(Descriptor {
                media_type: media_type(&response),
                digest,
                size,
            });
        }
        if response.status() == StatusCode::NOT_FOUND {
            // A body comes only with GET, and here it would say no more.
            return Err(self
                .refusal(host, response, name, &manifest_words(&wanted))
                .await);
        }
        Ok(self.document_at(host, name, &wanted).await?.0)
    }

    /// An index or a manifest, by tag or digest. Its digest is that of the bytes.
    pub(super) async fn document(
        &self,
        name: &Reference,
        wanted: &str,
    ) -> Result<(Descriptor, Arc<[u8]>), RegistryError> {
        let capability = if is_digest(wanted) {
            Capability::Pull
        } else {
            Capability::Resolve
        };
        let mut failed = Failures::default();
        for host in self.able(&name.registry, capability).await? {
            if failed.rules_out(&host) {
                continue;
            }
            match self.document_at(&host, name, wanted).await {
                Ok(found) => return Ok(found),
                Err(error) => failed.add(&host, error),
            }
        }
        Err(failed.error())
    }

    async fn document_at(
        &self,
        host: &Host,
        name: &Reference,
        wanted: &str,
    ) -> Result<(Descriptor, Arc<[u8]>), RegistryError> {
        let path = format!("{}/manifests/{wanted}", name.repository);
        let scope = pull_scope(name);
        let call = Call::new(Method::GET, &path, &scope).header(ACCEPT, &accepted());
        let mut patience = Patience::default();
        loop {
            let response = self.call(host, &call).await?;
            if !response.status().is_success() {
                let what = manifest_words(wanted);
                return Err(self.refusal(host, response, name, &what).await);
            }
            let media_type = media_type(&response);
            let announced = text_header(&response, DIGEST_HEADER);
            let bytes = match whole(host, response).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    patience.wait(error, None).await?;
                    continue;
                }
            };
            let digest = digest_of(&bytes);
            let expected = if is_digest(wanted) {
                Some(wanted.to_owned())
            } else {
                announced
            };
            let expected = expected.filter(|expected| expected.starts_with("sha256:"));
            if let Some(expected) = expected.filter(|expected| *expected != digest) {
                host.avoid();
                return Err(RegistryError::WrongContent {
                    host: host.name().into(),
                    digest: expected,
                });
            }
            let descriptor = Descriptor {
                media_type,
                digest,
                size: bytes.len() as u64,
            };
            return Ok((descriptor, bytes.into()));
        }
    }

    /// One call with patience: what passes is tried again, credentials are brought where they are asked for.
    async fn call(&self, host: &Host, call: &Call<'_>) -> Result<Response, RegistryError> {
        let mut patience = Patience::default();
        let mut asked = false;
        loop {
            let authorization = self.authorization(host, call.scope);
            let response = match self.send(host, call, authorization.as_ref()).await {
                Ok(response) => response,
                Err(error) if error.is_passing() => {
                    patience.wait(error, None).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && !asked {
                asked = true;
                if self.authorize(host, call.scope, response.headers()).await? {
                    continue;
                }
                return Ok(response);
            }
            if !is_passing(status) {
                return Ok(response);
            }
            let wait = patience::retry_after(response.headers());
            let error = busy(host, response, wait).await;
            patience.wait(error, wait).await?;
        }
    }

    /// One exchange, redirects followed.
    async fn send(
        &self,
        host: &Host,
        call: &Call<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RegistryError> {
        let nonsense = |reason: &str| RegistryError::Nonsense {
            host: host.name().into(),
            reason: reason.into(),
        };
        let mut url = if call.path.contains("://") {
            Url::parse(call.path).map_err(|_| nonsense("it redirects to no address"))?
        } else {
            let base = host.endpoint.base.as_str().trim_end_matches('/');
            let whole = format!("{base}/{}", call.path);
            Url::parse(&whole).map_err(|_| nonsense("its address is none"))?
        };
        if let Some(namespace) = &host.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        for _ in 0..MOST_REDIRECTS {
            let (client, same) = self.client_for(host, &url)?;
            let mut request = client.request(call.method.clone(), url.clone());
            request = request.headers(call.headers.clone());
            if let Some(authorization) = authorization.filter(|_| same) {
                request = request.header(AUTHORIZATION, authorization.value.clone());
            }
            if let Some(body) = &call.body {
                request = request.body(body.to_vec());
            }
            let response = request
                .send()
                .await
                .map_err(|error| RegistryError::from_transport(&host_of(&url), error))?;
            let follows = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let location = response.headers().get(LOCATION);
            let Some(location) = location.filter(|_| follows && call.body.is_none()) else {
                return Ok(response);
            };
            let location = location.to_str().ok().and_then(|to| url.join(to).ok());
            let next = location.ok_or_else(|| nonsense("it redirects to no address"))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(nonsense("it redirects to an address without TLS"));
            }
            url = next;
        }
        Err(nonsense("it redirects without end"))
    }

    /// The client for an address that `host` gave, and whether that is on `host` itself. Elsewhere neither credentials
    /// nor what is said about the host counts.
    fn client_for<'a>(
        &'a self,
        host: &'a Host,
        url: &Url,
    ) -> Result<(&'a Client, bool), RegistryError> {
        let base = &host.endpoint.base;
        if url.origin() == base.origin() {
            Ok((host.client()?, true))
        } else {
            Ok((self.plain_client()?, false))
        }
    }

    /// What a failed answer means.
    async fn refusal(
        &self,
        host: &Host,
        response: Response,
        name: &Reference,
        what: &str,
    ) -> RegistryError {
        let status = response.status();
        let refused = self.is_personal(host, &pull_scope(name));
        let message = body_text(response).await;
        let (host, repository) = (host.name().to_owned(), name.repository.clone());
        match status {
            // It speaks TLS, and says so without.
            StatusCode::BAD_REQUEST if message.contains("HTTPS server") => {
                RegistryError::Connection {
                    host,
                    source: "it speaks TLS only".into(),
                }
            }
            StatusCode::UNAUTHORIZED => RegistryError::Unauthorized {
                host,
                repository,
                refused,
                message,
            },
            StatusCode::FORBIDDEN => RegistryError::Denied {
                host,
                repository,
                refused,
                message,
            },
            StatusCode::NOT_FOUND => RegistryError::NotFound {
                host,
                what: what.into(),
                message,
            },
            status => RegistryError::Status {
                host,
                status: status.as_u16(),
                message,
            },
        }
    }
}

/// What went wrong with one server after the other.
#[derive(Default)]
struct Failures {
    failures: Vec<(String, RegistryError)>,
}

impl Failures {
    fn add(&mut self, host: &Host, error: RegistryError) {
        if error.is_outage() {
            host.avoid();
        }
        tracing::debug!(host = host.name(), %error, "a registry failed");
        if host.endpoint.is_second_try {
            // That the other scheme was wrong is no news then.
            self.failures.pop();
        }
        self.failures.push((host.endpoint.base.to_string(), error));
    }

    /// Whether `host` need not be asked any more: it is the same server as the one before, which has answered.
    fn rules_out(&self, host: &Host) -> bool {
        let spoke = !matches!(
            self.failures.last(),
            None | Some((_, RegistryError::Connection { .. }))
        );
        host.endpoint.is_second_try && spoke
    }

    /// The last one counts: it is that of the registry itself.
    fn error(mut self) -> RegistryError {
        let last = self.failures.pop();
        let mirrors: Vec<String> = self
            .failures
            .into_iter()
            .map(|(base, error)| format!("{base}: {error}"))
            .collect();
        match last {
            Some((_, last)) if mirrors.is_empty() => last,
            Some((_, last)) => RegistryError::AfterMirrors {
                last: Box::new(last),
                mirrors,
            },
            None => RegistryError::Nonsense {
                host: String::new(),
                reason: "there is no server to ask".into(),
            },
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The digest where there is one, else the tag.
fn wanted_of(name: &Reference) -> String {
    let wanted = name.digest.as_ref().or(name.tag.as_ref());
    wanted.cloned().unwrap_or_else(|| "latest".into())
}

fn pull_scope(name: &Reference) -> String {
    format!("repository:{}:pull", name.repository)
}

fn manifest_words(wanted: &str) -> String {
    format!("manifest `{wanted}`")
}

fn is_digest(text: &str) -> bool {
    super::config::digest_hex(text).is_some()
}

/// Kinds of documents that we can read.
fn accepted() -> String {
    let [index, list] = INDEX_TYPES;
    [index, MANIFEST_TYPE, list, DOCKER_MANIFEST, "*/*"].join(", ")
}

fn text_header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    value.to_str().ok().map(str::to_owned)
}

fn media_type(response: &Response) -> String {
    let value = text_header(response, CONTENT_TYPE.as_str()).unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether the same call may well succeed a moment later.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// An answer of a server that is too busy or out of order.
async fn busy(host: &Host, response: Response, wait: Option<std::time::Duration>) -> RegistryError {
    let (host, status) = (host.name().to_owned(), response.status());
    let message = body_text(response).await;
    if status == StatusCode::TOO_MANY_REQUESTS {
        RegistryError::TooManyRequests {
            host,
            wait,
            message,
        }
    } else {
        RegistryError::Status {
            host,
            status: status.as_u16(),
            message,
        }
    }
}

/// A whole document.
async fn whole(host: &Host, mut response: Response) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    loop {
        let part = response.chunk().await;
        match part.map_err(|error| RegistryError::from_transport(host.name(), error))? {
            Some(part) if bytes.len() + part.len() <= DOCUMENT_LIMIT => {
                bytes.extend_from_slice(&part);
            }
            Some(_) => {
                return Err(RegistryError::Nonsense {
                    host: host.name().into(),
                    reason: "a document is too large for what it is".into(),
                });
            }
            None => return Ok(bytes),
        }
    }
}
