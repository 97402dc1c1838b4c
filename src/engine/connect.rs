//! The channel: one HTTP/2 connection to containerd's socket, shared by all clones.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{Plugin, PluginsRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{EngineError, EngineOptions};

/// containerd sends messages of up to 16 MiB.
pub(super) const MESSAGE_LIMIT: usize = 32 << 20;
/// A socket whose owner hangs must not hang every command.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Channel that adds our headers to every request.
pub(super) type Api = InterceptedService<Channel, Headers>;

/// A connection. Clones share it; it recovers by itself after a restart of containerd.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: EngineOptions,
    snapshotter: String,
    channel: Channel,
    headers: Headers,
}

impl Engine {
    /// Connects with one call: asks for the version, or for the snapshotters if none is named.
    pub async fn connect(options: EngineOptions) -> Result<Self, EngineError> {
        let namespace = header(&options.namespace)
            .map_err(|status| EngineError::from_status(&options.address, "connect", &status))?;
        let mut shared = Shared {
            snapshotter: options.snapshotter.clone().unwrap_or_default(),
            channel: open_channel(&options.address),
            headers: Headers {
                namespace,
                lease: None,
            },
            options,
        };
        let address = shared.options.address.clone();
        let named = !shared.snapshotter.is_empty();
        let probe = async {
            if named {
                probe_version(&shared.channel).await?;
                return Ok(None);
            }
            let api = InterceptedService::new(shared.channel.clone(), shared.headers.clone());
            let filters = vec!["type==io.containerd.snapshotter.v1".into()];
            let answer = IntrospectionClient::new(api)
                .max_decoding_message_size(MESSAGE_LIMIT)
                .plugins(PluginsRequest { filters })
                .await?;
            Ok(Some(choose_snapshotter(&answer.into_inner().plugins)))
        };
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, probe)
            .await
            .map_err(|_elapsed| EngineError::Unreachable {
                address: address.clone(),
                source: format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs()).into(),
            })?
            .map_err(|status: Status| EngineError::from_status(&address, "connect", &status))?;
        if let Some(snapshotter) = answer {
            shared.snapshotter = snapshotter;
        }
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub fn options(&self) -> &EngineOptions {
        &self.shared.options
    }

    pub async fn version(&self) -> Result<String, EngineError> {
        probe_version(&self.shared.channel)
            .await
            .map_err(|status| self.failed("ask for the version", &status))
    }

    /// The one named in the options, else what containerd offered when we connected.
    pub fn snapshotter(&self) -> &str {
        &self.shared.snapshotter
    }

    pub(super) fn address(&self) -> &Path {
        &self.shared.options.address
    }

    pub(super) fn namespace(&self) -> &str {
        &self.shared.options.namespace
    }

    /// The channel, with the namespace in each request.
    pub(super) fn api(&self) -> Api {
        InterceptedService::new(self.shared.channel.clone(), self.shared.headers.clone())
    }

    /// As [`Engine::api`]; what the requests make is held by `lease`.
    pub(super) fn leased(&self, lease: Option<&str>) -> Result<Api, EngineError> {
        let mut headers = self.shared.headers.clone();
        if let Some(lease) = lease {
            let value = header(lease).map_err(|status| self.failed("use the lease", &status))?;
            headers.lease = Some(value);
        }
        Ok(InterceptedService::new(
            self.shared.channel.clone(),
            headers,
        ))
    }

    pub(super) fn failed(&self, operation: &str, status: &Status) -> EngineError {
        EngineError::from_status(self.address(), operation, status)
    }

    pub(super) fn failed_on(&self, operation: &str, what: &str, status: &Status) -> EngineError {
        EngineError::about(self.address(), operation, what, status)
    }
}

/// Headers of every request.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

fn header(value: &str) -> Result<MetadataValue<Ascii>, Status> {
    MetadataValue::try_from(value)
        .map_err(|_invalid| Status::invalid_argument(format!("`{value}` is not a valid name")))
}

/// Connects at the first request, and again after a connection is lost.
pub(super) fn open_channel(address: &Path) -> Channel {
    let address = address.to_path_buf();
    // The URI goes into the `:authority` header only.
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector_lazy(tower::service_fn(move |_uri| {
            let address = address.clone();
            async move { UnixStream::connect(address).await.map(TokioIo::new) }
        }))
}

/// A channel with the headers of `namespace` alone.
pub(super) fn api_of(channel: &Channel, namespace: &str) -> Result<Api, Status> {
    let headers = Headers {
        namespace: header(namespace)?,
        lease: None,
    };
    Ok(InterceptedService::new(channel.clone(), headers))
}

pub(super) async fn probe_version(channel: &Channel) -> Result<String, Status> {
    let answer = VersionClient::new(channel.clone()).version(()).await?;
    Ok(answer.into_inner().version)
}

/// overlayfs where containerd found it to work, else native.
fn choose_snapshotter(plugins: &[Plugin]) -> String {
    let works = |name: &str| {
        plugins
            .iter()
            .any(|plugin| plugin.id == name && plugin.init_err.is_none())
    };
    if works("overlayfs") {
        "overlayfs".into()
    } else {
        "native".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(id: &str, failed: bool) -> Plugin {
        Plugin {
            id: id.into(),
            init_err: failed.then(Default::default),
            ..Plugin::default()
        }
    }

    #[test]
    fn overlayfs_is_taken_only_where_it_works() {
        let good = [plugin("native", false), plugin("overlayfs", false)];
        assert_eq!(choose_snapshotter(&good), "overlayfs");
        let bad = [plugin("overlayfs", true), plugin("native", false)];
        assert_eq!(choose_snapshotter(&bad), "native");
        assert_eq!(choose_snapshotter(&[]), "native");
    }

    #[tokio::test]
    async fn a_missing_socket_is_reported_with_its_path() {
        let options = EngineOptions {
            address: "/nonexistent/containerd.sock".into(),
            namespace: "default".into(),
            snapshotter: None,
        };
        let error = Engine::connect(options).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot reach containerd at /nonexistent/containerd.sock"
        );
        assert!(error.hints()[0].contains("no socket"));
    }

    #[tokio::test]
    async fn a_namespace_that_no_header_can_carry_is_refused() {
        let options = EngineOptions {
            address: "/nonexistent/containerd.sock".into(),
            namespace: "a\nb".into(),
            snapshotter: None,
        };
        let error = Engine::connect(options).await.unwrap_err();
        assert!(matches!(error, EngineError::Call { .. }));
    }
}
