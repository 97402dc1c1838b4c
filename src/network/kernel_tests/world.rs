//! A private host with a neighbour, and small servers and clients inside of namespaces.

use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};

use crate::network::netlink::Socket;
use crate::network::netlink::route::{
    Veth, new_address, new_bridge, new_default_route, new_veth, set_up,
};
use crate::network::{
    Attachment, Held, NetworkError, NetworkRecord, NetworkSpec, Networks, PortRequest,
    SandboxRecord, SandboxSpec, namespace,
};
use crate::state::StateRoot;

const VARIABLE: &str = "COMPOSE_KERNEL_TEST";
const LIMIT: &str = "60";

/// The host's address on the uplink, and the neighbour's.
pub(super) const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

const PATIENCE: Duration = Duration::from_secs(3);
const IMPATIENCE: Duration = Duration::from_millis(400);

/// Runs `body` in a private host: the test starts itself again there, under a time limit.
pub(super) fn on_private_host<F: Future<Output = ()>>(body: impl FnOnce(World) -> F) {
    let thread = std::thread::current();
    let name = thread
        .name()
        .expect("tests run on named threads")
        .to_owned();
    if std::env::var(VARIABLE).is_ok_and(|value| value == name) {
        let world = World::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(body(world));
        return;
    }
    // The mounts within it go with the private host, which therefore can't remove it itself.
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .args(["timeout", "--kill-after=5", LIMIT])
        .arg(std::env::current_exe().expect("the test program"))
        .args([&name, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, &name)
        .env("TMPDIR", folder.path())
        .output()
        .expect("unshare starts");
    assert!(
        output.status.success(),
        "{name}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    folder.close().expect("nothing holds the folder");
}

/// Runs a program that must succeed and returns its output.
pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where a client or server runs.
#[derive(Clone, Debug)]
pub(super) enum At {
    Host,
    Namespace(PathBuf),
}

impl At {
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Host => work(),
            Self::Namespace(path) => namespace::enter(path, || Ok(work())).expect("enter"),
        }
    }

    /// Starts a server that tells each client its own address, after `greeting`.
    pub(super) fn serve(&self, port: u16, greeting: &'static str) {
        self.serve_on(Ipv4Addr::UNSPECIFIED, port, greeting);
    }

    /// Whether a datagram from here to `address` gets to `socket`.
    pub(super) fn delivers(&self, address: Ipv4Addr, socket: &UdpSocket) -> bool {
        let port = socket.local_addr().expect("bound").port();
        let client = self.udp_client();
        client.send_to(b"!", (address, port)).expect("sent");
        socket
            .set_read_timeout(Some(IMPATIENCE))
            .expect("a timeout");
        socket.recv_from(&mut [0; 10]).is_ok()
    }

    pub(super) fn serve_on(&self, address: Ipv4Addr, port: u16, greeting: &'static str) {
        let listener = self.run(|| TcpListener::bind((address, port)).expect("bind"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let peer = stream.peer_addr().expect("a peer").ip();
                drop(write!(stream, "{greeting} {peer}"));
            }
        });
    }

    /// As [`At::serve`] with UDP.
    pub(super) fn serve_udp(&self, port: u16, greeting: &'static str) {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"));
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let text = format!("{greeting} {}", peer.ip());
                drop(socket.send_to(text.as_bytes(), peer));
            }
        });
    }

    fn connect(&self, address: Ipv4Addr, port: u16, patience: Duration) -> io::Result<String> {
        self.run(|| {
            let address = SocketAddr::from((address, port));
            let mut stream = TcpStream::connect_timeout(&address, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// What the server at `address` says; it must be reachable.
    pub(super) fn ask(&self, address: Ipv4Addr, port: u16) -> String {
        self.connect(address, port, PATIENCE)
            .unwrap_or_else(|error| panic!("{self:?} cannot reach {address}:{port}: {error}"))
    }

    /// Whether there is no way to the server at `address`.
    pub(super) fn is_refused(&self, address: Ipv4Addr, port: u16) -> bool {
        self.connect(address, port, IMPATIENCE).is_err()
    }

    pub(super) fn ask_udp(&self, address: Ipv4Addr, port: u16) -> io::Result<String> {
        let socket = self.udp_client();
        ask_with(&socket, address, port)
    }

    pub(super) fn udp_client(&self) -> UdpSocket {
        self.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket
        })
    }

    pub(super) fn shell(&self, script: &str) -> String {
        self.run(|| run("sh", &["-ec", script]))
    }
}

pub(super) fn ask_with(socket: &UdpSocket, address: Ipv4Addr, port: u16) -> io::Result<String> {
    socket.send_to(b"?", (address, port))?;
    let mut buffer = [0; 100];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The private host.
pub(super) struct World {
    root: tempfile::TempDir,
    pub(super) networks: Networks,
    pub(super) outside: At,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["/etc/cni", "/var/lib/cni"] {
            if Path::new(folder).exists() {
                mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None).expect("hide a folder");
            }
        }
        // `nft` and we must do without the names of protocols.
        if Path::new("/etc/protocols").exists() {
            rustix::mount::mount_bind("/dev/null", "/etc/protocols").expect("hide a file");
        }
        for program in ["nft", "iptables", "busybox", "ip"] {
            assert!(
                crate::network::process::find(program).is_some(),
                "{program} is missing"
            );
        }
        let outside = root.path().join("outside");
        let mut inside = namespace::create(&outside, || Ok(Socket::route().expect("a socket")))
            .expect("a namespace");
        let mut host = Socket::route().expect("a socket");
        let file = namespace::open(&outside).expect("the namespace");
        host.execute(vec![
            set_up("lo"),
            // The pair wants a bridge; one with a single port is as good as a wire.
            new_bridge("wan0", [2, 0, 0, 0, 0, 1], None),
        ])
        .expect("the uplink");
        let bridge = host.link("wan0").expect("answer").expect("the bridge");
        host.execute(vec![
            new_veth(&Veth {
                host: "wan1",
                master: bridge.index,
                mtu: 1500,
                peer: "eth0",
                peer_mac: [2, 0, 0, 0, 0, 2],
                namespace: file.as_fd(),
            }),
            new_address(bridge.index, net(UPLINK, 24)),
        ])
        .expect("the uplink");
        let link = inside.link("eth0").expect("answer").expect("the interface");
        inside
            .execute(vec![
                set_up("lo"),
                new_address(link.index, net(OUTSIDE, 24)),
                set_up("eth0"),
                // A neighbour that sends to addresses behind the host.
                new_default_route(link.index, UPLINK),
            ])
            .expect("the neighbour");
        Self {
            networks: Networks::new(StateRoot::new(Some(&root.path().join("state")))),
            outside: At::Namespace(outside),
            root,
        }
    }

    /// Frames within bridges pass the rules for IP or do not, as on hosts with and without `br_netfilter`.
    pub(super) fn filter_frames(filter: bool) {
        let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if filter || Path::new(path).exists() {
            std::fs::write(path, if filter { "1" } else { "0" }).expect("the module br_netfilter");
        }
    }

    /// Our nftables table, as `ip <name>`.
    pub(super) fn table() -> String {
        let tables = run("nft", &["list", "tables"]);
        let table = tables.lines().find(|line| line.contains("compose"));
        table
            .and_then(|line| line.strip_prefix("table "))
            .expect("our table")
            .to_owned()
    }

    pub(super) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(super) async fn network(&self, name: &str) -> NetworkRecord {
        self.network_of(NetworkSpec {
            name: name.into(),
            ..NetworkSpec::default()
        })
        .await
    }

    pub(super) async fn internal_network(&self, name: &str) -> NetworkRecord {
        self.network_of(NetworkSpec {
            name: name.into(),
            internal: true,
            ..NetworkSpec::default()
        })
        .await
    }

    pub(super) async fn network_of(&self, spec: NetworkSpec) -> NetworkRecord {
        self.networks.create(&spec).await.expect("a network")
    }

    pub(super) async fn release(&self, id: &str) {
        let released = self.networks.release_sandbox(id).await.expect("recorded");
        let cleared = self.networks.clear_released(released);
        cleared.await.expect("cleared");
    }

    /// A sandbox on `networks` that must come up.
    pub(super) async fn sandbox(
        &self,
        id: &str,
        networks: &[&str],
        ports: &[PortRequest],
    ) -> Sandbox {
        let made = self
            .networks
            .create_sandbox(&spec(id, networks, ports))
            .await;
        Sandbox::new(made.unwrap_or_else(|error| panic!("{id}: {}", describe(&error))))
    }

    /// One that stands by for the sandbox `other`.
    pub(super) async fn standby(
        &self,
        id: &str,
        networks: &[&str],
        ports: &[PortRequest],
        other: &str,
    ) -> Sandbox {
        let spec = spec(id, networks, ports);
        let made = self.networks.create_standby(&spec, other).await;
        Sandbox::new(made.unwrap_or_else(|error| panic!("{id}: {}", describe(&error))))
    }

    /// Makes a sandbox whole again, of which only the record was left.
    pub(super) async fn repaired(&self, id: &str) -> Sandbox {
        let held = self.networks.repair_sandbox(id).await.expect("repaired");
        let record = self.networks.sandbox(id).expect("read").expect("there");
        Sandbox::new((record, held))
    }
}

