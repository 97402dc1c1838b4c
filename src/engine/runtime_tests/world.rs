//! A containerd, images and processes of one test; nothing of them may be left.

use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;

use crate::engine::{Engine, EngineOptions, locate, private_address, stop_private};
use crate::image::Images;
use crate::state::StateRoot;

const SHIM: &str = "containerd-shim-runc-v2";
const TIMEOUT: Duration = Duration::from_secs(50);

/// Fails the test rather than hang.
pub(crate) async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, work)
        .await
        .expect("the test takes too long")
}

pub(crate) struct World {
    folder: TempDir,
    pub(crate) state: StateRoot,
    pub(crate) engine: Engine,
    pub(crate) images: Images,
}

impl World {
    pub(crate) async fn start() -> Self {
        // Socket paths are short.
        let folder = tempfile::Builder::new()
            .prefix("compose-")
            .tempdir_in("/tmp")
            .unwrap();
        let state = StateRoot::new(Some(folder.path()));
        let address = locate(Some(&private_address(&state)), None, &state)
            .await
            .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        let options = EngineOptions {
            address,
            namespace: "test".into(),
            snapshotter: None,
        };
        let engine = Engine::connect(options).await.unwrap();
        Self {
            images: Images::new(engine.clone(), state.clone()),
            engine,
            state,
            folder,
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// An id that no other run has: runc keeps its state in one folder of the machine.
    pub(crate) fn id(&self, name: &str) -> String {
        let folder = self.root().file_name().unwrap_or_default();
        format!("{}-{name}", folder.to_string_lossy())
    }

    pub(crate) fn images_afresh(&self) -> Images {
        Images::new(self.engine.clone(), self.state.clone())
    }

    pub(crate) async fn locate(&self) -> PathBuf {
        let address = private_address(&self.state);
        locate(None, Some(&address), &self.state).await.unwrap()
    }

    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0).unwrap();
        path
    }

    /// Processes that have our folder in their arguments and are called `name`.
    fn processes(&self, name: &str) -> Vec<Pid> {
        let ours = self.root().to_string_lossy().into_owned();
        let is_ours = |pid: &str| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let program = line.split('\0').next().unwrap_or_default();
            let program = program.rsplit('/').next().unwrap_or_default();
            line.contains(&ours) && (name.is_empty() || program == name)
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if let Ok(number) = pid.parse()
                && is_ours(&pid)
            {
                found.extend(Pid::from_raw(number));
            }
        }
        found
    }

    pub(crate) fn containerds(&self) -> usize {
        self.processes("containerd").len()
    }

    pub(crate) fn kill_containerd(&self) {
        for pid in self.processes("containerd") {
            kill(pid);
        }
    }

    pub(crate) fn has_shims(&self) -> bool {
        !self.processes(SHIM).is_empty()
    }

    pub(crate) fn kill_shims(&self) {
        for pid in self.processes(SHIM) {
            kill(pid);
        }
    }

    /// Stops everything and looks whether something is left.
    pub(crate) async fn finish(self) {
        let stopped = patiently(stop_private(&self.state)).await.unwrap();
        assert!(stopped, "containers are left");
        assert_eq!(self.processes(""), [], "processes are left");
        assert!(!self.state.run().join("containerd").exists());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.root().to_str().unwrap()), "{mounts}");
        let again = patiently(stop_private(&self.state)).await.unwrap();
        assert!(!again);
    }
}

impl Drop for World {
    /// After a failed test, too.
    fn drop(&mut self) {
        for pid in self.processes("") {
            kill(pid);
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for target in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
            if Path::new(target).starts_with(self.root()) {
                let _left = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

fn kill(pid: Pid) {
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    let _gone = rustix::process::pidfd_send_signal(&process, Signal::KILL);
    let mut polled = [rustix::event::PollFd::new(
        &process,
        rustix::event::PollFlags::IN,
    )];
    let _ended = rustix::event::poll(&mut polled, None);
}

pub(crate) fn reader(path: &Path) -> pipe::Receiver {
    pipe::OpenOptions::new().open_receiver(path).unwrap()
}

pub(crate) async fn write(path: &Path, bytes: &[u8]) {
    let mut sender = loop {
        match pipe::OpenOptions::new().open_sender(path) {
            Ok(sender) => break sender,
            Err(_no_reader) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    sender.write_all(bytes).await.unwrap();
}

/// An OCI process that runs a shell.
pub(crate) fn process(command: &str) -> Vec<u8> {
    process_value(command).to_string().into_bytes()
}

fn process_value(command: &str) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/busybox", "sh", "-c", command],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "noNewPrivileges": true,
    })
}

/// The least that runc takes.
pub(crate) fn spec(id: &str, command: &str) -> Vec<u8> {
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": process_value(command),
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"},
                {"type": "uts"}, {"type": "network"}],
        },
    });
    spec.to_string().into_bytes()
}

/// An image of two layers, written in several forms.
pub(crate) struct Archive {
    name: Option<String>,
    layers: Vec<Vec<u8>>,
    multi_platform: bool,
    broken: bool,
}

