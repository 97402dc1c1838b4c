//! Keeper, worker and log pump as real processes that are killed for real. This binary plays all of them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use clap::Parser;
use containerd_compose::log::LogOptions;
use containerd_compose::log::pump::{self, Pump};
use containerd_compose::log::reader::{self, Item, ReadOptions, Source};
use containerd_compose::log::streams::{self, Streams};
use containerd_compose::log::tap::Taps;
use containerd_compose::state::{ROOT_VARIABLE, StateRoot};
use containerd_compose::supervisor::frame::{self, Connection};
use containerd_compose::supervisor::launch::{self, LaunchError, LaunchSettings};
use containerd_compose::supervisor::process::{self, SupervisorArgs, WorkerSettings};
use containerd_compose::supervisor::protocol::{Hello, Reply, Request, VERSION};
use libtest_mimic::{Arguments, Trial};
use rustix::process::{Pid, Signal};
use tokio_stream::StreamExt as _;

/// Longest time that anything here may take.
const LIMIT: Duration = Duration::from_mins(1);

#[derive(Parser)]
struct Supervisor {
    #[command(flatten)]
    args: SupervisorArgs,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["supervisor", "--project", ..] => {
            let args = Supervisor::parse_from(&arguments).args;
            return process::run(&args, worker);
        }
        ["play-pump", directory] => return pump_alone(Path::new(directory)),
        ["play-command", project] => {
            let settings = LaunchSettings::default();
            launch::ensure_running(&StateRoot::from_environment(), project, &settings).unwrap();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let test = |name, run: fn(&Path)| {
        Trial::test(name, move || {
            let root = tempfile::tempdir()?;
            run(root.path());
            Ok(())
        })
    };
    let tests = vec![
        test("several_commands_start_one_supervisor", several_commands),
        test("a_supervisor_leaves_its_caller", leaves_its_caller),
        test(
            "a_killed_worker_comes_back_with_what_was_held",
            killed_worker,
        ),
        test(
            "a_worker_of_an_earlier_version_makes_way_for_the_program_that_asks",
            replaced_worker,
        ),
        test("a_keeper_ends_with_its_worker_on_request", keeper_ends),
        test("a_worker_does_not_outlive_its_keeper", keeper_killed),
        test(
            "a_supervisor_that_cannot_run_is_an_error_with_its_log",
            cannot_run,
        ),
        test("no_kill_of_a_pump_loses_or_repeats_a_line", pump_chaos),
        test("a_full_disk_costs_lines_but_not_the_container", full_disk),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Waits until `condition` holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(5));
    }
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

// The worker: answers pings with its process id, ends on `Stop`, and keeps the log of one container.

fn worker(mut settings: WorkerSettings) -> ExitCode {
    if settings.project == "broken" {
        tracing::error!("no luck today");
        return ExitCode::SUCCESS;
    }
    runtime().block_on(async {
        let _pump = worker_pump(&mut settings);
        let listener = settings.listen().unwrap();
        let replaced = settings.state.data().join("replaced");
        let version = if settings.project == "early" && !replaced.exists() {
            VERSION - 1
        } else {
            VERSION
        };
        loop {
            tokio::select! {
                () = settings.holder.lost() => return ExitCode::FAILURE,
                connection = listener.accept() => match answer(connection.unwrap(), version).await {
                    Some(Request::Stop { .. }) => return ExitCode::SUCCESS,
                    Some(Request::Replace { program }) => {
                        settings.holder.set_program(program.to_str().unwrap()).unwrap();
                        fs::write(replaced, "").unwrap();
                        return ExitCode::FAILURE;
                    }
                    _ => {}
                }
            }
        }
    })
}

fn worker_pump(settings: &mut WorkerSettings) -> Option<Pump> {
    let fifos = settings.state.container_run("x");
    if !fifos.exists() {
        return None;
    }
    let taken: Vec<(String, OwnedFd)> = settings
        .held
        .extract_if(.., |(key, _)| key.starts_with("fifo/"))
        .map(|(key, end)| (key["fifo/".len()..].to_owned(), end))
        .collect();
    let streams = if taken.is_empty() {
        let streams = streams::open(&fifos).unwrap();
        for (name, end) in streams.held() {
            settings.holder.hold(&format!("fifo/{name}"), end).unwrap();
        }
        streams
    } else {
        Streams::from_held(&fifos, taken)
    };
    let log = settings.state.container("x");
    fs::create_dir_all(&log).unwrap();
    Some(
        pump::spawn(
            streams,
            log_options(&log.join("x-json.log"), None),
            Taps::default(),
        )
        .unwrap(),
    )
}

async fn answer((mut reader, mut writer): Connection, version: u32) -> Option<Request> {
    let hello = Hello {
        version,
        ..Hello::new(std::process::id().to_string())
    };
    let heard = reader.next::<Hello>().await;
    assert!(heard.is_ok());
    writer.send(&hello).await.ok();
    let request = reader.next::<Request>().await.unwrap_or_default();
    writer.send(&Reply::Finished).await.ok();
    request
}

// The tests' side.

/// A project whose supervisor is ended with the test.
struct Project {
    state: StateRoot,
    name: &'static str,
}

impl Project {
    fn new(root: &Path) -> Self {
        Self {
            state: StateRoot::new(Some(root)),
            name: "shop",
        }
    }

