//! Images that are pulled.

use super::*;
use crate::reconcile::pulls::DesiredPull;

fn pull(services: &[&str], reference: &str, reasons: Vec<Reason>) -> DesiredPull {
    DesiredPull {
        services: services.iter().map(|name| (*name).into()).collect(),
        reference: reference.into(),
        platform: None,
        digest: "sha256:2".into(),
        reasons,
    }
}

fn changed() -> Vec<Reason> {
    vec![Reason::Changed {
        path: "digest".into(),
        old: Some("sha256:1".into()),
        new: Some("sha256:2".into()),
    }]
}

/// A plan where the registry has `digest` for every service's image.
fn plan(project: &Project, world: &World, digest: &str, pulls: Vec<DesiredPull>) -> Plan {
    let desired = DesiredState {
        pulls,
        ..wanted_with(project, Some(&image(digest)), &BTreeMap::new())
    };
    plan_up(project, &desired, &world.observed, &UpOptions::default()).unwrap()
}

#[test]
fn a_new_digest_is_pulled_and_recreates_with_both_digests_as_reason() {
    let project = project([("web", service())]);
    let world = running(&project);
    let pulls = vec![pull(&["web"], "busybox", changed())];
    let plan = plan(&project, &world, "sha256:2", pulls);
    assert!(waits(&plan, "image busybox", "pull busybox"));
    assert!(waits(&plan, "stop shop-web-1", "pull busybox"));
    let of_container = plan
        .changes
        .iter()
        .find(|change| change.kind == "container");
    let reasons = &of_container.unwrap().reasons;
    assert_eq!(reasons[0].to_string(), "image: sha256:1 → sha256:2");
    let of_image = plan.changes.iter().find(|change| change.kind == "image");
    assert_eq!(of_image.unwrap().change, "pull");
}

#[test]
fn an_image_that_is_as_its_registry_has_it_takes_no_step() {
    let project = project([("web", service())]);
    let world = running(&project);
    let pulls = vec![pull(&["web"], "busybox", Vec::new())];
    let plan = plan(&project, &world, "sha256:1", pulls);
    assert!(plan.is_empty());
    assert_eq!(plan.unchanged_images().collect::<Vec<_>>(), ["busybox"]);
}

#[test]
fn images_are_pulled_side_by_side_and_a_container_waits_for_those_that_it_needs() {
    let mut other = service();
    other.image = Some("other".into());
    let project = project([("web", service()), ("db", other)]);
    let pulls = vec![
        pull(&["web"], "busybox", vec![Reason::Missing]),
        pull(&["web"], "data", vec![Reason::Missing]),
        pull(&["db"], "other", vec![Reason::Missing]),
    ];
    let plan = plan(&project, &World::default(), "sha256:2", pulls);
    assert!(waits(&plan, "create shop-web-1", "pull busybox"));
    assert!(waits(&plan, "create shop-web-1", "pull data"));
    assert!(!waits(&plan, "pull other", "pull busybox"));
    let made = "create network shop_default";
    assert!(waits(&plan, made, "pull busybox"));
    assert!(waits(&plan, made, "pull other"));
    for name in ["pull busybox", "pull data", "pull other"] {
        assert!(plan.steps[step(&plan, name)].after.is_empty());
    }
}
