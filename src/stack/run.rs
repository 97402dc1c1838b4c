//! A container of its own for one command of a service.

use super::attachment::Attachment;
use super::{Stack, StackError};
use crate::model::{Mount, MountKind, Port, Project, Service, Volume};
use crate::reconcile::plan::{OneOff, UpOptions};
use crate::supervisor::protocol::{Reply, Request};

/// What to run, and what differs from the service.
#[derive(Clone, Debug, Default)]
pub struct RunRequest {
    pub service: String,
    /// None: the service's.
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: Vec<(String, String)>,
    pub labels: Vec<(String, String)>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    /// None: `<project>-<service>-run-<12 hex digits>`.
    pub name: Option<String>,
    /// Ports that are published beside or instead of the service's own.
    pub publish: Vec<Port>,
    pub service_ports: bool,
    /// Mounts beside the service's own, or instead of those with the same target. A named volume that the project does not
    /// have is called as it is named.
    pub volumes: Vec<Mount>,
    pub terminal: bool,
    pub stdin_open: bool,
    /// Somebody waits for it: its output is passed on, and it ends with whoever waits.
    pub attended: bool,
    /// Remove it with its anonymous volumes when it has ended.
    pub auto_remove: bool,
    pub use_aliases: bool,
    pub no_deps: bool,
    pub remove_orphans: bool,
    pub ignore_orphans: bool,
    /// As in [`UpOptions`].
    pub pull: Option<String>,
    pub quiet_pull: bool,
}

/// A container that was made for one command.
#[derive(Debug)]
pub struct Started<'a> {
    pub id: String,
    /// Of one that is attended.
    pub attachment: Option<Attachment<'a>>,
}

impl Stack {
    /// What asks the supervisor to run a command.
    pub fn run_request(&self, run: &RunRequest) -> Result<Request, StackError> {
        let mut project = Box::new(self.required_project()?.clone());
        change(&mut project, run);
        let slug = crate::random::random_hex(32);
        let name = run
            .name
            .clone()
            .unwrap_or_else(|| project.joined_name(&[&run.service, "run", &slug[..12]]));
        let options = UpOptions {
            services: vec![run.service.clone()],
            no_deps: run.no_deps,
            remove_orphans: run.remove_orphans,
            ignore_orphans: run.ignore_orphans,
            pull: run.pull.clone(),
            quiet_pull: run.quiet_pull,
            one_off: Some(OneOff {
                service: run.service.clone(),
                name,
                slug,
                use_aliases: run.use_aliases,
                auto_remove: run.auto_remove,
                attended: run.attended,
            }),
            ..UpOptions::default()
        };
        Ok(Request::Run { project, options })
    }

    /// Starts what the service depends on, then a container of its own for a command.
    pub async fn run(
        &self,
        run: &RunRequest,
        mut on_reply: impl FnMut(Reply),
    ) -> Result<Started<'_>, StackError> {
        let mut request = self.run_request(run)?;
        let observed = self.observe().await?;
        self.check_origin(&observed, &request)?;
        self.record_origin(&observed)?;
        self.call_providers_first(&mut request, &mut on_reply)
            .await?;
        let (id, connection) = self.exchange(request, on_reply).await?;
        let id = id.unwrap_or_default();
        if connection.is_none() {
            return Ok(Started {
                id,
                attachment: None,
            });
        }
        let mut attachment = self.attachment(id.clone(), connection, run.terminal);
        if run.stdin_open {
            attachment.give_stdin()?;
        }
        Ok(Started {
            id,
            attachment: Some(attachment),
        })
    }
}

