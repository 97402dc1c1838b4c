//! Reads what a container writes and keeps its log.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::LogOptions;
use super::record::Origin;
use super::recorder::Recorder;
use super::streams::Streams;
use super::tap::Taps;
use crate::sys::descriptors;

/// Time between two looks at whether a full disk has room again.
const RETRY: Duration = Duration::from_secs(1);

/// What a pump is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    /// The run is over: what is left is read, whoever is slow.
    Drain,
    Suspend,
    Stop,
}

/// Reads the output of one run. Dropping it is [`Pump::suspend`] without waiting.
#[derive(Debug)]
pub struct Pump {
    wish: watch::Sender<Wish>,
    ended: watch::Receiver<bool>,
    stdin: Option<OwnedFd>,
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.wish.send_replace(Wish::Suspend);
    }
}

impl Pump {
    /// Returns when all writers have closed and everything they wrote is in the log, or the pump was stopped. Never
    /// returns while no writer has come. Cancel-safe.
    pub async fn drained(&self) {
        self.wish.send_if_modified(|wish| {
            let is_running = *wish == Wish::Run;
            if is_running {
                *wish = Wish::Drain;
            }
            is_running
        });
        // An error means that the task is gone, which is an end too.
        self.ended.clone().wait_for(|ended| *ended).await.ok();
    }

    /// Lets go of the container's input: it ends with the last one who still writes to it.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Writes what is there, an unfinished line too, and ends although writers may be left.
    pub async fn stop(&self) {
        self.wish.send_replace(Wish::Stop);
        self.drained().await;
    }

    /// Ends so that a successor goes on at the exact next byte.
    pub async fn suspend(&self) {
        self.wish.send_replace(Wish::Suspend);
        self.drained().await;
    }
}

/// Starts reading. Needs a Tokio runtime.
///
/// While it reads it holds a lock on `logger-lock` beside the log, for which nerdctl's `logs -f` waits. Those who are
/// attached by `taps` get everything too.
pub fn spawn(streams: Streams, options: LogOptions, taps: Taps) -> io::Result<Pump> {
    let (wish, wishes) = watch::channel(Wish::Run);
    let (end, ended) = watch::channel(false);
    let mut sources = Vec::new();
    for (origin, descriptor) in streams.outputs {
        let descriptor = descriptors::watch(descriptor, Interest::READABLE)?;
        sources.push(Source { origin, descriptor });
    }
    let recorder = Recorder::new(options, &streams.directory, taps.clone());
    tokio::spawn(async move {
        run(recorder, sources, wishes, taps).await;
        end.send_replace(true);
    });
    Ok(Pump {
        wish,
        ended,
        stdin: streams.stdin,
    })
}

/// One FIFO.
#[derive(Debug)]
struct Source {
    origin: Origin,
    descriptor: AsyncFd<OwnedFd>,
}

