//! Sends what a container writes elsewhere: the drivers `syslog` and `journald`, as Docker has them.
//!
//! Each reads from a tap, beside the log that is kept here. So `logs` has something to read, a receiver that is slow holds
//! the container up as a pipe would, and one that is away costs lines there, but none here.

mod journald;
mod settings;
mod syslog;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::wire::Connection;
use super::record::{Origin, line_length};
use super::tap::{Chunk, Tap};

pub use self::settings::{Destination, InvalidLogging};

/// Time that a line may take with `mode: non-blocking`.
const HURRY: Duration = Duration::from_millis(100);
/// Time for what is left when a run has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Docker's severities.
const fn severity(origin: Origin) -> u8 {
    match origin {
        Origin::Stdout => 6,
        Origin::Stderr => 3,
    }
}

/// The container that lines are from.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub id: String,
    pub name: String,
    /// Reference of the image, and its digest.
    pub image: String,
    pub image_id: String,
    /// Words of its first process.
    pub command: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

fn short(id: &str) -> String {
    let digest = id.split_once(':').map_or(id, |(_, digest)| digest);
    digest.chars().take(12).collect()
}

fn hostname() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

impl About {
    /// What templates of tags can name.
    fn fields(&self) -> Value {
        json!({
            "ID": short(&self.id),
            "FullID": self.id,
            "Name": self.name,
            "ImageID": short(&self.image_id),
            "ImageFullID": self.image_id,
            "ImageName": self.image,
            "Command": self.command.join(" "),
            "Hostname": hostname(),
            // What rules of receivers look for.
            "DaemonName": "docker",
        })
    }
}

/// One line, without its line feed.
#[derive(Clone, Copy, Debug)]
struct Message<'a> {
    origin: Origin,
    text: &'a [u8],
    /// The line goes on in the next.
    is_partial: bool,
}

/// Makes what goes over the wire from a line.
#[derive(Debug)]
enum Encoder {
    Syslog(syslog::Encoder),
    Journald(journald::Encoder),
}

impl Encoder {
    /// `None` for a line that is not sent.
    fn encode(&self, message: &Message<'_>) -> Option<Vec<u8>> {
        match self {
            Self::Syslog(encoder) => encoder.encode(message, &jiff::Zoned::now()),
            Self::Journald(encoder) => Some(encoder.encode(message)),
        }
    }
}

/// Sends the output of one run. Dropping it ends that without waiting.
#[derive(Debug)]
pub struct Forward {
    over: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Forward {
    /// Connects, and sends what comes from `tap`. `must_connect`: it is an error if nobody is there.
    pub async fn start(
        destination: &Destination,
        about: &About,
        tap: Tap,
        must_connect: bool,
    ) -> io::Result<Self> {
        let tag = destination.tag.render(&about.fields(), &Map::new());
        let tag = tag.map_err(io::Error::other)?;
        let encoder = destination.encoder(about, tag);
        let mut connection = Connection::new(destination.address.clone());
        if must_connect {
            connection.open().await?;
        }
        let sender = Sender {
            connection,
            encoder,
            hurry: destination.hurry,
            unfinished: [Vec::new(), Vec::new()],
        };
        let (over, ended) = oneshot::channel();
        let task = tokio::spawn(sender.run(tap, ended));
        Ok(Self { over, task })
    }

    /// Returns when everything that has come so far is sent, but not too late.
    pub async fn finish(self) {
        self.over.send(()).ok();
        let abort = self.task.abort_handle();
        if tokio::time::timeout(LAST_WORDS, self.task).await.is_err() {
            tracing::warn!("the last output of a container did not reach its logging driver");
            abort.abort();
        }
    }
}

struct Sender {
    connection: Connection,
    encoder: Encoder,
    hurry: bool,
    /// Unfinished lines of stdout and stderr.
    unfinished: [Vec<u8>; 2],
}

impl Sender {
    async fn run(mut self, tap: Tap, mut over: oneshot::Receiver<()>) {
        loop {
            let chunk = tokio::select! {
                // Cancel-safe: what is not taken stays.
                chunk = tap.next() => chunk,
                // Cancel-safe: it only waits. An error means that the other end was dropped.
                _ = &mut over => break,
            };
            self.take(&chunk).await;
        }
        while let Some(chunk) = tap.take() {
            self.take(&chunk).await;
        }
        for origin in Origin::ALL {
            self.lines(origin, true).await;
        }
    }

    async fn take(&mut self, chunk: &Chunk) {
        self.unfinished[chunk.origin as usize].extend_from_slice(&chunk.bytes);
        self.lines(chunk.origin, false).await;
    }

    async fn lines(&mut self, origin: Origin, ended: bool) {
        let input = std::mem::take(&mut self.unfinished[origin as usize]);
        let mut at = 0;
        while let Some(length) = line_length(&input[at..], ended) {
            let line = &input[at..at + length];
            at += length;
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let message = Message {
                origin,
                text,
                is_partial: text.len() == line.len() && !(ended && at == input.len()),
            };
            let Some(packet) = self.encoder.encode(&message) else {
                continue;
            };
            if !self.hurry {
                self.connection.send(&packet).await;
            } else if tokio::time::timeout(HURRY, self.connection.send(&packet))
                .await
                .is_err()
            {
                self.connection.give_up();
            }
        }
        self.unfinished[origin as usize] = input[at..].to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tap::Taps;
    use super::*;
    use crate::model::Logging;

    fn logging(driver: &str, options: &[(&str, &str)]) -> Logging {
        let pairs = options
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Logging {
            driver: Some(driver.into()),
            options: pairs.collect(),
        }
    }

    fn web() -> About {
        About {
            id: "0123456789abcdef".into(),
            name: "shop-web-1".into(),
            image: "nginx:1".into(),
            image_id: "sha256:fedcba9876543210".into(),
            ..About::default()
        }
    }

    #[tokio::test]
    async fn every_line_arrives_once_and_the_last_may_have_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let receiver = tokio::net::UnixDatagram::bind(&path).unwrap();
        let address = format!("unixgram://{}", path.display());
        let options = [
            ("syslog-address", address.as_str()),
            ("tag", "{{.Name}}/{{.ImageName}}"),
        ];
        let destination = Destination::new(&logging("syslog", &options)).unwrap();
        let taps = Taps::default();
        let forward = Forward::start(&destination.unwrap(), &web(), taps.open(), true)
            .await
            .unwrap();
        taps.put(Origin::Stdout, b"one\n\ntw");
        taps.put(Origin::Stderr, b"oh\n");
        taps.put(Origin::Stdout, b"o\nthree");
        forward.finish().await;
        let mut received = Vec::new();
        let mut buffer = [0; 1000];
        while let Ok(length) = receiver.try_recv(&mut buffer) {
            let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let (priority, _) = line.split_once('>').unwrap();
            let (_, text) = line.split_once("shop-web-1/nginx:1").unwrap();
            let (_, text) = text.split_once("]: ").unwrap();
            received.push(format!("{priority}> {text}"));
        }
        assert_eq!(
            received,
            ["<30> one\n", "<27> oh\n", "<30> two\n", "<30> three\n"]
        );
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_at_the_start_only() {
        let options = [("syslog-address", "unix:///nowhere/log")];
        let destination = Destination::new(&logging("syslog", &options)).unwrap();
        let destination = destination.unwrap();
        let taps = Taps::default();
        let start = async |must| Forward::start(&destination, &web(), taps.open(), must).await;
        let error = start(true).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/log"), "{error}");
        let forward = start(false).await.unwrap();
        taps.put(Origin::Stdout, b"lost\n");
        forward.finish().await;
    }
}
