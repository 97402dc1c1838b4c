//! Answers the questions of containers for names.
//!
//! Own names come from the records of all sandboxes of the host, so that projects that share a network see each other;
//! foreign ones are asked for where the container or the host says.

mod answer;
mod records;
mod table;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::answer::{Transport, Verdict, judge, refusal};
use self::records::{Records, SharedTable, current};
use self::table::Route;
use self::upstream::{Upstream, read_message, write_message};
use crate::network::Networks;
use crate::state::StateRoot;

/// Questions of one sandbox for foreign names that may be open at the same time.
const OPEN_QUESTIONS: usize = 256;

/// Connections of one sandbox that may be open at the same time.
const OPEN_CONNECTIONS: usize = 64;

/// Time that a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// Pause after a failed system call that may fail again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers the names of the sandboxes that it serves.
#[derive(Debug)]
pub(super) struct DnsServer {
    table: SharedTable,
    upstream: Arc<Upstream>,
    served: Mutex<HashMap<String, DropGuard>>,
    _follow: DropGuard,
}

impl DnsServer {
    /// Reads the records of all sandboxes and follows their changes. Needs a Tokio runtime.
    pub(super) fn new(networks: Networks, state: &StateRoot) -> Self {
        Self::with_resolv_conf(networks, state, Path::new("/etc/resolv.conf"))
    }

    fn with_resolv_conf(networks: Networks, state: &StateRoot, resolv_conf: &Path) -> Self {
        let records = Records::new(networks, state);
        let table = records.table();
        let follow = CancellationToken::new();
        tokio::spawn(follow.clone().run_until_cancelled_owned(records.follow()));
        Self {
            table,
            upstream: Arc::new(Upstream::new(resolv_conf.into())),
            served: Mutex::default(),
            _follow: follow.drop_guard(),
        }
    }

    /// Answers what `sandbox` asks at `udp` and `tcp` (which listens), until [`DnsServer::stop`].
    pub(super) fn serve(&self, sandbox: &str, udp: OwnedFd, tcp: OwnedFd) -> io::Result<()> {
        let udp = std::net::UdpSocket::from(udp);
        let tcp = std::net::TcpListener::from(tcp);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let udp = UdpSocket::from_std(udp)?;
        let tcp = TcpListener::from_std(tcp)?;
        let desk = Arc::new(Desk {
            sandbox: sandbox.into(),
            table: self.table.clone(),
            upstream: self.upstream.clone(),
            turn: AtomicUsize::new(0),
            questions: Arc::new(Semaphore::new(OPEN_QUESTIONS)),
            connections: Arc::new(Semaphore::new(OPEN_CONNECTIONS)),
            stop: CancellationToken::new(),
        });
        let stop = desk.stop.clone();
        desk.spawn(desk.clone().serve_udp(Arc::new(udp)));
        desk.spawn(desk.clone().serve_tcp(tcp));
        self.served().insert(sandbox.to_owned(), stop.drop_guard());
        Ok(())
    }

    /// Stops answering `sandbox`; not an error if it is not served.
    pub(super) fn stop(&self, sandbox: &str) {
        self.served().remove(sandbox);
    }

    fn served(&self) -> std::sync::MutexGuard<'_, HashMap<String, DropGuard>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one sandbox asks.
#[derive(Debug)]
struct Desk {
    sandbox: String,
    table: SharedTable,
    upstream: Arc<Upstream>,
    /// Counts questions.
    turn: AtomicUsize,
    questions: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Desk {
    /// Runs `work` until it ends or the sandbox is served no more.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(work));
    }

    fn judge(&self, question: &[u8], transport: Transport) -> Verdict {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let table = current(&self.table);
        judge(question, &self.sandbox, &table, turn, transport)
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 8 << 10];
        loop {
            let (length, asker) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a question");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let question = &buffer[..length];
            match self.judge(question, Transport::Udp) {
                Verdict::Ignore => {}
                Verdict::Answer(answer) => send(&socket, &answer, asker).await,
                Verdict::Forward(route) => match self.questions.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let socket = socket.clone();
                        let forward =
                            self.clone()
                                .forward_udp(question.into(), route, socket, asker, permit);
                        self.spawn(forward);
                    }
                    Err(_) => {
                        if let Some(answer) =
                            refusal(question, ResponseCode::Refused, Transport::Udp)
                        {
                            send(&socket, &answer, asker).await;
                        }
                    }
                },
            }
        }
    }

    async fn forward_udp(
        self: Arc<Self>,
        question: Vec<u8>,
        route: Route,
        socket: Arc<UdpSocket>,
        asker: SocketAddr,
        _permit: OwnedSemaphorePermit,
    ) {
        if let Some(answer) = self.forward(&question, route, Transport::Udp).await {
            send(&socket, &answer, asker).await;
        }
    }

    async fn forward(
        &self,
        question: &[u8],
        route: Route,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        match self.upstream.forward(question, route, transport).await {
            None => refusal(question, ResponseCode::ServFail, transport),
            answer => answer,
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            // Closed only with the desk.
            let Ok(permit) = self.connections.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(self.clone().converse(stream, permit)),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Answers one question of a connection after the other.
    async fn converse(self: Arc<Self>, mut stream: TcpStream, _permit: OwnedSemaphorePermit) {
        while let Ok(Ok(question)) = timeout(SILENCE, read_message(&mut stream)).await {
            let answer = match self.judge(&question, Transport::Tcp) {
                Verdict::Ignore => None,
                Verdict::Answer(answer) => Some(answer),
                Verdict::Forward(route) => self.forward(&question, route, Transport::Tcp).await,
            };
            let Some(answer) = answer else {
                return;
            };
            if !matches!(
                timeout(SILENCE, write_message(&mut stream, &answer)).await,
                Ok(Ok(()))
            ) {
                return;
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], asker: SocketAddr) {
    if let Err(error) = socket.send_to(answer, asker).await {
        tracing::debug!(%error, "cannot send an answer");
    }
}

#[cfg(test)]
mod tests;
