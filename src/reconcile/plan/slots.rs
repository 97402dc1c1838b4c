//! What happens to each replica on the way up.

mod several;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::builder::{has_completed, is_gone, is_stopping, is_unstarted, is_up};
use super::resources::Resources;
use super::rollout::SlotUpdate;
use super::{OneOff, Reason, Recreate};
use crate::graph::Graph;
use crate::model::{Condition, OnChange};
use crate::network::{SandboxRecord, SandboxSpec};
use crate::reconcile::desired::{DesiredContainer, DesiredService, Parent, other_sandbox};
use crate::reconcile::diff::{self, Class, diff, strongest, value_changes};
use crate::reconcile::observe::{Observed, ObservedContainer};
use crate::reconcile::pulls::DesiredPull;

/// What happens to the container of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotChange {
    Keep,
    Create,
    Start,
    /// Without a restart; a stopped container is started after it.
    Update,
    Restart,
    Recreate,
}

/// What happens to the sandbox of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SandboxChange {
    /// It has none, or the one that it has stays.
    Keep,
    Create,
    Replace,
}

/// One replica.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    pub(super) service: &'a DesiredService,
    pub(super) wanted: DesiredContainer,
    /// The newest container of the slot.
    pub(super) current: Option<&'a ObservedContainer>,
    /// Older ones, left behind by a command that did not come to its end: they go when `current` is as it should be. One of
    /// them at most is up.
    pub(super) leftovers: Vec<&'a ObservedContainer>,
    /// Others that such a command left behind: they go at once.
    pub(super) dropped: Vec<&'a ObservedContainer>,
    pub(super) change: SlotChange,
    pub(super) sandbox: SandboxChange,
    pub(super) reasons: Vec<Reason>,
    /// Whether its network namespace will be another one than before.
    pub(super) is_moved: bool,
    /// Whether its container is started by the plan.
    pub(super) starts: bool,
    /// How its container is replaced while it serves, if it is.
    pub(super) update: Option<SlotUpdate<'a>>,
}

impl<'a> Slot<'a> {
    /// What its service is made from, for its hooks: they are for those who serve.
    pub(super) fn definition(&self) -> &serde_json::Value {
        if self.wanted.desired.one_off {
            &serde_json::Value::Null
        } else {
            &self.wanted.desired.config
        }
    }