    fn launch(&self) -> PathBuf {
        launch::ensure_running(&self.state, self.name, &LaunchSettings::default()).unwrap()
    }

    /// Sends `request`; returns the process id of the worker.
    fn ask(&self, request: &Request) -> u32 {
        let path = frame::control_path(&self.state, self.name);
        let mut stream = frame::connect_blocking(&path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let hello = Hello::new("test");
        frame::write_blocking(&mut stream, &hello).unwrap();
        frame::write_blocking(&mut stream, request).unwrap();
        let hello: Hello = frame::read_blocking(&mut stream).unwrap().unwrap();
        let reply: Reply = frame::read_blocking(&mut stream).unwrap().unwrap();
        assert_eq!(reply, Reply::Finished);
        hello.who.parse().unwrap()
    }

    fn worker(&self) -> u32 {
        self.ask(&Request::Ping)
    }

    /// Process id of the keeper.
    fn keeper(&self) -> u32 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.worker())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        after_name
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }

    fn is_running(&self) -> bool {
        launch::is_running(&self.state, self.name)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if self.is_running() {
            self.ask(&Request::Stop {
                project: None,
                services: Vec::new(),
                timeout: None,
            });
        }
        until("the supervisor ends", || !self.is_running());
    }
}

fn several_commands(root: &Path) {
    let project = Project::new(root);
    assert!(!project.is_running());
    let workers: BTreeSet<u32> = thread::scope(|scope| {
        let commands: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    project.launch();
                    project.worker()
                })
            })
            .collect();
        commands
            .into_iter()
            .map(|command| command.join().unwrap())
            .collect()
    });
    assert_eq!(workers.len(), 1);
    assert!(project.is_running());
    let copies = fs::read_dir(project.state.data().join("bin"))
        .unwrap()
        .count();
    assert_eq!(copies, 1);
    project.launch();
    assert_eq!(project.worker(), *workers.first().unwrap());
}

fn leaves_its_caller(root: &Path) {
    let project = Project::new(root);
    // A shell that waits for the end of the output, with a descriptor of its own open.
    let binary = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args([
            "-c",
            "exec 9</etc/passwd; out=$(\"$0\" play-command shop); echo \"done $out\"",
        ])
        .arg(&binary)
        .env(ROOT_VARIABLE, root)
        .env("SECRET", "hunter2")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done \n");
    for pid in [project.keeper(), project.worker()] {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
        let command = fs::read_to_string(proc.join("cmdline")).unwrap();
        assert!(command.starts_with(binary.to_str().unwrap()), "{command}");
        let environment = fs::read_to_string(proc.join("environ")).unwrap();
        assert!(environment.contains("COMPOSE_STATE_ROOT=") && !environment.contains("SECRET"));
        let stat = fs::read_to_string(proc.join("stat")).unwrap();
        let session = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .nth(3)
            .unwrap();
        assert_ne!(session, std::process::id().to_string());
        for entry in fs::read_dir(proc.join("fd")).unwrap() {
            let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
            assert_ne!(target, Path::new("/etc/passwd"));
        }
        let status = fs::read_to_string(proc.join("status")).unwrap();
        assert!(status.contains("Umask:\t0077"));
    }
    let log = launch::log_path(&project.state, "shop");
    assert_eq!(fs::metadata(log).unwrap().mode() & 0o777, 0o600);
}

