//! `down`.

use std::collections::{BTreeSet, HashMap};

use super::builder::{Builder, Gate, is_up, lives_in, uses};
use super::error::require_services;
use super::order::{Needs, Stop, stop_in_order};
use super::resources::is_attached;
use super::{Action, DownOptions, Plan, PlanError, Reason, StepId};
use crate::container::{VolumeRecord, label};
use crate::graph::Graph;
use crate::model::Project;
use crate::network::NetworkRecord;
use crate::reconcile::observe::{Observed, ObservedContainer};

/// Plans to take `project` down; without its file, from what its containers, networks and volumes say of themselves.
/// `name` is the name of the project.
pub fn plan_down(
    name: &str,
    project: Option<&Project>,
    observed: &Observed,
    options: &DownOptions,
) -> Result<Plan, PlanError> {
    if let Some(project) = project {
        let disabled = project.disabled_services.keys();
        let known = project.services.keys().chain(disabled).map(String::as_str);
        let seen = observed
            .containers
            .iter()
            .map(|container| container.service.as_str());
        require_services(&options.services, known.chain(seen))?;
    }
    // A circle in the file must not keep anything from being removed.
    let graph = project.and_then(|project| Graph::new(project).ok());
    let mut down = Down {
        name,
        project,
        observed,
        options,
        builder: Builder::default(),
        removed: HashMap::new(),
        released: HashMap::new(),
    };
    let going = down.going();
    down.containers(graph.as_ref(), &going);
    down.sandboxes();
    down.networks();
    down.volumes(&going);
    down.images(&going);
    Ok(down.builder.plan)
}

struct Down<'a> {
    name: &'a str,
    project: Option<&'a Project>,
    observed: &'a Observed,
    options: &'a DownOptions,
    builder: Builder,
    /// Step that removes a container, by its id.
    removed: HashMap<&'a str, StepId>,
    /// Step that removes a sandbox, by its id.
    released: HashMap<&'a str, StepId>,
}

impl<'a> Down<'a> {
    fn is_whole(&self) -> bool {
        self.options.services.is_empty()
    }

