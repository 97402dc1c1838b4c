//! What `up` waits for, and who follows whom.

use super::*;
use crate::model::Healthcheck;
use crate::reconcile::observe::Status;
use crate::state::Wanted;

#[test]
fn independent_services_do_not_wait_for_one_another() {
    let names: Vec<String> = (0..50).map(|number| format!("s{number}")).collect();
    let project = project(names.iter().map(|name| (name.as_str(), service())));
    let plan = up(&project, &World::default());
    assert!(waits(
        &plan,
        "start shop-s7-1",
        "create network shop_default"
    ));
    for other in (0..50).filter(|other| *other != 7) {
        assert!(!waits(
            &plan,
            "start shop-s7-1",
            &format!("create sandbox shop-s{other}-1")
        ));
    }
}

#[test]
fn a_job_that_others_wait_for_is_not_done_twice() {
    let done = Condition::ServiceCompletedSuccessfully;
    let mut project = project([("web", needing_when(&["job"], done)), ("job", service())]);
    let mut world = running(&project);
    assert_eq!(world.named("shop-job-1").status, Status::Exited);
    assert!(up(&project, &world).is_empty());

    environment(&mut project.services["job"], "LEVEL", "2");
    assert_eq!(changes(&up(&project, &world)), ["shop-job-1 recreate"]);
    environment(&mut project.services["job"], "LEVEL", "3");
    project.services["job"].environment.clear();
    world.exit("shop-job-1", 1);
    assert_eq!(changes(&up(&project, &world)), ["shop-job-1 start"]);
}

#[test]
fn a_job_that_was_stopped_is_not_done() {
    let done = Condition::ServiceCompletedSuccessfully;
    let project = project([("web", needing_when(&["job"], done)), ("job", service())]);
    let mut world = running(&project);
    world.named("shop-job-1").state.wanted = Wanted::Stopped;
    assert_eq!(changes(&up(&project, &world)), ["shop-job-1 start"]);
}

#[test]
fn a_job_that_nobody_waits_for_is_done_again() {
    let project = project([("web", needing(&["job"])), ("job", service())]);
    let mut world = running(&project);
    world.exit("shop-job-1", 0);
    assert_eq!(changes(&up(&project, &world)), ["shop-job-1 start"]);
}

#[test]
fn one_wait_serves_all_dependents() {
    let healthy = || needing_when(&["db"], Condition::ServiceHealthy);
    let project = project([("web", healthy()), ("api", healthy()), ("db", service())]);
    let plan = up(&project, &World::default());
    let waiting: Vec<_> = plan
        .steps
        .iter()
        .filter(|step| step.action.is_wait())
        .map(|step| &step.action)
        .collect();
    assert_eq!(
        waiting,
        [&Action::WaitFor {
            service: "db".into(),
            condition: Condition::ServiceHealthy,
            required: true,
            dependent: "web, api".into(),
        }]
    );
    assert!(waits(&plan, "start shop-web-1", "wait db ServiceHealthy"));
    assert!(waits(&plan, "wait db ServiceHealthy", "start shop-db-1"));
}

#[test]
fn nothing_is_waited_for_when_the_dependent_stays() {
    let project = project([
        ("web", needing_when(&["db"], Condition::ServiceHealthy)),
        ("db", service()),
    ]);
    let mut world = running(&project);
    world.named("shop-db-1").state.health = None;
    assert!(up(&project, &world).is_empty());
}

#[test]
fn a_dependency_that_is_not_required_may_fail() {
    let mut web = needing(&["db"]);
    web.depends_on["db"].required = false;
    let project = project([("web", web), ("db", service())]);
    let plan = up(&project, &World::default());
    let wait = &plan.steps[step(&plan, "wait db ServiceStarted")];
    assert!(wait.after.is_empty());
    assert_eq!(wait.follows, [step(&plan, "start shop-db-1")]);
    assert!(waits(&plan, "start shop-web-1", "wait db ServiceStarted"));
}

#[test]
fn a_dependency_without_replicas_is_not_waited_for() {
    let mut project = project([
        ("web", needing_when(&["db"], Condition::ServiceHealthy)),
        ("db", service()),
    ]);
    project.services["db"].scale = Some(0);
    let plan = up(&project, &World::default());
    assert_eq!(changes(&plan), ["shop-web-1 create"]);
    assert!(plan.steps.iter().all(|step| !step.action.is_wait()));
}