fn killed_worker(root: &Path) {
    let project = Project::new(root);
    let fifos = project.state.container_run("x");
    fs::create_dir_all(&fifos).unwrap();
    streams::make_fifos(&fifos, false, false).unwrap();
    project.launch();
    let mut stdout = OpenOptions::new()
        .write(true)
        .open(fifos.join("stdout"))
        .unwrap();
    let log = project.state.container("x").join("x-json.log");
    let writer = thread::spawn(move || {
        for number in 0..100_000 {
            writeln!(stdout, "line {number}").unwrap();
        }
        stdout
    });
    let mut workers = BTreeSet::new();
    for _ in 0..4 {
        let worker = project.worker();
        assert!(workers.insert(worker));
        kill(worker, Signal::KILL);
        // The socket is held: this waits for the next worker instead of failing.
        project.worker();
    }
    let mut stdout = writer.join().unwrap();
    kill(project.worker(), Signal::KILL);
    stdout.write_all(b"last words\n").unwrap();
    drop(stdout);
    until("the log is complete", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("last words"))
    });
    let mut expected: Vec<_> = (0..100_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    expected.push("last words\n".into());
    assert_eq!(read_log(&log), expected);
}

fn replaced_worker(root: &Path) {
    let mut project = Project::new(root);
    project.name = "early";
    project.launch();
    assert!(project.state.data().join("replaced").exists());
    let (worker, keeper) = (project.worker(), project.keeper());
    project.launch();
    assert_eq!((project.worker(), project.keeper()), (worker, keeper));
}

fn keeper_ends(root: &Path) {
    let project = Project::new(root);
    project.launch();
    let (keeper, worker) = (project.keeper(), project.worker());
    kill(keeper, Signal::TERM);
    until("both end", || !is_alive(keeper) && !is_alive(worker));
    assert!(!project.is_running());
    // The socket that was left is no obstacle.
    project.launch();
    assert_ne!(project.worker(), worker);
}

fn keeper_killed(root: &Path) {
    let project = Project::new(root);
    project.launch();
    let (keeper, worker) = (project.keeper(), project.worker());
    kill(worker, Signal::STOP);
    kill(keeper, Signal::KILL);
    until("the keeper is gone", || !is_alive(keeper));
    assert!(project.is_running(), "its worker still lives");
    kill(worker, Signal::CONT);
    until("the worker ends", || !is_alive(worker));
    assert!(!project.is_running());
}

fn cannot_run(root: &Path) {
    let state = StateRoot::new(Some(root));
    let start = Instant::now();
    let launched = launch::ensure_running(&state, "broken", &LaunchSettings::default());
    let Err(LaunchError::Silent { log, path, .. }) = launched else {
        panic!("{launched:?}");
    };
    assert_eq!(path, launch::log_path(&state, "broken"));
    assert!(
        log.iter().any(|line| line.contains("no luck today")),
        "{log:?}"
    );
    assert!(start.elapsed() < LIMIT);
    until("nothing is left", || !launch::is_running(&state, "broken"));
}

// The pump as a process of its own.

fn log_options(path: &Path, max_size: Option<u64>) -> LogOptions {
    LogOptions {
        path: path.into(),
        max_size,
        max_files: 10_000,
        discard: false,
    }
}

fn pump_alone(directory: &Path) -> ExitCode {
    runtime().block_on(async {
        let options = log_options(&directory.join("a.log"), Some(200_000));
        let pump =
            pump::spawn(streams::open(directory).unwrap(), options, Taps::default()).unwrap();
        pump.drained().await;
    });
    ExitCode::SUCCESS
}

fn read_log(path: &Path) -> Vec<String> {
    let source = Source {
        key: "x".into(),
        path: path.into(),
    };
    let (_handle, stream) = reader::read(vec![source], ReadOptions::default()).unwrap();
    let items: Vec<Item> = runtime().block_on(stream.collect());
    let lines = items.into_iter().map(|item| match item {
        Item::Line { line, .. } => line.log,
        other => panic!("{other:?}"),
    });
    lines.collect()
}

