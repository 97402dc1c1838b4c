//! A world: everything that a runtime test needs, and nothing that it shares with the machine.
//!
//! A world is a temporary folder, a containerd with its root, state and sockets in there, and
//! namespaces (cgroup, mount, network, pid) in which all commands run. Tests can therefore run side
//! by side, never meet the machine's containerd, bridges or firewall rules, and leave nothing
//! behind however they end.

mod command;
mod leaks;
mod registry;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use command::{Output, Run, Running};
use leaks::Belongings;
pub(crate) use leaks::processes_in;
pub(crate) use registry::{Door, Registry};

/// The name of the image that every world has: busybox with all applets.
pub(crate) const IMAGE: &str = "docker.io/library/demo:latest";

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What must be installed, and the package that has it.
const PROGRAMS: [(&str, &str); 15] = [
    ("bash", "bash"),
    ("busybox", "busybox-static"),
    ("containerd", "containerd"),
    ("crun", "crun"),
    ("ctr", "containerd"),
    ("docker-registry", "docker-registry"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("python3", "python3"),
    ("runc", "runc"),
    ("unshare", "util-linux"),
    ("zstd", "zstd"),
];

/// A containerd in namespaces of its own.
#[derive(Debug)]
pub(crate) struct World {
    folder: TempDir,
    name: String,
    holder: Child,
    init: u32,
    containerd: Option<Running>,
    snapshotter: &'static str,
    baseline: Belongings,
}

impl World {
    /// Runs a test in a new world, and then demands that the test has left nothing in it.
    pub(crate) fn run(test: impl FnOnce(&mut Self)) {
        let mut world = Self::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            test(&mut world);
            world.assert_clean();
        }));
        if let Err(panic) = outcome {
            world.show_logs();
            resume_unwind(panic);
        }
    }

    /// Makes a world and starts its containerd.
    pub(crate) fn new() -> Self {
        demand_components();
        // Short, because the path of a socket has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("cw-").tempdir().unwrap();
        let name = format!(
            "compose-test-{}",
            folder.path().file_name().unwrap().display()
        );
        let mut holder = Command::new("bash")
            .arg(source("tests/runtime/world/start.sh"))
            .arg(&name)
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert_eq!(
            said, "ready\n",
            "the namespaces of a world cannot be made; see above"
        );
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let init = fs::read_to_string(&children).unwrap();
        let init = init.trim().parse().expect("the only child is the world");
        let mut world = Self {
            folder,
            name,
            holder,
            init,
            containerd: None,
            snapshotter: "native",
            baseline: Belongings::default(),
        };
        for folder in ["home", "projects", "containerd"] {
            fs::create_dir(world.path(folder)).unwrap();
        }
        world.snapshotter = world.probe_snapshotter();
        world.start_containerd();
        world.baseline = Belongings::of(&world);
        world
    }

    /// A path in the folder of the world.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The name of the world's cgroups, by which the outside can find what belongs to it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The snapshotter that works where this world is.
    pub(crate) fn snapshotter(&self) -> &'static str {
        self.snapshotter
    }

    /// A command in the world, in the given folder.
    pub(crate) fn command_in(&self, folder: &Path, program: impl Into<OsString>) -> Run {
        // The first shell joins the cgroups of the world, which only the outside can see.
        let join = format!(
            "for group in {}; do echo $$ >\"$group/init/cgroup.procs\"; done; exec \"$@\"",
            self.cgroups()
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        );
        let target = self.init.to_string();
        let enter = ["sh", "-c", &join, "enter", "nsenter", "--target", &target];
        let namespaces = ["--mount", "--net", "--pid", "--cgroup", "--"];
        let enter = enter
            .into_iter()
            .chain(namespaces)
            .map(OsString::from)
            .collect();
        let environment = [
            ("CONTAINERD_ADDRESS", self.socket().into_os_string()),
            ("COMPOSE_STATE_ROOT", self.state_root().into_os_string()),
            ("HOME", self.path("home").into_os_string()),
            ("PATH", PATH.into()),
            ("COLUMNS", "200".into()),
            ("NO_COLOR", "1".into()),
            ("TZ", "UTC".into()),
        ];
        let environment: BTreeMap<OsString, OsString> =
            environment.map(|(name, value)| (name.into(), value)).into();
        Run::new(enter, folder, environment).arg(program)
    }

    /// A command in the world.
    pub(crate) fn command(&self, program: impl Into<OsString>) -> Run {
        self.command_in(self.folder.path(), program)
    }

    /// `ctr` on the containerd of the world.
    pub(crate) fn ctr<W: Into<OsString>>(&self, words: impl IntoIterator<Item = W>) -> Run {
        self.command("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(words)
    }

    /// Kills every process of the world whose command line contains the text, and says how many.
    pub(crate) fn kill(&self, text: &str) -> usize {
        let victims = processes_in(&self.name)
            .into_iter()
            .filter(|(_, line)| line.contains(text));
        let pids = victims.filter_map(|(pid, _)| Pid::from_raw(pid));
        pids.filter(|pid| kill_process(*pid, Signal::KILL).is_ok())
            .count()
    }

    /// Fetches a page from inside the world, with one request.
    pub(crate) fn get(&self, url: &str) -> Output {
        let wget = ["wget", "-Y", "off", "-q", "-O", "-", url];
        self.command("busybox")
            .args(wget)
            .within(Duration::from_secs(30))
            .run()
    }

    /// A project of one file.
    pub(crate) fn project(&self, name: &str, compose_yaml: &str) -> Project<'_> {
        let folder = self.path("projects").join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("compose.yaml"), compose_yaml).unwrap();
        Project {
            world: self,
            folder,
        }
    }

    /// A project whose folder is there already.
    pub(crate) fn project_in(&self, folder: &Path) -> Project<'_> {
        Project {
            world: self,
            folder: folder.to_owned(),
        }
    }

    /// A copy of one of the projects in `examples/`, with the image archive that it uses.
    pub(crate) fn example(&self, name: &str) -> Project<'_> {
        let folder = self.path("projects").join(name);
        let copied = Command::new("cp")
            .args(["--recursive", "--preserve=mode"])
            .args([&source("examples").join(name), &folder])
            .status();
        assert!(copied.unwrap().success());
        fs::create_dir_all(folder.join("images")).unwrap();
        fs::copy(image_archive(), folder.join("images/demo.tar")).unwrap();
        Project {
            world: self,
            folder,
        }
    }

    /// Puts the image [`IMAGE`] into a namespace of containerd.
    pub(crate) fn import_image(&self, namespace: &str) {
        let import = ["--namespace", namespace, "image", "import", "--snapshotter"];
        let _imported = self
            .ctr(import)
            .arg(self.snapshotter)
            .arg(image_archive())
            .run()
            .success();
    }

    /// Where compose keeps its state.
    pub(crate) fn state_root(&self) -> PathBuf {
        self.path("state")
    }

    /// The socket of containerd.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("containerd/containerd.sock")
    }

    /// Starts containerd and waits until it answers.
    pub(crate) fn start_containerd(&mut self) {
        let folder = self.path("containerd");
        let config = folder.join("config.toml");
        let text = format!(
            "version = 2\n\
             root = \"{0}/root\"\n\
             state = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [debug]\n\
             level = \"warn\"\n\
             [grpc]\n\
             address = \"{0}/containerd.sock\"\n",
            folder.display()
        );
        fs::write(&config, text).unwrap();
        let script = "exec containerd --config \"$0/config.toml\" >>\"$0/log\" 2>&1";
        let containerd = self.command("sh").args(["-c", script]).arg(&folder);
        self.containerd = Some(containerd.start().within_a_day());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.ctr(["version"]).run().status.success() {
            assert!(Instant::now() < deadline, "containerd does not start");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Puts all state of compose on a disk of its own that has this many bytes.
    pub(crate) fn limit_state(&mut self, bytes: u64) {
        let root = self.state_root();
        let script = "mkdir \"$1\" && mount -t tmpfs -o \"mode=700,size=$0\" tmpfs \"$1\"";
        let mount = self.command("sh").args(["-c", script]);
        let _mounted = mount.arg(bytes.to_string()).arg(root).run().success();
        self.baseline = Belongings::of(self);
    }

    /// Takes every free byte of the disk of [`World::limit_state`]. Returns how many there were, and the file to remove.
    pub(crate) fn fill_state(&self) -> (usize, PathBuf) {
        let path = self.inside(&self.state_root().join("filler"));
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(&path).unwrap();
        let mut filled = 0;
        for size in [1 << 20, 4096] {
            let zeros = vec![0; size];
            while let Ok(count @ 1..) = file.write(&zeros) {
                filled += count;
            }
        }
        (filled, path)
    }

    /// Where the outside finds a path of the world, below what is mounted there too.
    pub(crate) fn inside(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix("/").unwrap_or(path);
        Path::new(&format!("/proc/{}/root", self.init)).join(path)
    }

    /// Ends containerd, its shims and containers live on.
    pub(crate) fn stop_containerd(&mut self, signal: Signal) {
        if let Some(containerd) = self.containerd.take() {
            containerd.signal(signal);
            let _output = containerd.finish();
        }
    }

    /// Demands that the world holds nothing more than when it began, or will within a moment.
    pub(crate) fn assert_clean(&self) {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let left = Belongings::of(self).beyond(&self.baseline);
            if left.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left behind:\n  {}",
                left.join("\n  ")
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn probe_snapshotter(&self) -> &'static str {
        let script = "set -e; mkdir -p probe/l probe/u probe/w probe/m
            mount -t overlay -o lowerdir=probe/l,upperdir=probe/u,workdir=probe/w overlay probe/m
            umount probe/m";
        let probe = self.command("sh").args(["-c", script]).run();
        fs::remove_dir_all(self.path("probe")).unwrap();
        if probe.status.success() {
            "overlayfs"
        } else {
            "native"
        }
    }

    /// The cgroups of the world as the outside sees them, one for each hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mountpoints = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let mountpoint = fields.next()?;
            fields
                .next()?
                .starts_with("cgroup")
                .then(|| Path::new(mountpoint).join(&self.name))
        });
        mountpoints.filter(|group| group.is_dir()).collect()
    }

    #[expect(clippy::print_stderr, reason = "a failed test tells what it knows")]
    fn show_logs(&self) {
        let find = [
            "-name",
            "*.log",
            "-size",
            "+0",
            "-not",
            "-name",
            "*-json.log",
        ];
        let found = Command::new("find")
            .arg(self.inside(&self.state_root()))
            .args(find)
            .output()
            .unwrap();
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        let logs = found
            .lines()
            .map(PathBuf::from)
            .chain([self.path("containerd/log")]);
        for log in logs {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- the end of {} ---\n{tail}", log.display());
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // With the first process of a pid namespace go all others.
        let _killed = self.holder.kill();
        let _reaped = self.holder.wait();
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.cgroups().iter().any(|group| !remove_cgroup(group)) && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(10));
        }
        if std::env::var_os("KEEP_WORLD").is_some() {
            self.folder.disable_cleanup(true);
        }
    }
}