#[test]
fn dependents_that_ask_for_it_are_down_while_their_dependency_is_replaced() {
    let mut project = project([
        ("web", needing(&["db"])),
        ("other", needing(&["db"])),
        ("db", service()),
    ]);
    project.services["web"].depends_on["db"].restart = true;
    let world = running(&project);
    environment(&mut project.services["db"], "LEVEL", "2");
    let plan = up(&project, &world);
    assert_eq!(changes(&plan), ["shop-web-1 restart", "shop-db-1 recreate"]);
    assert!(waits(&plan, "stop shop-web-1", "create shop-db-1"));
    assert!(waits(&plan, "stop shop-db-1", "stop shop-web-1"));
    assert!(waits(&plan, "start shop-web-1", "start shop-db-1"));

    let no_deps = UpOptions {
        no_deps: true,
        ..UpOptions::default()
    };
    assert_eq!(
        changes(&up_with(&project, &world, &no_deps)),
        ["shop-db-1 recreate"]
    );
}

#[test]
fn one_service_is_replaced_without_its_dependencies_and_dependents() {
    let mut project = project([
        ("web", needing(&["api"])),
        ("api", needing(&["db"])),
        ("db", service()),
    ]);
    let world = running(&project);
    for name in ["api", "db", "web"] {
        environment(&mut project.services[name], "LEVEL", "2");
    }
    let options = UpOptions {
        no_deps: true,
        recreate: Recreate::Force,
        ..options(&["api"])
    };
    assert_eq!(
        changes(&up_with(&project, &world, &options)),
        ["shop-api-1 recreate"]
    );
}

#[test]
fn named_services_bring_their_dependencies() {
    let project = project([
        ("web", needing(&["db"])),
        ("db", service()),
        ("other", service()),
    ]);
    let plan = up_with(&project, &World::default(), &options(&["web"]));
    assert_eq!(changes(&plan), ["shop-web-1 create", "shop-db-1 create"]);
}

#[test]
fn hooks_run_around_the_start() {
    let mut web = service();
    (web.pre_start, web.post_start) = (hooks(1), hooks(2));
    web.scale = Some(2);
    let project = project([("web", web), ("proxy", needing(&["web"]))]);
    let plan = up(&project, &World::default());
    assert_eq!(
        summary(&plan)
            .iter()
            .filter(|step| step.starts_with("pre_start"))
            .count(),
        1
    );
    assert!(waits(&plan, "start shop-web-1", "pre_start[0] shop-web-1"));
    assert!(waits(&plan, "start shop-web-2", "pre_start[0] shop-web-1"));
    assert!(waits(
        &plan,
        "post_start[1] shop-web-2",
        "post_start[0] shop-web-2"
    ));
    assert!(waits(
        &plan,
        "start shop-proxy-1",
        "post_start[1] shop-web-2"
    ));
}

#[test]
fn preparation_is_not_repeated_while_a_replica_runs() {
    let mut web = service();
    web.pre_start = hooks(1);
    let mut project = project([("web", web)]);
    let world = running(&project);
    project.services["web"].scale = Some(2);
    let plan = up(&project, &world);
    assert!(
        summary(&plan)
            .iter()
            .all(|step| !step.starts_with("pre_start"))
    );
}

#[test]
fn preparation_of_each_replica_is_done_for_each() {
    let mut web = service();
    web.pre_start = hooks(2);
    web.pre_start[1].per_replica = Some(true);
    let mut project = project([("web", web)]);
    let world = running(&project);
    project.services["web"].scale = Some(2);
    let plan = up(&project, &world);
    let steps = summary(&plan);
    let hooks: Vec<&String> = steps
        .iter()
        .filter(|step| step.starts_with("pre"))
        .collect();
    assert_eq!(hooks, ["pre_start[1] shop-web-2"]);
    assert!(waits(&plan, "start shop-web-2", "pre_start[1] shop-web-2"));
}

#[test]
fn waiting_depends_on_what_a_service_is() {
    let mut db = service();
    db.healthcheck = Some(Healthcheck {
        test: vec!["CMD".into(), "true".into()],
        ..Healthcheck::default()
    });
    let done = Condition::ServiceCompletedSuccessfully;
    let project = project([
        ("web", needing_when(&["job"], done)),
        ("job", service()),
        ("db", db),
    ]);
    let options = UpOptions {
        wait: true,
        ..UpOptions::default()
    };
    let mut world = World::default();
    let plan = up_with(&project, &world, &options);
    for wait in ["wait web ServiceStarted", "wait db ServiceHealthy"] {
        step(&plan, wait);
    }
    step(&plan, "wait job ServiceCompletedSuccessfully");
    world.apply(&plan);
    assert!(up_with(&project, &world, &options).is_empty());
}
