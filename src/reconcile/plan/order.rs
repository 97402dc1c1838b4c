//! The order of services, with or without a file, and stopping in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use indexmap::IndexMap;

use super::builder::{Builder, Gate};
use super::{Reason, StepId};
use crate::container::label;
use crate::graph::{Graph, Requirement};
use crate::model::Condition;
use crate::reconcile::observe::ObservedContainer;

/// Which services need which, by the file where it knows them, else by what their containers say.
#[derive(Debug)]
pub(super) struct Needs<'a> {
    direct: BTreeMap<&'a str, IndexMap<&'a str, Requirement>>,
}

impl<'a> Needs<'a> {
    pub(super) fn new(
        graph: Option<&'a Graph>,
        containers: impl Iterator<Item = &'a ObservedContainer>,
    ) -> Self {
        let mut direct: BTreeMap<&str, IndexMap<&str, Requirement>> = BTreeMap::new();
        if let Some(graph) = graph {
            for service in graph.services() {
                direct.insert(service, graph.dependencies(service));
            }
        }
        for container in containers {
            if !graph.is_some_and(|graph| graph.contains(&container.service)) {
                let entry = direct.entry(&container.service).or_default();
                entry.extend(written_requirements(&container.labels));
            }
        }
        Self { direct }
    }

    /// What `service` needs by itself.
    pub(super) fn direct(&self, service: &str) -> impl Iterator<Item = (&'a str, Requirement)> {
        let needs = self.direct.get(service).into_iter().flatten();
        needs.map(|(name, requirement)| (*name, *requirement))
    }

    /// All that `service` needs, directly or through others.
    fn all(&self, service: &'a str) -> BTreeSet<&'a str> {
        let mut open = vec![service];
        let mut found = BTreeSet::new();
        while let Some(next) = open.pop() {
            open.extend(
                self.direct(next)
                    .map(|(name, _)| name)
                    .filter(|name| found.insert(*name)),
            );
        }
        found
    }

    /// Services of `containers` in the order of starting: what others need comes first. Labels may form a circle; then the
    /// order within it is that of the names.
    pub(super) fn order(&self, services: impl IntoIterator<Item = &'a str>) -> Vec<Ordered<'a>> {
        let mut left: Vec<(&str, BTreeSet<&str>)> = Vec::new();
        for service in services {
            if !left.iter().any(|(known, _)| *known == service) {
                left.push((service, self.all(service)));
            }
        }
        let names: BTreeSet<&str> = left.iter().map(|(name, _)| *name).collect();
        let mut done: Vec<Ordered<'a>> = Vec::new();
        while !left.is_empty() {
            let is_free = |needs: &BTreeSet<&str>, own: &str| {
                left.iter()
                    .all(|(other, _)| *other == own || !needs.contains(other))
            };
            let next = left
                .iter()
                .position(|(name, needs)| is_free(needs, name))
                .unwrap_or(0);
            let (service, needs) = left.remove(next);
            let needs = done
                .iter()
                .map(|before| before.service)
                .filter(|before| names.contains(before) && needs.contains(before))
                .collect();
            done.push(Ordered { service, needs });
        }
        done
    }
}

/// What the label of a container says of its dependencies.
fn written_requirements(
    labels: &BTreeMap<String, String>,
) -> impl Iterator<Item = (&str, Requirement)> {
    let written = labels.get(label::DEPENDS_ON).map_or("", String::as_str);
    written.split(',').filter_map(written_requirement)
}

/// What each service directly waits for when all of them start, by the labels of their containers alone.
pub fn written_order<'a>(
    containers: impl Iterator<Item = &'a BTreeMap<String, String>>,
) -> BTreeMap<String, Vec<(String, Condition)>> {
    let mut needs = Needs {
        direct: BTreeMap::new(),
    };
    for labels in containers {
        if let Some(service) = labels.get(label::SERVICE) {
            let entry = needs.direct.entry(service).or_default();
            entry.extend(written_requirements(labels));
        }
    }
    let ordered = needs.order(needs.direct.keys().copied());
    let waits = ordered.into_iter().map(|entry| {
        let direct = needs.direct(entry.service);
        // Of those in a circle, the first does not wait for the others.
        let before = direct.filter(|(name, _)| entry.needs.contains(name));
        let before = before.map(|(name, requirement)| (name.to_owned(), requirement.condition));
        (entry.service.to_owned(), before.collect())
    });
    waits.collect()
}

/// Reads an entry of the label `com.docker.compose.depends_on`, as `db:service_healthy:false`.
fn written_requirement(entry: &str) -> Option<(&str, Requirement)> {
    let mut parts = entry.split(':');
    let name = parts.next().filter(|name| !name.is_empty())?;
    let condition = match parts.next() {
        Some("service_healthy") => Condition::ServiceHealthy,
        Some("service_completed_successfully") => Condition::ServiceCompletedSuccessfully,
        _ => Condition::ServiceStarted,
    };
    let requirement = Requirement {
        condition,
        restart: parts.next() == Some("true"),
        required: true,
    };
    Some((name, requirement))
}

/// A service and those before it in the same order that it needs, directly or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ordered<'a> {
    pub(super) service: &'a str,
    pub(super) needs: Vec<&'a str>,
}

