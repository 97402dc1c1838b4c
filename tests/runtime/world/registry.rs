//! A registry in a world, whole or broken.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{World, command::Running, eventually, image_archive, source};

/// Where the good registry listens, and where the one that breaks does.
const PORT: u16 = 5000;
const FAULTY_PORT: u16 = 5001;

/// How a registry is to be spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Door {
    #[default]
    Open,
    /// Wants the user `me` with the password `secret`.
    Locked,
    /// Speaks TLS with a certificate of [`Registry::authority`].
    Tls,
    /// As [`Door::Tls`], and wants one of the same authority.
    Mutual,
}

/// A registry, which ends with [`Registry::stop`].
#[must_use]
#[derive(Debug)]
pub(crate) struct Registry<'w> {
    world: &'w World,
    running: Vec<Running>,
}

impl<'w> Registry<'w> {
    /// `localhost:5000` for everybody.
    pub(crate) fn start(world: &'w World) -> Self {
        let mut registry = Self {
            world,
            running: Vec::new(),
        };
        registry.open(PORT, Door::Open);
        registry
    }

    /// Another door to the same images.
    pub(crate) fn open(&mut self, port: u16, door: Door) {
        let world = self.world;
        let folder = world.path(format!("registry-{port}"));
        fs::create_dir_all(&folder).unwrap();
        let shown = folder.display();
        let extra = match door {
            Door::Open => String::new(),
            Door::Locked => {
                // As `htpasswd -nbB me secret` prints it.
                let line = "me:$2y$05$c0mp0seTestsSaltAbcdeekTy2pv1cioWepZoS3LzLatkb7qYLWHC\n";
                fs::write(folder.join("htpasswd"), line).unwrap();
                format!("auth: {{htpasswd: {{realm: test, path: {shown}/htpasswd}}}}\n")
            }
            Door::Tls | Door::Mutual => {
                self.certify(&folder);
                String::new()
            }
        };
        let pair = format!("certificate: {shown}/server.crt, key: {shown}/server.key");
        let tls = match door {
            Door::Tls => format!(", tls: {{{pair}}}"),
            Door::Mutual => {
                let authority = self.authority();
                format!(", tls: {{{pair}, clientcas: [{}]}}", authority.display())
            }
            Door::Open | Door::Locked => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:{port}'{tls}}}\n{extra}",
            world.path("registry").display()
        );
        fs::write(folder.join("config.yml"), config).unwrap();
        let serve = "exec docker-registry serve \"$0/config.yml\" >>\"$0/log\" 2>&1";
        self.run(world.command("sh").args(["-c", serve]).arg(&folder).start());
        self.wait_for(port);
    }

    /// A door at `localhost:5001` that breaks as [`Registry::faults`] says.
    pub(crate) fn open_faulty(&mut self) {
        self.faults(&json!([]));
        let proxy = self
            .world
            .command("python3")
            .arg(source("tests/runtime/world/faulty-proxy.py"))
            .args([FAULTY_PORT.to_string(), PORT.to_string()])
            .arg(self.world.path("faults"))
            .arg(self.world.path("requests"))
            .start();
        self.run(proxy);
        self.wait_for(FAULTY_PORT);
        fs::write(self.world.path("requests"), "").unwrap();
    }

    /// From now on; see `faulty-proxy.py`.
    pub(crate) fn faults(&self, rules: &Value) {
        fs::write(self.world.path("faults"), rules.to_string()).unwrap();
    }

    /// Requests that the faulty door has seen and that contain `text`.
    pub(crate) fn requests(&self, text: &str) -> Vec<String> {
        let log = fs::read_to_string(self.world.path("requests")).unwrap();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }

    /// Puts an image there (see `put-image.py`); returns its digest.
    pub(crate) fn put(&self, name: &str, spec: &Value) -> String {
        let put = self
            .world
            .command("python3")
            .arg(source("tests/runtime/world/put-image.py"))
            .args([PORT.to_string(), name.to_owned(), spec.to_string()])
            .run()
            .success();
        put.stdout.trim().to_owned()
    }

    /// As [`Registry::put`]: busybox and so many layers of noise, which follow from `seed`.
    pub(crate) fn put_layers(&self, name: &str, seed: u32, count: u32, size: u32) -> String {
        let layers: Vec<Value> = (0..count)
            .map(|number| json!({"seed": seed + number, "size": size}))
            .collect();
        self.put(name, &json!({"archive": image_archive(), "layers": layers}))
    }

    /// The certificate that has signed those of [`Door::Tls`].
    pub(crate) fn authority(&self) -> std::path::PathBuf {
        self.world.path("authority.crt")
    }

    pub(crate) fn stop(self) {
        for running in self.running {
            running.signal(Signal::KILL);
            let _output = running.finish();
        }
    }

    fn run(&mut self, running: Running) {
        self.running.push(running.within_a_day());
    }

    fn wait_for(&self, port: u16) {
        eventually("the registry answers", || {
            let probe = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
            let tried = self.world.command("bash").args(["-c", &probe]).run();
            tried.status.success()
        });
    }

    fn certify(&self, folder: &std::path::Path) {
        let script = r#"set -e
            [ -e "$0/authority.crt" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 30 \
                -keyout "$0/authority.key" -out "$0/authority.crt" -subj /CN=authority \
                -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
            openssl req -newkey rsa:2048 -nodes -keyout "$1/server.key" -out "$1/server.csr" -subj /CN=server
            printf 'subjectAltName=DNS:registry.test,DNS:localhost\n' >"$1/names"
            openssl x509 -req -in "$1/server.csr" -CA "$0/authority.crt" -CAkey "$0/authority.key" \
                -CAcreateserial -days 30 -extfile "$1/names" -out "$1/server.crt""#;
        let _made = self
            .world
            .command("sh")
            .args(["-c", script])
            .arg(self.world.path(""))
            .arg(folder)
            .run()
            .success();
    }
}