    /// Containers to be removed. Orphans stay unless asked for, and are warned of.
    fn going(&mut self) -> Vec<&'a ObservedContainer> {
        let (mut going, mut orphans) = (Vec::new(), Vec::new());
        for container in &self.observed.containers {
            let is_known = self.project.is_none_or(|project| {
                project.services.contains_key(&container.service)
                    || project.disabled_services.contains_key(&container.service)
            });
            let is_named = self.is_whole() || self.options.services.contains(&container.service);
            let is_wanted_gone = is_named && (is_known || !self.is_whole());
            if is_wanted_gone || !is_known && self.options.remove_orphans {
                going.push(container);
            } else if !is_known {
                orphans.push(container.name.as_str());
            }
        }
        if !orphans.is_empty() {
            self.builder.warn(format!(
                "containers of services that are not in the file: {}; `--remove-orphans` removes them",
                orphans.join(", ")
            ));
        }
        going
    }

    fn containers(&mut self, graph: Option<&'a Graph>, going: &[&'a ObservedContainer]) {
        let needs = Needs::new(graph, self.observed.containers.iter());
        let stops: Vec<Stop<'_>> = going
            .iter()
            .filter(|container| is_up(container))
            .map(|container| Stop {
                container,
                with_hooks: !container.one_off,
                reasons: vec![Reason::NotWanted],
                after: Vec::new(),
                is_strict: false,
            })
            .collect();
        let stopped = stop_in_order(&mut self.builder, &needs, &stops, self.options.timeout);
        for container in going {
            let reasons = vec![Reason::NotWanted];
            let gate = Gate::after(stopped.get(container.id.as_str()).copied());
            let volumes = self.options.volumes;
            let step = self
                .builder
                .remove(container, volumes, reasons.clone(), gate);
            self.removed.insert(&container.id, step);
            self.builder.container_change(container, "remove", reasons);
        }
    }

    /// Removes sandboxes that no container uses any more, and in which none lives.
    fn sandboxes(&mut self) {
        for sandbox in &self.observed.sandboxes {
            let users = self.observed.containers.iter();
            let users: Vec<&str> = users
                .filter(|container| uses(container, sandbox) || lives_in(container, sandbox))
                .map(|container| container.id.as_str())
                .collect();
            if users.is_empty() && !self.is_whole() {
                continue;
            }
            let steps = users
                .into_iter()
                .map(|user| self.removed.get(user).copied());
            let Some(steps) = steps.collect::<Option<Vec<StepId>>>() else {
                continue;
            };
            let step = self
                .builder
                .remove_sandbox(&sandbox.spec.id, Gate::after(steps));
            self.released.insert(&sandbox.spec.id, step);
        }
    }

    fn networks(&mut self) {
        for network in &self.observed.networks {
            if !self.owns_network(network) {
                continue;
            }
            let name = network.spec.name.as_str();
            let attached = self.observed.sandboxes.iter();
            let attached = attached.filter(|sandbox| is_attached(sandbox, name));
            let (mut gone, mut users) = (Vec::new(), Vec::new());
            for sandbox in attached {
                match self.released.get(sandbox.spec.id.as_str()) {
                    Some(step) => gone.push(*step),
                    None => users.push(sandbox.spec.id.as_str()),
                }
            }
            if !self.is_whole() && gone.is_empty() {
                continue;
            }
            users.extend(
                self.observed
                    .other_users
                    .get(name)
                    .into_iter()
                    .flatten()
                    .map(String::as_str),
            );
            if users.is_empty() {
                let action = Action::RemoveNetwork { name: name.into() };
                self.builder
                    .push(action, vec![Reason::NotWanted], Gate::after(gone));
                self.builder
                    .change("network", name, None, "remove", vec![Reason::NotWanted]);
            } else {
                if self.is_whole() {
                    self.builder.warn(format!(
                        "network `{name}` is still in use by {}",
                        users.join(", ")
                    ));
                }
                self.builder
                    .change("network", name, None, "none", Vec::new());
            }
        }
    }

    fn owns_network(&self, network: &NetworkRecord) -> bool {
        let owner = network.spec.labels.get(label::PROJECT);
        let is_external = self.project.is_some_and(|project| {
            project
                .networks
                .values()
                .any(|declared| declared.external && declared.name == network.spec.name)
        });
        !network.foreign && owner.is_some_and(|owner| owner == self.name) && !is_external
    }

    fn volumes(&mut self, going: &[&'a ObservedContainer]) {
        if !self.options.volumes || !self.is_whole() {
            return;
        }
        for volume in &self.observed.volumes {
            if !self.owns_volume(volume) {
                continue;
            }
            let name = volume.name.as_str();
            // What belongs to a container goes with it.
            let goes_along = going.iter().any(|container| {
                container.desired.as_ref().is_some_and(|desired| {
                    desired
                        .anonymous_volumes
                        .values()
                        .any(|anonymous| anonymous == name)
                })
            });
            if volume.anonymous && goes_along {
                continue;
            }
            let mut users = self.observed.containers.iter().filter(|container| {
                container.desired.as_ref().is_none_or(|desired| {
                    desired.volumes.contains_key(name)
                        || desired
                            .anonymous_volumes
                            .values()
                            .any(|anonymous| anonymous == name)
                })
            });
            let removed: Option<Vec<StepId>> = users
                .by_ref()
                .map(|user| self.removed.get(user.id.as_str()).copied())
                .collect();
            if let Some(steps) = removed {
                let action = Action::RemoveVolume { name: name.into() };
                self.builder
                    .push(action, vec![Reason::NotWanted], Gate::after(steps));
                self.builder
                    .change("volume", name, None, "remove", vec![Reason::NotWanted]);
            } else {
                self.builder
                    .warn(format!("volume `{name}` is still in use"));
                self.builder
                    .change("volume", name, None, "none", Vec::new());
            }
        }
    }

    /// Volumes with a name are only removed where the file declares them; without a file, their labels count.
    fn owns_volume(&self, volume: &VolumeRecord) -> bool {
        let owner = volume.labels.get(label::PROJECT);
        if owner.is_none_or(|owner| owner != self.name) {
            return false;
        }
        let is_declared = self.project.is_none_or(|project| {
            project
                .volumes
                .values()
                .any(|declared| !declared.external && declared.name == volume.name)
        });
        volume.anonymous || is_declared
    }

    fn images(&mut self, going: &[&'a ObservedContainer]) {
        let Some(which) = self.options.remove_images.as_deref() else {
            return;
        };
        let mut references: BTreeSet<String> = BTreeSet::new();
        if let Some(project) = self.project {
            for service in project.services.values() {
                let is_named = self.is_whole() || self.options.services.contains(&service.name);
                if is_named && (which == "all" || service.image.is_none()) {
                    references.insert(project.image_reference(service));
                }
            }
        }
        if which == "all" {
            references.extend(going.iter().map(|container| container.image.clone()));
        }
        let removed: Vec<StepId> = self.removed.values().copied().collect();
        for reference in references {
            let gate = Gate::follows(removed.iter().copied());
            self.builder
                .push(Action::RemoveImage { reference }, Vec::new(), gate);
        }
    }
}