/// Makes the service what is to run.
fn change(project: &mut Project, run: &RunRequest) {
    for mount in &run.volumes {
        if let (MountKind::Volume, Some(name)) = (mount.kind, &mount.source) {
            let volume = || Volume {
                name: name.clone(),
                ..Volume::default()
            };
            project.volumes.entry(name.clone()).or_insert_with(volume);
        }
    }
    let Some(service) = project.services.get_mut(&run.service) else {
        return;
    };
    if let Some(entrypoint) = &run.entrypoint {
        service.entrypoint = Some(entrypoint.clone());
        service.command = Some(Vec::new());
    }
    if let Some(command) = &run.command {
        service.command = Some(command.clone());
    }
    let variables = run.environment.iter().cloned();
    service
        .environment
        .extend(variables.map(|(name, value)| (name, Some(value))));
    service.labels.extend(run.labels.iter().cloned());
    service.user = run.user.clone().or_else(|| service.user.take());
    service.working_dir = run
        .working_dir
        .clone()
        .or_else(|| service.working_dir.take());
    move_capabilities(service, run);
    if !run.service_ports {
        service.ports.clear();
    }
    service.ports.extend(run.publish.iter().cloned());
    let is_replaced = |mount: &Mount| run.volumes.iter().any(|own| own.target == mount.target);
    service.volumes.retain(|mount| !is_replaced(mount));
    service.volumes.extend(run.volumes.iter().cloned());
    service.tty = run.terminal;
    service.stdin_open = run.stdin_open;
    service.restart = None;
    if let Some(deploy) = &mut service.deploy {
        deploy.restart_policy = None;
    }
}

/// Adds and drops capabilities; what is asked for here wins over the file.
fn move_capabilities(service: &mut Service, run: &RunRequest) {
    let plain = |name: &str| name.to_uppercase().trim_start_matches("CAP_").to_owned();
    let is_in = |list: &[String], name: &str| list.iter().any(|known| plain(known) == plain(name));
    service.cap_drop.retain(|name| !is_in(&run.cap_add, name));
    service.cap_add.retain(|name| !is_in(&run.cap_drop, name));
    service.cap_add.extend(run.cap_add.iter().cloned());
    service.cap_drop.extend(run.cap_drop.iter().cloned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(service: Service, run: RunRequest) -> Service {
        let mut project = Project::default();
        project.services.insert("web".into(), service);
        let run = RunRequest {
            service: "web".into(),
            ..run
        };
        change(&mut project, &run);
        project.services["web"].clone()
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_entrypoint_takes_the_command_along() {
        let service = || Service {
            entrypoint: Some(words(&["init"])),
            command: Some(words(&["serve"])),
            ..Service::default()
        };
        let found = changed(
            service(),
            RunRequest {
                entrypoint: Some(words(&["sh", "-c"])),
                ..RunRequest::default()
            },
        );
        assert_eq!(found.command, Some(Vec::new()));
        let found = changed(
            service(),
            RunRequest {
                command: Some(words(&["test"])),
                ..RunRequest::default()
            },
        );
        assert_eq!(found.entrypoint, Some(words(&["init"])));
        assert_eq!(found.command, Some(words(&["test"])));
    }

    #[test]
    fn ports_are_published_only_if_asked_for() {
        let port = |target| Port {
            target,
            ..Port::default()
        };
        let service = || Service {
            ports: vec![port(80)],
            ..Service::default()
        };
        let targets = |run: RunRequest| -> Vec<u16> {
            let service = changed(service(), run);
            service.ports.iter().map(|port| port.target).collect()
        };
        assert!(targets(RunRequest::default()).is_empty());
        let all = RunRequest {
            service_ports: true,
            ..RunRequest::default()
        };
        assert_eq!(targets(all), [80]);
        let own = RunRequest {
            publish: vec![port(81)],
            ..RunRequest::default()
        };
        assert_eq!(targets(own), [81]);
    }

    #[test]
    fn what_is_asked_for_wins_over_the_file() {
        let service = Service {
            cap_drop: words(&["NET_RAW", "CHOWN"]),
            cap_add: words(&["CAP_SYS_TIME"]),
            restart: Some("always".into()),
            volumes: vec![Mount {
                target: "/data".into(),
                ..Mount::default()
            }],
            ..Service::default()
        };
        let found = changed(
            service,
            RunRequest {
                cap_add: words(&["cap_chown"]),
                cap_drop: words(&["sys_time"]),
                volumes: vec![Mount {
                    target: "/data".into(),
                    read_only: true,
                    ..Mount::default()
                }],
                ..RunRequest::default()
            },
        );
        assert_eq!(found.cap_drop, ["NET_RAW", "sys_time"]);
        assert_eq!(found.cap_add, ["cap_chown"]);
        assert_eq!(found.restart, None);
        assert_eq!(found.volumes.len(), 1);
        assert!(found.volumes[0].read_only);
    }
}