/// Whether something comes true in time.
pub(super) fn within_ten_seconds(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

pub(super) fn describe(error: &NetworkError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A sandbox with what is held for it.
pub(super) struct Sandbox {
    pub(super) record: SandboxRecord,
    pub(super) held: Held,
    pub(super) at: At,
}

impl Sandbox {
    pub(super) fn new((record, held): (SandboxRecord, Held)) -> Self {
        Self {
            at: At::Namespace(record.netns.clone()),
            record,
            held,
        }
    }

    /// The address on its only network, or on its first.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address_on(0)
    }

    pub(super) fn address_on(&self, index: usize) -> Ipv4Addr {
        match self.record.endpoints[index].addresses[0].addr() {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => panic!("{address} is not expected"),
        }
    }

    pub(super) fn gateway(&self) -> Ipv4Addr {
        match self.record.endpoints[0].gateways[0] {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => panic!("{address} is not expected"),
        }
    }
}

pub(super) fn spec(id: &str, networks: &[&str], ports: &[PortRequest]) -> SandboxSpec {
    SandboxSpec {
        id: id.into(),
        attachments: networks
            .iter()
            .map(|network| Attachment {
                network: (*network).into(),
                names: vec![id.into()],
                ..Attachment::default()
            })
            .collect(),
        ports: ports.to_vec(),
        ..SandboxSpec::default()
    }
}

/// Publishes `host_port` (on `host_ip`, or everywhere) for `container_port`.
pub(super) fn port(host_ip: Option<&str>, host_port: u16, container_port: u16) -> PortRequest {
    PortRequest {
        host_ip: host_ip.map(Into::into),
        host_ports: Some((host_port, host_port)),
        container_port,
        protocol: "tcp".into(),
    }
}

pub(super) fn udp(mut request: PortRequest) -> PortRequest {
    request.protocol = "udp".into();
    request
}

pub(super) fn net(address: Ipv4Addr, prefix: u8) -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::new(address, prefix).expect("a prefix")
}