fn pump_chaos(root: &Path) {
    streams::make_fifos(root, false, true).unwrap();
    let held = streams::open(root).unwrap();
    let log = root.join("a.log");
    let open = |name| {
        OpenOptions::new()
            .write(true)
            .open(root.join(name))
            .unwrap()
    };
    let (mut stdout, stderr) = (open("stdout"), open("stderr"));
    let (handle, mut stream) = reader::read(
        vec![Source {
            key: "x".into(),
            path: log.clone(),
        }],
        ReadOptions {
            follow: true,
            ..ReadOptions::default()
        },
    )
    .unwrap();
    let follower = thread::spawn(move || {
        runtime().block_on(async {
            let mut lines = Vec::new();
            while let Some(item) = stream.next().await {
                match item {
                    Item::Line { line, .. } => lines.push(line.log),
                    other => panic!("{other:?}"),
                }
            }
            lines
        })
    });
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let writer = thread::spawn(move || {
        let mut count = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            // In parts, so that lines are unfinished at any time.
            write!(stdout, "line ").unwrap();
            writeln!(stdout, "{count} {}", "x".repeat(count % 300)).unwrap();
            count += 1;
        }
        count
    });
    let binary = std::env::current_exe().unwrap();
    for round in 0..100u64 {
        let mut pump = Command::new(&binary)
            .args([Path::new("play-pump"), root])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // Also before it is ready, and at every point of its loop.
        sleep(Duration::from_micros(round * 7919 % 25_000));
        pump.kill().unwrap();
        pump.wait().unwrap();
    }
    let mut pump = Command::new(&binary)
        .args([Path::new("play-pump"), root])
        .spawn()
        .unwrap();
    // Who opens a FIFO after its last writer has gone is never told of the end.
    let descriptors = format!("/proc/{}/fd", pump.id());
    until("the pump has opened its FIFOs", || {
        let open = fs::read_dir(&descriptors).into_iter().flatten().flatten();
        let mut targets = open.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        targets.any(|target| target == root.join("stderr"))
    });
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let count = writer.join().unwrap();
    drop((stderr, held));
    let status = pump.wait().unwrap();
    assert!(status.success());
    handle.finish_all();
    let expected: Vec<_> = (0..count)
        .map(|number| format!("line {number} {}\n", "x".repeat(number % 300)))
        .collect();
    assert!(count > 1000, "{count}");
    assert_lines("the log", &read_log(&log), &expected);
    assert_lines("what a follower saw", &follower.join().unwrap(), &expected);
}

/// As `assert_eq`, and shows no more than the first difference.
fn assert_lines(what: &str, found: &[String], expected: &[String]) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found, expected, "line {index} of {what}");
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

/// A file system without much room, unmounted with the test.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::empty()).unwrap();
    }
}

fn full_disk(root: &Path) {
    use rustix::mount::{MountFlags, mount};
    let disk = root.join("disk");
    fs::create_dir(&disk).unwrap();
    mount(
        "none",
        &disk,
        "tmpfs",
        MountFlags::empty(),
        Some(c"size=4m"),
    )
    .unwrap();
    let disk = SmallDisk(disk);
    let ballast = disk.0.join("ballast");
    let fifos = root.join("fifos");
    fs::create_dir(&fifos).unwrap();
    streams::make_fifos(&fifos, false, false).unwrap();
    let log = disk.0.join("a.log");
    runtime().block_on(async {
        let pump = pump::spawn(
            streams::open(&fifos).unwrap(),
            log_options(&log, None),
            Taps::default(),
        )
        .unwrap();
        let mut stdout = OpenOptions::new()
            .write(true)
            .open(fifos.join("stdout"))
            .unwrap();
        writeln!(stdout, "before").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let fill = File::create(&ballast).unwrap();
        while (&fill).write(&[0; 4096]).is_ok() {}
        // Never blocks: it is read whatever happens to it.
        let mut stdout = tokio::task::spawn_blocking(move || {
            for number in 0..20_000 {
                writeln!(stdout, "line {number}").unwrap();
            }
            stdout
        })
        .await
        .unwrap();
        fs::remove_file(&ballast).unwrap();
        drop(fill);
        let end = Instant::now() + Duration::from_secs(5);
        while !fs::read_to_string(&log).unwrap().contains("lost") {
            assert!(Instant::now() < end, "the log tells of the gap by itself");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        writeln!(stdout, "after").unwrap();
        drop(stdout);
        pump.drained().await;
    });
    let lines = read_log(&log);
    let told: Vec<_> = lines.iter().filter(|line| line.starts_with('[')).collect();
    let lost: usize = told[0][1..].split(' ').next().unwrap().parse().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(lines.first().unwrap(), "before\n");
    assert_eq!(lines.last().unwrap(), "after\n");
    assert_eq!(
        lost + lines.len() - 3,
        20_000,
        "every line is there or counted"
    );
    assert!(lost > 1000);
}