impl Source {
    /// Reads once; whether more may come. `closed`: the runtime has seen the end of the stream.
    fn turn(&mut self, recorder: &mut Recorder, closed: bool) -> bool {
        let origin = self.origin;
        let taken = self.descriptor.try_io(Interest::READABLE, |fifo| {
            recorder.take(origin, fifo.as_fd())
        });
        let taken = match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && closed => {
                // All writers were gone and one came again. The runtime remembers the end for ever.
                let fifo = self.descriptor.get_ref().try_clone();
                fifo.and_then(|fifo| descriptors::watch(fifo, Interest::READABLE))
                    .map(|descriptor| self.descriptor = descriptor)
                    .map(|()| true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            taken => taken,
        };
        taken.unwrap_or_else(|error| {
            let stream = origin.name();
            tracing::error!(%error, stream, "cannot read the output of a container");
            false
        })
    }
}

/// The next of `sources` that is readable, looked for from `first` on, and whether its end was seen. Cancel-safe.
async fn readable(sources: &[Source], first: usize) -> (usize, bool) {
    std::future::poll_fn(|context| {
        for offset in 0..sources.len() {
            let index = (first + offset) % sources.len();
            match sources[index].descriptor.poll_read_ready(context) {
                Poll::Ready(Ok(ready)) => {
                    return Poll::Ready((index, ready.ready().is_read_closed()));
                }
                // The runtime is shutting down: reading says so.
                Poll::Ready(Err(_)) => return Poll::Ready((index, false)),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

async fn run(
    mut recorder: Recorder,
    mut sources: Vec<Source>,
    mut wishes: watch::Receiver<Wish>,
    taps: Taps,
) {
    let mut first = 0;
    let mut draining = wishes.clone();
    while !sources.is_empty() {
        tokio::select! {
            // Cancel-safe: it only waits. An error means that the pump was dropped.
            wish = wishes.wait_for(|wish| matches!(wish, Wish::Suspend | Wish::Stop)) => {
                if wish.is_ok_and(|wish| *wish == Wish::Stop) {
                    break;
                }
                return;
            }
            // Cancel-safe: it only waits.
            (index, closed) = async {
                if !taps.has_room() {
                    tokio::select! {
                        () = taps.room() => {}
                        // An error means that the pump was dropped, which the arm above sees.
                        _ = draining.wait_for(|wish| *wish != Wish::Run) => {}
                    }
                }
                readable(&sources, first).await
            } => {
                first = index + 1;
                if !sources[index].turn(&mut recorder, closed) {
                    sources.remove(index);
                }
            }
            // Cancel-safe: it only waits.
            () = tokio::time::sleep(RETRY), if recorder.has_dropped() => recorder.tell_dropped(),
        }
    }
    for source in &sources {
        // What waits now, not what is written while we look.
        for _ in 0..2 {
            match recorder.take(source.origin, source.descriptor.get_ref().as_fd()) {
                Ok(true) => {}
                Ok(false) | Err(_) => break,
            }
        }
    }
    recorder.end();
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::super::Line;
    use super::super::streams::{make_fifos, open};
    use super::*;

    struct Bench {
        directory: tempfile::TempDir,
        options: LogOptions,
        taps: Taps,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            make_fifos(directory.path(), true, true).unwrap();
            let options = LogOptions {
                path: directory.path().join("a.log"),
                max_size: None,
                max_files: 1,
                discard: false,
            };
            Self {
                directory,
                options,
                taps: Taps::default(),
            }
        }

        fn start(&self) -> Pump {
            spawn(
                open(self.directory.path()).unwrap(),
                self.options.clone(),
                self.taps.clone(),
            )
            .unwrap()
        }

        fn writer(&self, name: &str) -> File {
            OpenOptions::new()
                .write(true)
                .open(self.directory.path().join(name))
                .unwrap()
        }

        fn lines_of(path: &std::path::Path) -> Vec<Line> {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            assert!(text.is_empty() || text.ends_with('\n'));
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }

        fn lines(&self) -> Vec<Line> {
            Self::lines_of(&self.options.path)
        }

        fn text(&self, stream: &str) -> String {
            let lines = self.lines().into_iter();
            lines
                .filter(|line| line.stream == stream)
                .map(|line| line.log)
                .collect()
        }
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_mins(1), future)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn both_streams_are_logged_to_their_last_byte() {
        let bench = Bench::new();
        let pump = bench.start();
        let (mut stdout, mut stderr) = (bench.writer("stdout"), bench.writer("stderr"));
        stdout.write_all(b"one\ntwo").unwrap();
        stderr.write_all(b"oh \xff\n").unwrap();
        drop((stdout, stderr));
        soon(pump.drained()).await;
        assert_eq!(bench.text("stdout"), "one\ntwo");
        assert_eq!(bench.text("stderr"), "oh \u{fffd}\n");
        assert_eq!(bench.lines().len(), 3);
        let mode =
            std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&bench.options.path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_lines_arrive_in_order_and_without_loss() {
        const LINES: usize = 300_000;
        let bench = Bench::new();
        let pump = bench.start();
        let mut stdout = bench.writer("stdout");
        drop(bench.writer("stderr"));
        let writer = std::thread::spawn(move || {
            let mut buffered = io::BufWriter::new(&mut stdout);
            for number in 0..LINES {
                writeln!(buffered, "line {number}").unwrap();
            }
        });
        soon(pump.drained()).await;
        writer.join().unwrap();
        let lines = bench.lines();
        assert_eq!(lines.len(), LINES);
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(line.log, format!("line {number}\n"));
        }
        assert!(
            lines.is_sorted_by(|a, b| a.time < b.time),
            "each has its own time"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rotation_splits_no_line_and_loses_none_that_it_may_keep() {
        let mut bench = Bench::new();
        bench.options.max_size = Some(10_000);
        bench.options.max_files = 1000;
        let pump = bench.start();
        drop(bench.writer("stderr"));
        let mut stdout = bench.writer("stdout");
        std::thread::spawn(move || {
            for number in 0..5_000 {
                writeln!(stdout, "line {number}").unwrap();
            }
        });
        soon(pump.drained()).await;
        let mut found = 0;
        let mut files = vec![bench.options.path.clone()];
        files.extend(
            (1..1000).map(|number| super::super::file::rotated(&bench.options.path, number)),
        );
        for (index, path) in files
            .iter()
            .filter(|path| path.exists())
            .enumerate()
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            let length = std::fs::metadata(path).unwrap().len();
            assert!(
                length < 10_100 && (index == 0 || length >= 10_000),
                "{length}"
            );
            for line in Bench::lines_of(path) {
                assert_eq!(line.log, format!("line {found}\n"));
                found += 1;
            }
        }
        assert_eq!(found, 5_000);
    }

    #[tokio::test]
    async fn a_successor_goes_on_within_a_line() {
        let bench = Bench::new();
        let pump = bench.start();
        let mut stdout = bench.writer("stdout");
        drop(bench.writer("stderr"));
        stdout.write_all(b"begun, ").unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let held = open(bench.directory.path()).unwrap();
        let held: Vec<_> = held
            .held()
            .map(|(name, end)| (name.to_owned(), end.try_clone_to_owned().unwrap()))
            .collect();
        soon(pump.suspend()).await;
        assert_eq!(bench.text("stdout"), "");
        stdout.write_all(b"ended\nnext").unwrap();
        let streams = Streams::from_held(bench.directory.path(), held);
        let pump = spawn(streams, bench.options.clone(), bench.taps.clone()).unwrap();
        drop(stdout);
        // Its copy of stderr has not seen a writer.
        tokio::time::sleep(Duration::from_millis(50)).await;
        soon(pump.stop()).await;
        assert_eq!(bench.text("stdout"), "begun, ended\nnext");
    }

    #[tokio::test]
    async fn a_stopped_pump_writes_what_is_there() {
        let bench = Bench::new();
        let pump = bench.start();
        let mut stdout = bench.writer("stdout");
        stdout.write_all(b"no line feed").unwrap();
        soon(pump.stop()).await;
        assert_eq!(bench.text("stdout"), "no line feed");
    }

    #[tokio::test]
    async fn who_is_attached_gets_every_byte_at_once_and_unchanged() {
        for discard in [false, true] {
            let mut bench = Bench::new();
            bench.options.discard = discard;
            let tap = bench.taps.open();
            let pump = bench.start();
            drop(bench.writer("stderr"));
            let mut stdout = bench.writer("stdout");
            stdout.write_all(b"prompt\xff> ").unwrap();
            assert_eq!(&*soon(tap.next()).await.bytes, b"prompt\xff> ");
            stdout.write_all(b"more\n").unwrap();
            assert_eq!(&*soon(tap.next()).await.bytes, b"more\n");
            drop(stdout);
            soon(pump.drained()).await;
            assert_eq!(tap.take(), None);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_does_not_read_holds_the_container_up_until_its_run_is_over() {
        const BYTES: usize = 8 << 20;
        let bench = Bench::new();
        let tap = bench.taps.open();
        let pump = bench.start();
        drop(bench.writer("stderr"));
        let mut stdout = bench.writer("stdout");
        let (told, written) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for _ in 0..BYTES / 4096 {
                stdout.write_all(&[b'x'; 4096]).unwrap();
                told.send(()).unwrap();
            }
        });
        let mut count = 0;
        while written.recv_timeout(Duration::from_millis(500)).is_ok() {
            count += 4096;
        }
        assert!(count < BYTES, "it was not held up");
        soon(pump.drained()).await;
        let mut received = 0;
        while let Some(chunk) = tap.take() {
            received += chunk.bytes.len();
        }
        assert_eq!(received, BYTES);
        assert_eq!(bench.text("stdout").len(), BYTES);
    }

    #[tokio::test]
    async fn a_second_run_appends() {
        let bench = Bench::new();
        for text in ["first\n", "second\n"] {
            let pump = bench.start();
            drop(bench.writer("stderr"));
            bench.writer("stdout").write_all(text.as_bytes()).unwrap();
            soon(pump.drained()).await;
        }
        assert_eq!(bench.text("stdout"), "first\nsecond\n");
    }

    #[tokio::test]
    async fn nothing_ends_before_the_first_writer_has_come() {
        let bench = Bench::new();
        let pump = bench.start();
        let early = tokio::time::timeout(Duration::from_millis(50), pump.drained()).await;
        assert!(early.is_err());
    }

    #[tokio::test]
    async fn a_writer_that_leaves_before_the_start_is_not_the_end() {
        let bench = Bench::new();
        let streams = open(bench.directory.path()).unwrap();
        let writers = streams.writers().unwrap();
        let pump = spawn(streams, bench.options.clone(), bench.taps.clone()).unwrap();
        drop((bench.writer("stdout"), bench.writer("stderr")));
        let early = tokio::time::timeout(Duration::from_millis(50), pump.drained()).await;
        assert!(early.is_err());
        bench.writer("stdout").write_all(b"late\n").unwrap();
        drop(writers);
        soon(pump.drained()).await;
        assert_eq!(bench.text("stdout"), "late\n");
    }

    #[tokio::test]
    async fn output_that_nobody_wants_is_read_and_leaves_no_file() {
        let mut bench = Bench::new();
        bench.options.discard = true;
        let pump = bench.start();
        drop(bench.writer("stderr"));
        let mut stdout = bench.writer("stdout");
        tokio::task::spawn_blocking(move || stdout.write_all(&vec![b'x'; 1 << 20]).unwrap());
        soon(pump.drained()).await;
        assert!(!bench.options.path.exists());
    }

    #[tokio::test]
    async fn input_stays_open_between_clients() {
        let bench = Bench::new();
        let pump = bench.start();
        let mut writer = bench.writer("stdin");
        writer.write_all(b"hello").unwrap();
        drop(writer);
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(bench.directory.path().join("stdin"))
            .unwrap();
        let mut buffer = [0; 16];
        let read = |buffer: &mut [u8]| rustix::io::read(&reader, buffer);
        assert_eq!(read(&mut buffer), Ok(5));
        assert_eq!(
            read(&mut buffer),
            Err(rustix::io::Errno::AGAIN),
            "not the end"
        );
        drop(pump);
    }
}