    /// Id of its container, unless that is made by the plan.
    pub(super) fn container(&self) -> Option<&'a str> {
        let current = self.current.filter(|_| !self.creates());
        current.map(|current| current.id.as_str())
    }

    /// The container that counts, and the older ones.
    pub(super) fn containers(&self) -> impl Iterator<Item = &'a ObservedContainer> {
        let leftovers = self.leftovers.iter().copied();
        self.current.into_iter().chain(leftovers)
    }

    /// Left-over containers that run in another sandbox.
    pub(super) fn apart(&self) -> impl Iterator<Item = &'a ObservedContainer> {
        let sandbox = self.wanted.desired.sandbox.clone();
        let leftovers = self.leftovers.iter().copied();
        leftovers.filter(move |container| {
            let desired = container.desired.as_ref();
            is_up(container) && desired.is_some_and(|desired| desired.sandbox != sandbox)
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.wanted.desired.name
    }

    /// Signals that tell the running container of changed contents.
    pub(super) fn signals(&self) -> BTreeSet<&str> {
        let old = self
            .current
            .filter(|current| self.change == SlotChange::Update && is_up(current))
            .and_then(|current| current.desired.as_ref());
        let reactions = old.map(|old| diff::reactions(old, &self.wanted.desired));
        reactions
            .into_iter()
            .flatten()
            .filter_map(|reaction| match reaction {
                OnChange::Signal(signal) => Some(signal.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Whether a new container is made.
    pub(super) const fn creates(&self) -> bool {
        matches!(self.change, SlotChange::Create | SlotChange::Recreate)
    }
}

/// All replicas of one service.
#[derive(Debug, Default)]
pub(super) struct Replicas<'a> {
    /// By number.
    pub(super) slots: Vec<Slot<'a>>,
    /// One too many.
    pub(super) surplus: Vec<&'a ObservedContainer>,
}

/// What deciding about slots needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) observed: &'a Observed,
    pub(super) graph: &'a Graph,
    pub(super) pulls: &'a [DesiredPull],
    pub(super) no_start: bool,
    /// What does not run and has not changed is left alone.
    pub(super) only_changes: bool,
    /// Services whose namespaces or volumes others share.
    pub(super) shared: &'a BTreeSet<&'a str>,
}

/// How one service is to be treated.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) recreate: Recreate,
    /// The flag that asks for [`Recreate::Force`].
    pub(super) flag: &'static str,
    /// None: as many as there are.
    pub(super) replicas: Option<u32>,
}

impl<'a> Context<'a> {
    /// Decides about all replicas of `service`; `decided` holds the services before it in the order of starting.
    pub(super) fn replicas(
        &self,
        service: &'a DesiredService,
        policy: &Policy,
        resources: &Resources<'a>,
        decided: &HashMap<&'a str, Replicas<'a>>,
    ) -> Replicas<'a> {
        let mut existing: BTreeMap<u32, Vec<&'a ObservedContainer>> = BTreeMap::new();
        for container in &self.observed.containers {
            if container.service == service.name && !container.one_off {
                existing
                    .entry(container.number)
                    .or_default()
                    .push(container);
            }
        }
        let mut slots: Vec<Slot<'a>> = Vec::new();
        for (number, mut containers) in existing {
            containers.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
            slots.push(self.existing_slot(
                service,
                number,
                &containers,
                policy,
                resources,
                decided,
            ));
        }
        let replicas = policy
            .replicas
            .map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let wanted = replicas.unwrap_or(slots.len());
        let mut surplus = Vec::new();
        // Who is not ready goes first, then what is outdated, then the highest numbers.
        while slots.len() > wanted {
            let worth = |slot: &Slot<'a>| (self.answers(slot), slot.change != SlotChange::Recreate);
            let least = slots.iter().enumerate().rev();
            let least = least.min_by_key(|(_, slot)| worth(slot));
            let slot = slots.remove(least.map_or(0, |(index, _)| index));
            surplus.extend(slot.current);
            surplus.extend(slot.leftovers.into_iter().chain(slot.dropped));
        }
        let mut number = 1;
        while slots.len() < wanted {
            if !slots
                .iter()
                .any(|slot| slot.wanted.desired.number == number)
            {
                let slot = self.slot(
                    service,
                    (service.replica(number), None, Vec::new()),
                    policy,
                    resources,
                    decided,
                );
                slots.push(slot);
            }
            number += 1;
        }
        slots.sort_by_key(|slot| slot.wanted.desired.number);
        Replicas { slots, surplus }
    }

    /// The container for a single command of `service`, whose replicas are left alone.
    pub(super) fn one_off(
        &self,
        service: &'a DesiredService,
        one_off: &OneOff,
        resources: &Resources<'a>,
        decided: &HashMap<&'a str, Replicas<'a>>,
    ) -> Replicas<'a> {
        let mut wanted = service.one_off(&one_off.name, one_off.use_aliases);
        wanted.desired.slug.clone_from(&one_off.slug);
        wanted.desired.auto_remove = one_off.auto_remove;
        let policy = Policy {
            recreate: Recreate::Diverged,
            flag: "",
            replicas: None,
        };
        let none = (wanted, None, Vec::new());
        let mut slot = self.slot(service, none, &policy, resources, decided);
        slot.reasons = vec![Reason::Requested { by: "run".into() }];
        // It takes nobody's place, so nobody who lives with a replica has to move.
        slot.is_moved = false;
        Replicas {
            slots: vec![slot],
            ..Replicas::default()
        }
    }

    fn slot(
        &self,
        service: &'a DesiredService,
        (mut wanted, current, leftovers): (
            DesiredContainer,
            Option<&'a ObservedContainer>,
            Vec<&'a ObservedContainer>,
        ),
        policy: &Policy,
        resources: &Resources<'a>,
        decided: &HashMap<&'a str, Replicas<'a>>,
    ) -> Slot<'a> {
        let second = other_sandbox(&wanted.desired.name, &wanted.desired.name);
        let sandbox = current.and_then(|current| current.desired.as_ref()?.sandbox.as_deref());
        if sandbox == Some(&second) && !self.shared.contains(service.name.as_str()) {
            wanted.move_to(&second);
        }
        for (name, definition) in &mut wanted.desired.networks {
            if let Some(kept) = resources.kept_networks.get(name.as_str()) {
                definition.clone_from(kept);
            }
        }
        for (name, definition) in &mut wanted.desired.volumes {
            if let Some(kept) = resources.kept_volumes.get(name.as_str()) {
                definition.clone_from(kept);
            }
        }
        let mut follows = Vec::new();
        let mut is_moved = false;
        for (role, parent) in &service.parents {
            let Parent::Service(parent) = parent else {
                // Which container that is shows only when it starts.
                let old = current.and_then(|current| current.desired.as_ref());
                let old = old.and_then(|desired| desired.parents.get(role)).cloned();
                wanted
                    .desired
                    .parents
                    .extend(old.map(|old| (role.clone(), old)));
                continue;
            };
            let tie = self.tie(role, parent, decided);
            wanted
                .desired
                .parents
                .extend(tie.name.map(|name| (role.clone(), name)));
            is_moved |= tie.is_moved;
            let has_lost = current.is_some_and(|current| current.has_lost_network);
            if role == "network_mode" && has_lost && !tie.is_replaced {
                is_moved = true;
                follows.push(Reason::Follows {
                    resource: format!("the network of service {parent}"),
                });
            }
            if tie.is_replaced {
                follows.push(Reason::Follows {
                    resource: format!("service {parent}"),
                });
            }
        }
        let (sandbox, sandbox_reasons) = self.sandbox(wanted.sandbox.as_ref(), resources);
        is_moved |= sandbox != SandboxChange::Keep;
        let mut slot = Slot {
            service,
            wanted,
            current,
            leftovers,
            dropped: Vec::new(),
            change: SlotChange::Create,
            sandbox,
            reasons: vec![Reason::Missing],
            is_moved,
            starts: false,
            update: None,
        };
        if let Some(current) = current {
            self.decide(&mut slot, current, policy, follows, sandbox_reasons);
        }
        slot.starts = !self.no_start && self.is_to_be_started(&slot);
        slot
    }

    /// How a container hangs on the first replica of another service.
    fn tie(&self, role: &str, parent: &str, decided: &HashMap<&'a str, Replicas<'a>>) -> Tie {
        let slot = decided.get(parent).map(|replicas| replicas.slots.first());
        // A network namespace belongs to the slot, all else to the container.
        let is_network = role == "network_mode";
        match slot {
            // It has no replicas; making the container will say so.
            Some(None) => Tie::default(),
            Some(Some(slot)) => Tie {
                name: Some(match slot.current {
                    Some(current) if !is_network && !slot.creates() => current.id.clone(),
                    _ => slot.name().into(),
                }),
                is_moved: is_network && slot.is_moved,
                is_replaced: if is_network {
                    slot.is_moved
                } else {
                    slot.creates()
                },
            },
            None => {
                let first = self
                    .observed
                    .containers
                    .iter()
                    .filter(|container| container.service == parent && !container.one_off)
                    .min_by_key(|container| {
                        (container.number, std::cmp::Reverse(container.created_at))
                    });
                Tie {
                    name: first.map(|container| {
                        let name = if is_network {
                            &container.name
                        } else {
                            &container.id
                        };
                        name.clone()
                    }),
                    is_moved: false,
                    is_replaced: false,
                }
            }
        }
    }

    fn sandbox(
        &self,
        wanted: Option<&SandboxSpec>,
        resources: &Resources<'a>,
    ) -> (SandboxChange, Vec<Reason>) {
        let Some(wanted) = wanted else {
            return (SandboxChange::Keep, Vec::new());
        };
        let existing = self
            .observed
            .sandboxes
            .iter()
            .find(|record| record.spec.id == wanted.id);
        let Some(existing) = existing else {
            let resource = format!("sandbox {}", wanted.id);
            return (SandboxChange::Create, vec![Reason::Follows { resource }]);
        };
        let mut reasons = sandbox_changes(existing, wanted);
        for attachment in &wanted.attachments {
            if resources.replaced.contains_key(attachment.network.as_str()) {
                reasons.push(Reason::Follows {
                    resource: format!("network {}", attachment.network),
                });
            }
        }
        if reasons.is_empty() {
            (SandboxChange::Keep, reasons)
        } else {
            (SandboxChange::Replace, reasons)
        }
    }

    fn decide(
        &self,
        slot: &mut Slot<'a>,
        current: &'a ObservedContainer,
        policy: &Policy,
        follows: Vec<Reason>,
        sandbox_reasons: Vec<Reason>,
    ) {
        let is_gone = is_gone(current);
        let not_running = Reason::NotRunning {
            exit_code: current.exit_code,
        };
        let (class, mut reasons) = if policy.recreate == Recreate::Never && !is_gone {
            slot.is_moved = false;
            slot.sandbox = SandboxChange::Keep;
            match &current.desired {
                Some(old) => slot.wanted.desired.clone_from(old),
                None => slot.wanted.desired.name.clone_from(&current.name),
            }
            (None, Vec::new())
        } else {
            divergence(slot, current, policy, follows, sandbox_reasons)
        };
        let class = if is_gone {
            reasons.push(not_running.clone());
            Some(Class::Recreate)
        } else {
            class
        };
        let comes_back = is_stopping(current) && !self.no_start && !self.only_changes;
        slot.change = match class {
            Some(Class::Recreate) => SlotChange::Recreate,
            Some(Class::Restart) if is_up(current) => SlotChange::Restart,
            _ if comes_back => {
                reasons.push(Reason::Stopping);
                SlotChange::Restart
            }
            Some(Class::Restart | Class::InPlace) => SlotChange::Update,
            None if self.no_start || self.only_changes && !is_unstarted(current) => {
                SlotChange::Keep
            }
            None if is_up(current) || self.is_completed(slot, current) => SlotChange::Keep,
            None => {
                reasons.push(not_running);
                SlotChange::Start
            }
        };
        slot.reasons = reasons;
    }

    fn is_to_be_started(&self, slot: &Slot<'a>) -> bool {
        match (slot.change, slot.current) {
            (SlotChange::Keep, _) => false,
            (SlotChange::Update, Some(current)) => {
                !is_up(current) && !self.is_completed(slot, current)
            }
            _ => true,
        }
    }

    /// Whether it is a job that has done its work and that others only wait for: it is not done twice.
    fn is_completed(&self, slot: &Slot<'a>, current: &ObservedContainer) -> bool {
        let restart = slot.wanted.desired.restart.as_str();
        (restart == "no" || restart.starts_with("on-failure"))
            && self.is_awaited_job(&slot.service.name)
            && has_completed(current)
    }

    /// Whether a service waits for the end of this one.
    pub(super) fn is_awaited_job(&self, service: &str) -> bool {
        self.graph
            .dependents(service)
            .values()
            .any(|requirement| requirement.condition == Condition::ServiceCompletedSuccessfully)
    }
}

