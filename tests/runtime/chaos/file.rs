//! A compose file that is edited at random, and what follows from it.

use std::collections::BTreeMap;

use fastrand::Rng;

/// Writes numbered lines, after a name that is new in each run. What was written is also noted in the volume, so that
/// it can be told which lines must be in the log.
const WRITER: &str = "exec 2>/dev/null; run=$$(cat /proc/sys/kernel/random/uuid); i=0; \
    while :; do echo $$run $$i; echo $$i >/data/last-$$run; i=$$((i+1)); sleep 0.02; done";

/// First of the published ports of `web`, one for each replica that there may be.
pub(super) const FIRST_PORT: u16 = 18080;

/// What the file says now. Every value can be changed by [`Stack::edit`].
#[derive(Debug)]
pub(super) struct Stack {
    /// The value of a variable, by service: another one is a reason to recreate.
    generations: BTreeMap<&'static str, u32>,
    pub(super) web_replicas: u32,
    pub(super) is_published: bool,
    pub(super) is_probed: bool,
    waits_for_job: bool,
    pub(super) has_guest: bool,
    web_is_at_front: bool,
    restart: &'static str,
    config: u32,
    limit: u32,
    subnet: u32,
}

impl Default for Stack {
    fn default() -> Self {
        Self {
            generations: ["web", "db", "writer", "job", "guest"]
                .map(|name| (name, 0))
                .into(),
            web_replicas: 2,
            is_published: true,
            is_probed: true,
            waits_for_job: false,
            has_guest: true,
            web_is_at_front: true,
            restart: "always",
            config: 0,
            limit: 64,
            subnet: 0,
        }
    }
}

/// One service as it is to be.
pub(super) struct Wanted {
    pub(super) name: &'static str,
    pub(super) replicas: u32,
    /// What the processes have in their variable `CHAOS`.
    pub(super) mark: String,
    /// It has a health check.
    pub(super) is_probed: bool,
    /// It ends by itself.
    pub(super) ends: bool,
}

impl Stack {
    /// Changes one thing, and says which.
    pub(super) fn edit(&mut self, rng: &mut Rng) -> String {
        match rng.u8(..14) {
            0..=3 => {
                let name = self.any_service(rng);
                let generation = self.generations.entry(name).or_default();
                *generation += 1;
                format!("{name} generation {generation}")
            }
            4..=5 => {
                self.web_replicas = rng.u32(1..4);
                format!("{} web replicas", self.web_replicas)
            }
            6 => {
                self.is_published = !self.is_published;
                format!("published: {}", self.is_published)
            }
            7 => {
                self.is_probed = !self.is_probed;
                format!("probed: {}", self.is_probed)
            }
            8 => {
                self.waits_for_job = !self.waits_for_job;
                format!("waits for job: {}", self.waits_for_job)
            }
            9 => {
                self.has_guest = !self.has_guest;
                format!("guest: {}", self.has_guest)
            }
            10 => {
                self.web_is_at_front = !self.web_is_at_front;
                format!("web at front: {}", self.web_is_at_front)
            }
            11 => {
                self.restart = ["always", "unless-stopped", "no", "on-failure:9"][rng.usize(..4)];
                format!("restart: {}", self.restart)
            }
            12 => {
                self.config += 1;
                self.limit = 32 + rng.u32(..64);
                format!("config {}, limit {} MB", self.config, self.limit)
            }
            _ => {
                self.subnet = rng.u32(..4);
                format!("subnet {}", self.subnet)
            }
        }
    }

    /// The name of a service that the file has.
    pub(super) fn any_service(&self, rng: &mut Rng) -> &'static str {
        let wanted = self.wanted();
        wanted[rng.usize(..wanted.len())].name
    }

    pub(super) fn mark(&self, name: &str) -> String {
        format!("{name}-{}", self.generations[name])
    }

    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let service = |name: &'static str| Wanted {
            name,
            replicas: 1,
            mark: self.mark(name),
            is_probed: false,
            ends: false,
        };
        let web = Wanted {
            replicas: self.web_replicas,
            is_probed: self.is_probed,
            ..service("web")
        };
        let db = Wanted {
            is_probed: true,
            ..service("db")
        };
        let mut wanted = vec![web, db, service("writer")];
        if self.waits_for_job {
            wanted.push(Wanted {
                ends: true,
                ..service("job")
            });
        }
        if self.has_guest {
            wanted.push(service("guest"));
        }
        wanted
    }

    /// The names of the volumes whose content must last.
    pub(super) const VOLUMES: [&'static str; 2] = ["chaos_data", "chaos_shared"];

    pub(super) fn text(&self) -> String {
        let front = if self.web_is_at_front {
            "front, back"
        } else {
            "back"
        };
        let ports = if self.is_published {
            format!("    ports: ['{FIRST_PORT}-{}:80']\n", FIRST_PORT + 2)
        } else {
            String::new()
        };
        let probe = if self.is_probed {
            "    healthcheck: {test: 'true', interval: 200ms}\n"
        } else {
            ""
        };
        let job_condition = if self.waits_for_job {
            "      job: {condition: service_completed_successfully}\n"
        } else {
            ""
        };
        let mut parts = vec![format!(
            "services:
  web:
    image: demo
    command: httpd -f -p 80 -h /etc
    init: true
    restart: {restart}
    stop_grace_period: 0s
    environment: {{CHAOS: {web}}}
    networks: [{front}]
    configs: [{{source: page, target: /etc/page}}]
    mem_limit: {limit}m
    volumes: ['shared:/shared']
{ports}{probe}    deploy: {{replicas: {replicas}}}
    depends_on:
      db: {{condition: service_healthy}}
{job_condition}  db:
    image: demo
    command: sleep infinity
    restart: {restart}
    stop_grace_period: 0s
    environment: {{CHAOS: {db}}}
    networks: [back]
    volumes: ['shared:/shared', /cache]
    healthcheck: {{test: 'test -d /shared', interval: 200ms, start_period: 5s, start_interval: 200ms}}
  writer:
    image: demo
    command: [sh, -c, '{WRITER}']
    restart: {restart}
    stop_grace_period: 0s
    environment: {{CHAOS: {writer}}}
    networks: [back, front]
    volumes: ['data:/data']
",
            restart = format_args!("'{}'", self.restart),
            web = self.mark("web"),
            db = self.mark("db"),
            writer = self.mark("writer"),
            limit = self.limit,
            replicas = self.web_replicas,
        )];
        if self.waits_for_job {
            let job = self.mark("job");
            parts.push(format!(
                "  job:
    image: demo
    command: ['sh', '-c', 'sleep 0.2']
    environment: {{CHAOS: {job}}}
    network_mode: none
"
            ));
        }
        if self.has_guest {
            let guest = self.mark("guest");
            parts.push(format!(
                "  guest:
    image: demo
    command: sleep infinity
    restart: always
    stop_grace_period: 0s
    environment: {{CHAOS: {guest}}}
    network_mode: service:db
"
            ));
        }
        parts.push(format!(
            "networks:
  front: {{}}
  back: {{internal: true, ipam: {{config: [{{subnet: 10.77.{subnet}.0/24}}]}}}}
volumes:
  data:
  shared:
configs:
  page: {{content: 'page {config}'}}
",
            subnet = self.subnet,
            config = self.config,
        ));
        parts.concat()
    }
}
