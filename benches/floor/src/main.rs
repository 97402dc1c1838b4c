//! The floor: what it costs to start and remove N containers on containerd when nothing else is
//! done. Each container has its own network namespace on one bridge, Docker's default OCI spec and
//! drained output, as a Compose project's containers have; there is no plan, no state, no DNS, no
//! log file and no health check. `compose up -d` and `compose down` are measured against this.
//!
//! Prints one line of JSON per phase: `phase`, `containers`, `wall_ms`, and `cpu_ms` (this process
//! alone; whoever wants the CPU of containerd and its shims reads the cgroup that all run in, and
//! uses `--pause` to read it between the phases).

mod engine;
mod network;
mod spec;

use std::{io::BufRead as _, path::PathBuf, sync::Arc, time::Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::Semaphore, task::JoinSet};

use engine::{Engine, Failure, Running};
use network::Bridge;

/// How many containers are worked on at a time.
const CONCURRENCY: usize = 8;

const USAGE: &str = "usage: floor --address SOCKET --image REFERENCE [--count N] \
[--snapshotter NAME] [--namespace NAME] [--pause]";

/// What the command line asks for.
struct Options {
    address: PathBuf,
    image: String,
    count: usize,
    snapshotter: String,
    namespace: String,
    pause: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let (mut address, mut image) = (None, None);
        let mut options = Self {
            address: PathBuf::new(),
            image: String::new(),
            count: 10,
            snapshotter: "overlayfs".to_owned(),
            namespace: "default".to_owned(),
            pause: false,
        };
        while let Some(flag) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or(format!("{flag} wants a value\n{USAGE}"))
            };
            match flag.as_str() {
                "--address" => address = Some(PathBuf::from(value()?)),
                "--image" => image = Some(value()?),
                "--count" => options.count = value()?.parse()?,
                "--snapshotter" => options.snapshotter = value()?,
                "--namespace" => options.namespace = value()?,
                "--pause" => options.pause = true,
                _ => return Err(format!("unknown argument {flag}\n{USAGE}").into()),
            }
        }
        options.address = address.ok_or(USAGE)?;
        options.image = image.ok_or(USAGE)?;
        Ok(options)
    }
}

/// Wall and CPU time of one phase.
struct Stopwatch {
    wall: Instant,
    cpu: f64,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu_milliseconds(),
        }
    }

    fn report(&self, phase: &str, containers: usize) {
        let line = serde_json::json!({
            "phase": phase,
            "containers": containers,
            "wall_ms": self.wall.elapsed().as_secs_f64() * 1000.0,
            "cpu_ms": cpu_milliseconds() - self.cpu,
        });
        println!("{line}");
    }
}

/// CPU time of this process so far.
fn cpu_milliseconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1000.0 + time.tv_nsec as f64 / 1e6
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = Options::parse(std::env::args().skip(1))?;

    let up = Stopwatch::start();
    let engine =
        Engine::connect(&options.address, &options.namespace, &options.snapshotter).await?;
    let engine = Arc::new(engine);
    let parent = Arc::new(engine.image_snapshot(&options.image).await?);
    let bridge = Arc::new(Bridge::create().await?);
    let image = Arc::new(options.image);
    let started = each(0..options.count, |index| {
        let (engine, bridge) = (engine.clone(), bridge.clone());
        let (image, parent) = (image.clone(), parent.clone());
        async move {
            let sandbox = bridge.attach(index).await?;
            engine.start(index, &image, &parent, sandbox).await
        }
    })
    .await;
    up.report("up", options.count);

    if options.pause {
        std::io::stdin().lock().read_line(&mut String::new())?;
    }

    let (running, failures): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
    let down = Stopwatch::start();
    let removed = each(running.into_iter().flatten(), |container: Running| {
        let engine = engine.clone();
        async move { engine.remove(container).await }
    })
    .await;
    bridge.remove().await?;
    engine.close().await?;
    down.report("down", options.count);

    for outcome in failures
        .into_iter()
        .map(|failure| failure.map(drop))
        .chain(removed)
    {
        outcome?;
    }
    Ok(())
}

/// Runs `work` for every item, at most [`CONCURRENCY`] at a time.
async fn each<I, T, F>(
    items: impl Iterator<Item = I>,
    work: impl Fn(I) -> F,
) -> Vec<Result<T, Failure>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let mut tasks = JoinSet::new();
    for item in items {
        let (permits, job) = (permits.clone(), work(item));
        tasks.spawn(async move {
            let _permit = permits.acquire_owned().await?;
            job.await
        });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        outcomes.push(outcome.unwrap_or_else(|panic| Err(panic.into())));
    }
    outcomes
}
