//! One server, and a connection to it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Certificate, Client, ClientBuilder, Identity, NoProxy, Proxy, Response};
use serde::Deserialize;

use super::hosts::{Endpoint, is_local};
use super::{RegistryError, RegistrySettings};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Without a byte for so long the connection counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("containerd-compose/", env!("CARGO_PKG_VERSION"));
/// Bytes of an error's text that are read.
const ERROR_LIMIT: usize = 1 << 16;

/// A server that has images of a registry.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    environment: RegistrySettings,
    client: OnceLock<Client>,
    /// It could not be reached, or gave wrong content: others are asked instead.
    avoided: AtomicBool,
}

impl Host {
    pub(super) fn new(endpoint: Endpoint, settings: &RegistrySettings) -> Self {
        Self {
            endpoint,
            environment: settings.clone(),
            client: OnceLock::new(),
            avoided: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.endpoint.host
    }

    pub(super) fn avoid(&self) {
        self.avoided.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_avoided(&self) -> bool {
        self.avoided.load(Ordering::Relaxed)
    }

    /// Made at first use: reading the system's authorities takes some milliseconds.
    pub(super) fn client(&self) -> Result<&Client, RegistryError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.build()?;
        Ok(self.client.get_or_init(|| client))
    }

    fn build(&self) -> Result<Client, RegistryError> {
        let endpoint = &self.endpoint;
        let mut builder = builder(&self.environment, !is_local(self.name()));
        if endpoint.base.scheme() == "http" {
            // It speaks no TLS, so that nobody need read the system's authorities.
            builder = builder.tls_certs_only([]);
        }
        let mut authorities = Vec::new();
        for path in &endpoint.tls.authorities {
            let invalid = |message: String| RegistryError::Settings {
                path: path.clone(),
                message,
            };
            let pem = std::fs::read(path).map_err(|error| invalid(error.to_string()))?;
            let found = Certificate::from_pem_bundle(&pem);
            let found = found.map_err(|_| invalid("it is not a certificate in PEM".into()))?;
            if found.is_empty() {
                return Err(invalid("there is no certificate in it".into()));
            }
            authorities.extend(found);
        }
        if endpoint.tls.skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        } else if !authorities.is_empty() {
            builder = builder.tls_certs_merge(authorities);
        }
        for (certificate, key) in &endpoint.tls.clients {
            let mut pem = Vec::new();
            for path in std::iter::once(certificate).chain(key) {
                let read = std::fs::read(path).map_err(|error| RegistryError::Settings {
                    path: path.clone(),
                    message: error.to_string(),
                });
                pem.extend(read?);
                pem.push(b'\n');
            }
            let identity = Identity::from_pem(&pem).map_err(|_| RegistryError::Settings {
                path: certificate.clone(),
                message: "it is not a certificate with a key in PEM".into(),
            })?;
            builder = builder.identity(identity);
        }
        let headers = endpoint
            .headers
            .iter()
            .filter_map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(value).ok()?))
            })
            .fold(
                reqwest::header::HeaderMap::new(),
                |mut map, (name, value)| {
                    map.append(name, value);
                    map
                },
            );
        built(self.name(), builder.default_headers(headers))
    }
}

/// A client for servers that no settings are about.
pub(super) fn plain_client(settings: &RegistrySettings) -> Result<Client, RegistryError> {
    built("TLS", builder(settings, true))
}

fn built(host: &str, builder: ClientBuilder) -> Result<Client, RegistryError> {
    builder
        .build()
        .map_err(|error| RegistryError::from_transport(host, error))
}

/// `proxied`: by the proxy that the settings name, if they do.
fn builder(settings: &RegistrySettings, proxied: bool) -> ClientBuilder {
    static PROVIDER: std::sync::Once = std::sync::Once::new();
    PROVIDER.call_once(|| {
        // If the program that embeds us has chosen another one, that is as good.
        let chosen = rustls::crypto::ring::default_provider().install_default();
        chosen.ok();
    });
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        // Followed by hand: neither credentials nor the trust in a server go along to another one.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if !proxied {
        return builder;
    }
    let variable = |name: &str| {
        let lower = settings.variable(&name.to_lowercase());
        lower.or_else(|| settings.variable(name))
    };
    let excluded = variable("NO_PROXY").and_then(NoProxy::from_string);
    let all = variable("ALL_PROXY");
    let secure = variable("HTTPS_PROXY").or(all).map(Proxy::https);
    let plain = variable("HTTP_PROXY").or(all).map(Proxy::http);
    // What is no address of a proxy cannot be used as one.
    for proxy in [secure, plain].into_iter().flatten().flatten() {
        builder = builder.proxy(proxy.no_proxy(excluded.clone()));
    }
    builder
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
    details: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorEntry {
    code: String,
    message: String,
}

/// What a failed answer says in words; empty if it says nothing of use.
pub(super) async fn body_text(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        bytes.extend_from_slice(&part);
        if bytes.len() > ERROR_LIMIT {
            break;
        }
    }
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(&bytes) {
        let words = body.errors.into_iter().map(|entry| {
            let code = entry.code.to_lowercase().replace('_', " ");
            match (code.is_empty(), entry.message.is_empty()) {
                (_, true) => code,
                (true, false) => entry.message,
                (false, false) if entry.message.to_lowercase().contains(&code) => entry.message,
                (false, false) => format!("{code}: {}", entry.message),
            }
        });
        let words: Vec<String> = words.chain([body.details]).collect();
        return one_line(&words.join("; "));
    }
    let text = String::from_utf8_lossy(&bytes);
    // A page for people in a browser says nothing here.
    if text.trim_start().starts_with('<') {
        String::new()
    } else {
        one_line(&text)
    }
}

/// Without what could play tricks with a terminal, and not too long.
fn one_line(text: &str) -> String {
    let clean: String = text
        .trim()
        .trim_end_matches([';', ' '])
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(300)
        .collect();
    clean.trim().to_owned()
}