impl Archive {
    pub(crate) fn busybox() -> Self {
        let mut bottom = tar::Builder::new(Vec::new());
        let program = std::fs::read("/bin/busybox").expect("a static busybox in /bin");
        add(&mut bottom, "bin/busybox", 0o755, &program);
        for name in ["sh", "sleep", "cat", "echo"] {
            link(&mut bottom, &format!("bin/{name}"), "busybox");
        }
        add(&mut bottom, "proc/.keep", 0o644, b"");
        add(&mut bottom, "dev/.keep", 0o644, b"");
        add(
            &mut bottom,
            "etc/passwd",
            0o644,
            b"root:x:0:0::/root:/bin/sh\n",
        );
        add(&mut bottom, "etc/group", 0o644, b"bottom\n");
        add(&mut bottom, "etc/removed", 0o644, b"removed\n");
        add(&mut bottom, "hidden/below", 0o644, b"hidden\n");
        let mut top = tar::Builder::new(Vec::new());
        add(&mut top, "etc/group", 0o644, b"top\n");
        add(&mut top, "etc/.wh.removed", 0o644, b"");
        add(&mut top, "hidden/.wh..wh..opq", 0o644, b"");
        link(&mut top, "link", "/etc/passwd");
        link(
            &mut top,
            "outside",
            "../../../../../../proc/../etc/machine-id",
        );
        Self {
            name: None,
            layers: vec![bottom.into_inner().unwrap(), top.into_inner().unwrap()],
            multi_platform: false,
            broken: false,
        }
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// With an index, a nested one, and a platform that is nobody's.
    pub(crate) fn multi_platform(mut self) -> Self {
        self.multi_platform = true;
        self
    }

    /// With a layer whose content does not have its digest.
    pub(crate) fn broken_layer(mut self) -> Self {
        self.broken = true;
        self
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.render()).unwrap();
    }

    pub(crate) fn write_gzip(&self, path: &Path) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&self.render()).unwrap();
        std::fs::write(path, encoder.finish().unwrap()).unwrap();
    }

    /// As `docker save` wrote it before it learnt the OCI layout.
    pub(crate) fn write_saved(&self, path: &Path) {
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, "config.json", 0o644, self.config().as_bytes());
        let mut names = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let name = format!("{number}/layer.tar");
            add(&mut tar, &name, 0o644, layer);
            names.push(name);
        }
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": names}]);
        let manifest = manifest.to_string();
        add(&mut tar, "manifest.json", 0o644, manifest.as_bytes());
        std::fs::write(path, tar.into_inner().unwrap()).unwrap();
    }

    fn config(&self) -> String {
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| digest(layer)).collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
    }

    fn render(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        add(
            &mut tar,
            "oci-layout",
            0o644,
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        );
        let mut blob = |kind: &str, bytes: &[u8], flaw: &[u8]| {
            let digest = digest(bytes);
            let name = format!("blobs/{}", digest.replace(':', "/"));
            // A flaw keeps the size.
            let mut stored = bytes.to_vec();
            stored[..flaw.len()].copy_from_slice(flaw);
            add(&mut tar, &name, 0o644, &stored);
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": digest,
                "size": bytes.len(),
            })
        };
        let mut layers = Vec::new();
        for layer in &self.layers {
            // New content, as what is in the store already is not written again.
            let mut layer = layer.clone();
            if self.broken {
                layer.extend_from_slice(&[0; 1024]);
            }
            let flaw: &[u8] = if self.broken { b"flaw" } else { b"" };
            layers.push(blob("layer.v1.tar", &layer, flaw));
        }
        let config = blob("config.v1+json", self.config().as_bytes(), b"");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let mut target = blob("manifest.v1+json", manifest.to_string().as_bytes(), b"");
        if self.multi_platform {
            let architecture = std::env::consts::ARCH;
            target["platform"] = json!({"os": "linux", "architecture": architecture});
            let mut absent = target.clone();
            absent["digest"] = json!(digest(b"absent"));
            absent["platform"] = json!({"os": "linux", "architecture": "mips"});
            let mut attestation = absent.clone();
            attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
            let inner = json!({"schemaVersion": 2, "manifests": [attestation, target]});
            let inner = blob("index.v1+json", inner.to_string().as_bytes(), b"");
            let outer = json!({"schemaVersion": 2, "manifests": [absent, inner]});
            target = blob("index.v1+json", outer.to_string().as_bytes(), b"");
        }
        if let Some(name) = &self.name {
            target["annotations"] = json!({"io.containerd.image.name": name});
        }
        let index = json!({"schemaVersion": 2, "manifests": [target]}).to_string();
        add(&mut tar, "index.json", 0o644, index.as_bytes());
        tar.into_inner().unwrap()
    }
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", HEXLOWER.encode(&sha2::Sha256::digest(bytes)))
}

fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_mtime(1);
    tar.append_data(&mut header, name, content).unwrap();
}

fn link(tar: &mut tar::Builder<Vec<u8>>, name: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_mtime(1);
    tar.append_link(&mut header, name, target).unwrap();
}