/// Stops `containers`, dependents first, and returns the step of each by its id.
pub(super) fn stop_in_order<'a>(
    builder: &mut Builder,
    needs: &Needs<'a>,
    containers: &[Stop<'a>],
    timeout: Option<u32>,
) -> HashMap<&'a str, StepId> {
    let services = containers
        .iter()
        .map(|stop| stop.container.service.as_str());
    let mut order = needs.order(services);
    order.reverse();
    let mut of_service: HashMap<&str, Vec<StepId>> = HashMap::new();
    let mut of_container = HashMap::new();
    for index in 0..order.len() {
        let service = order[index].service;
        let dependents = order[..index]
            .iter()
            .filter(|other| other.needs.contains(&service));
        let before: Vec<StepId> = dependents
            .filter_map(|other| of_service.get(other.service))
            .flatten()
            .copied()
            .collect();
        for stop in containers
            .iter()
            .filter(|stop| stop.container.service == service)
        {
            let mut gate = Gate::after(stop.after.iter().copied());
            if stop.is_strict {
                gate.after.extend(&before);
            } else {
                gate.follows.extend(&before);
            }
            let reasons = stop.reasons.clone();
            let step = builder.stop(stop.container, timeout, stop.with_hooks, reasons, gate);
            of_service.entry(service).or_default().push(step);
            of_container.insert(stop.container.id.as_str(), step);
        }
    }
    of_container
}

/// A container to be stopped.
#[derive(Debug)]
pub(super) struct Stop<'a> {
    pub(super) container: &'a ObservedContainer,
    pub(super) with_hooks: bool,
    pub(super) reasons: Vec<Reason>,
    pub(super) after: Vec<StepId>,
    /// Whether a dependent that cannot be stopped keeps this one from being stopped.
    pub(super) is_strict: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(service: &str, depends_on: &str) -> BTreeMap<String, String> {
        let labels = [(label::SERVICE, service), (label::DEPENDS_ON, depends_on)];
        labels
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn labels_tell_what_a_service_waits_for() {
        let containers = [
            labels(
                "web",
                "db:service_healthy:false,job:service_completed_successfully:false,gone:service_started:false",
            ),
            labels("db", ""),
            labels("job", "db:service_started:true"),
        ];
        let order = written_order(containers.iter());
        assert_eq!(order["db"], []);
        let db = |condition| ("db".to_owned(), condition);
        assert_eq!(order["job"], [db(Condition::ServiceStarted)]);
        let job = ("job".to_owned(), Condition::ServiceCompletedSuccessfully);
        assert_eq!(order["web"], [db(Condition::ServiceHealthy), job]);
    }

    #[test]
    fn a_circle_of_labels_is_cut() {
        let containers = [
            labels("a", "b:service_healthy:false"),
            labels("b", "a:service_healthy:false"),
        ];
        let order = written_order(containers.iter());
        let waits: usize = order.values().map(Vec::len).sum();
        assert_eq!(waits, 1, "{order:?}");
    }
}
