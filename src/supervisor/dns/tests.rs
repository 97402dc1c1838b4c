//! The server over real sockets, with records on disk and a name server of our own making.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::network::{LABEL_DNS, SandboxRecord};
use crate::state::write_json;

/// A host with records, and a served sandbox `web-1`.
struct Bench {
    state: StateRoot,
    server: DnsServer,
    udp: SocketAddr,
    tcp: SocketAddr,
    _root: tempfile::TempDir,
}

fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    text.trim().into()
}

fn record(id: &str, names: &[&str], networks: &[&str]) -> SandboxRecord {
    SandboxRecord {
        boot_id: boot(),
        stands_by_for: None,
        ..table::tests::record(id, names, networks)
    }
}

impl Bench {
    async fn new(servers: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        let resolv_conf = root.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 127.0.0.77").unwrap();
        let networks = Networks::new(state.clone());
        let server = DnsServer::with_resolv_conf(networks, &state, &resolv_conf);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bench = Self {
            state,
            udp: udp.local_addr().unwrap(),
            tcp: tcp.local_addr().unwrap(),
            _root: root,
            server,
        };
        let mut web = record("web-1", &["web"], &["net=10.0.0.2/24"]);
        web.spec.labels.insert(LABEL_DNS.into(), servers.into());
        bench.write(&web);
        bench.until("web", 1).await;
        bench.server.serve("web-1", udp.into(), tcp.into()).unwrap();
        bench
    }

    fn path(&self, id: &str) -> std::path::PathBuf {
        self.state.networks().join(format!("sandboxes/{id}.json"))
    }

    fn write(&self, record: &SandboxRecord) {
        write_json(&self.path(&record.spec.id), record).unwrap();
    }