#[derive(Default)]
struct Tie {
    name: Option<String>,
    is_moved: bool,
    is_replaced: bool,
}

/// What makes the container of `slot` differ, and how strongly.
fn divergence(
    slot: &mut Slot<'_>,
    current: &ObservedContainer,
    policy: &Policy,
    follows: Vec<Reason>,
    sandbox_reasons: Vec<Reason>,
) -> (Option<Class>, Vec<Reason>) {
    let mut reasons = Vec::new();
    let mut class;
    let mut reactions = BTreeSet::new();
    if let Some(old) = &current.desired {
        reactions = diff::reactions(old, &slot.wanted.desired);
        let differences = diff(old, &slot.wanted.desired);
        class = strongest(&differences);
        reasons.extend(differences.into_iter().map(|difference| difference.reason));
        // An archive that is not imported is one that has changed.
        if !slot.service.is_image_known && slot.service.image.starts_with("oci-archive:") {
            class = Some(Class::Recreate);
            reasons.push(Reason::Changed {
                path: "image".into(),
                old: Some(old.image.clone().into()),
                new: None,
            });
        }
        slot.is_moved |= old.sandbox != slot.wanted.desired.sandbox
            || old.parents.get("network_mode") != slot.wanted.desired.parents.get("network_mode");
    } else {
        class = Some(Class::Recreate);
        reasons.push(Reason::Changed {
            path: "definition".into(),
            old: None,
            new: None,
        });
    }
    if slot.sandbox != SandboxChange::Keep || slot.is_moved {
        class = Some(Class::Recreate);
        // What the service itself says of its network explains more than the sandbox does.
        if reasons.is_empty() {
            reasons.extend(sandbox_reasons);
        }
    }
    if !follows.is_empty() {
        class = Some(Class::Recreate);
        reasons.extend(follows);
    }
    if class != Some(Class::Recreate) {
        reasons.extend(reactions.into_iter().map(|reaction| Reason::Requested {
            by: format!("x-on-change: {reaction}"),
        }));
    }
    if policy.recreate == Recreate::Force {
        class = Some(Class::Recreate);
        reasons.push(Reason::Requested {
            by: policy.flag.into(),
        });
    }
    (class, reasons)
}

/// What differs between a sandbox and the one that is wanted, in the words of the file.
fn sandbox_changes(existing: &SandboxRecord, wanted: &SandboxSpec) -> Vec<Reason> {
    let definition = |spec: &SandboxSpec| {
        let networks: serde_json::Map<String, serde_json::Value> = spec
            .attachments
            .iter()
            .enumerate()
            .map(|(index, attachment)| {
                let mut value = serde_json::to_value(attachment).unwrap_or_default();
                if let Some(map) = value.as_object_mut() {
                    map.remove("network");
                    // The first network is the primary one.
                    map.insert("order".into(), index.into());
                }
                (attachment.network.clone(), value)
            })
            .collect();
        serde_json::json!({
            "networks": networks,
            "ports": spec.ports,
            "sysctls": spec.sysctls,
        })
    };
    value_changes("", &definition(&existing.spec), &definition(wanted))
}