/// A project folder in a world.
#[derive(Debug)]
pub(crate) struct Project<'w> {
    world: &'w World,
    folder: PathBuf,
}

impl Project<'_> {
    /// Lets go of the world, so that it can be changed.
    pub(crate) fn into_folder(self) -> PathBuf {
        self.folder
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Replaces a file of the project.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).unwrap();
    }

    /// A path in the folder of the project.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A `compose` command in the folder of the project.
    pub(crate) fn command<W: Into<OsString>>(&self, words: impl IntoIterator<Item = W>) -> Run {
        self.world
            .command_in(&self.folder, env!("CARGO_BIN_EXE_compose"))
            .args(words)
    }

    /// Runs `compose` with words that are parted by spaces.
    #[track_caller]
    pub(crate) fn compose(&self, words: &str) -> Output {
        self.command(words.split(' ')).run()
    }

    /// A shell script in the folder of the project; `$0` is `compose`.
    pub(crate) fn script(&self, script: &str) -> Run {
        self.world
            .command_in(&self.folder, "sh")
            .args(["-c", script])
            .arg(env!("CARGO_BIN_EXE_compose"))
    }

    /// A `compose` command in a terminal of its own; see `terminal.py` for what `steps` say.
    pub(crate) fn terminal(&self, steps: &[&str], words: &[&str]) -> Run {
        self.world
            .command_in(&self.folder, "python3")
            .arg(source("tests/runtime/world/terminal.py"))
            .args(steps)
            .args(["--", env!("CARGO_BIN_EXE_compose")])
            .args(words)
    }

    /// What `compose ps --all --format json` says, one object for each container.
    #[track_caller]
    pub(crate) fn containers(&self) -> Vec<Value> {
        let listed = self.compose("ps --all --format json").success();
        let parse = |line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{listed}"))
        };
        listed.stdout.lines().map(parse).collect()
    }

    /// One field of all containers by another, as in name → state.
    #[track_caller]
    pub(crate) fn fields(&self, key: &str, value: &str) -> BTreeMap<String, String> {
        let text = |container: &Value, name: &str| match container[name].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("no {name} in {container}"),
        };
        let containers = self.containers();
        containers
            .iter()
            .map(|container| (text(container, key), text(container, value)))
            .collect()
    }
}

/// Waits for something that is promised to happen soon.
#[track_caller]
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A path in the repository.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The archive of [`IMAGE`], made once.
pub(crate) fn image_archive() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo.tar");
        let made = Command::new("python3")
            .arg(source("scripts/make-image"))
            .args(["--name", IMAGE, "--port", "8080/tcp"])
            .args(["--cmd", r#"["httpd", "-f", "-p", "8080", "-h", "/srv"]"#])
            .arg("--output")
            .arg(&archive)
            .status();
        assert!(made.unwrap().success(), "scripts/make-image failed");
        archive
    })
}

fn demand_components() {
    assert!(
        geteuid().is_root(),
        "runtime tests need root: run scripts/test"
    );
    for (program, package) in PROGRAMS {
        let found = PATH
            .split(':')
            .any(|folder| Path::new(folder).join(program).exists());
        assert!(
            found,
            "`{program}` is missing: install {package}, or run scripts/setup"
        );
    }
}

/// Removes a cgroup with all below it; false if a process is still in there.
fn remove_cgroup(group: &Path) -> bool {
    let Ok(entries) = fs::read_dir(group) else {
        return true;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_cgroup(&entry.path()) {
            return false;
        }
    }
    fs::remove_dir(group).is_ok()
}