    /// Waits until `name` has as many addresses as seen from `web-1`.
    async fn until(&self, name: &str, count: usize) {
        let found = || {
            let table = current(&self.server.table);
            table.addresses("web-1", name).map_or(0, <[_]>::len)
        };
        for _ in 0..1000 {
            if found() == count {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("{name} has {} addresses", found());
    }

    async fn ask(&self, message: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .send_to(&message.to_vec().unwrap(), self.udp)
            .await
            .unwrap();
        let mut buffer = vec![0; 65535];
        let (length, from) = timeout(Duration::from_secs(10), socket.recv_from(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(from, self.udp);
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        answer
    }

    async fn ask_tcp(&self, messages: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        let mut answers = Vec::new();
        for message in messages {
            write_message(&mut stream, &message.to_vec().unwrap())
                .await
                .unwrap();
            let answer = timeout(Duration::from_secs(10), read_message(&mut stream));
            answers.push(Message::from_vec(&answer.await.unwrap().unwrap()).unwrap());
        }
        answers
    }
}

fn question(name: &str) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn addresses(message: &Message) -> Vec<String> {
    let answers = message.answers.iter();
    answers.map(|record| record.data.to_string()).collect()
}

/// A name server that answers `code`, over UDP truncated if asked for `long.`; returns its address.
async fn name_server(code: ResponseCode) -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let answer = move |bytes: &[u8], transport| {
        let question = Message::from_vec(bytes).unwrap();
        assert_ne!(
            question.metadata.id, 4711,
            "it has an identifier of its own"
        );
        let mut message = Message::response(question.metadata.id, OpCode::Query);
        let name = question.queries[0].name().clone();
        message.add_queries(question.queries.clone());
        message.metadata.response_code = code;
        if name.to_ascii() == "long." && transport == Transport::Udp {
            message.metadata.truncation = true;
        } else if code == ResponseCode::NoError {
            let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
            message.add_answer(Record::from_rdata(name, 60, data));
        }
        if let Some(edns) = question.edns {
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            // Somebody who guesses comes first.
            let mut forged = answer(&buffer[..length], Transport::Udp);
            forged[0] ^= 1;
            udp.send_to(&forged, from).await.unwrap();
            let bytes = answer(&buffer[..length], Transport::Udp);
            udp.send_to(&bytes, from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let bytes = read_message(&mut stream).await.unwrap();
            write_message(&mut stream, &answer(&bytes, Transport::Tcp))
                .await
                .unwrap();
        }
    });
    address
}

#[tokio::test]
async fn records_of_others_are_seen_as_they_come_change_and_go() {
    let bench = Bench::new("").await;
    assert_eq!(addresses(&bench.ask(&question("WEB.")).await), ["10.0.0.2"]);
    let mut db = record("db-1", &["db"], &["net=10.0.0.3/24"]);
    bench.write(&db);
    bench.until("db", 1).await;
    assert_eq!(
        addresses(&bench.ask(&question("db.net.")).await),
        ["10.0.0.3"]
    );
    bench.write(&record("db-2", &["db"], &["net=10.0.0.4/24"]));
    bench.until("db", 2).await;
    let first = addresses(&bench.ask(&question("db.")).await).remove(0);
    let second = addresses(&bench.ask(&question("db.")).await).remove(0);
    assert_ne!(first, second, "they take turns");
    db.active = false;
    bench.write(&db);
    bench.until("db", 1).await;
    std::fs::write(bench.path("db-2"), "damaged").unwrap();
    sleep(Duration::from_millis(50)).await;
    bench.until("db", 1).await;
    std::fs::remove_file(bench.path("db-2")).unwrap();
    bench.until("db", 0).await;
    let answer = bench.ask(&question("db.")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    std::fs::remove_file(bench.path("web-1")).unwrap();
    bench.until("web", 0).await;
}

#[tokio::test]
async fn foreign_names_are_asked_for_and_come_back_unchanged() {
    let upstream = name_server(ResponseCode::NoError).await;
    let bench = Bench::new(&upstream.to_string()).await;
    let mut message = question("example.com.");
    let mut edns = Edns::new();
    edns.set_max_payload(1400);
    message.set_edns(edns);
    let answer = bench.ask(&message).await;
    assert_eq!(addresses(&answer), ["192.0.2.1"]);
    assert_eq!(answer.edns.unwrap().max_payload(), 1400);
}

#[tokio::test]
async fn what_is_too_long_for_udp_comes_over_tcp() {
    let upstream = name_server(ResponseCode::NoError).await;
    let bench = Bench::new(&upstream.to_string()).await;
    assert!(bench.ask(&question("long.")).await.metadata.truncation);
    let answers = bench.ask_tcp(&[question("long."), question("web.")]).await;
    assert_eq!(addresses(&answers[0]), ["192.0.2.1"]);
    assert_eq!(addresses(&answers[1]), ["10.0.0.2"]);
}

#[tokio::test]
async fn a_server_that_fails_refuses_or_is_silent_gives_way_to_the_next() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let closed = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let failing = name_server(ResponseCode::ServFail).await;
    let good = name_server(ResponseCode::NoError).await;
    for first in [silent.local_addr().unwrap(), closed, failing] {
        let bench = Bench::new(&format!("{first},{good}")).await;
        assert_eq!(
            addresses(&bench.ask(&question("example.com.")).await),
            ["192.0.2.1"]
        );
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_final() {
    let none = name_server(ResponseCode::NXDomain).await;
    let good = name_server(ResponseCode::NoError).await;
    let bench = Bench::new(&format!("{none},{good}")).await;
    let answer = bench.ask(&question("example.com.")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn without_any_answer_the_failure_comes_before_the_asker_gives_up() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&silent.local_addr().unwrap().to_string()).await;
    let start = std::time::Instant::now();
    let foreign = question("example.com.");
    let (answer, own) = tokio::join!(bench.ask(&foreign), async {
        let answer = bench.ask(&question("web.")).await;
        (answer, start.elapsed())
    });
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(addresses(&own.0), ["10.0.0.2"]);
    assert!(own.1 < Duration::from_secs(1), "own names wait for nobody");
}

#[tokio::test]
async fn a_stopped_desk_answers_no_more_and_lets_its_sockets_go() {
    let bench = Bench::new("").await;
    bench.server.stop("web-1");
    bench.server.stop("nobody");
    for _ in 0..1000 {
        if std::net::UdpSocket::bind(bench.udp).is_ok() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("the socket is still open");
}
