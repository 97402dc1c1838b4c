//! What holds for every project, every world and every order of carrying a plan out.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;
use crate::model::{Deploy, Duration, Healthcheck, Hook, IpamPool, Mount, UpdateConfig};
use crate::reconcile::observe::Status;
use crate::state::Wanted;

const NAMES: [&str; 5] = ["db", "cache", "job", "api", "web"];

/// What is random of one service; numbers are reduced to what they choose from.
#[derive(Clone, Debug)]
struct Dice {
    exists: bool,
    replicas: u32,
    needs: u8,
    conditions: [u8; 5],
    restarts: u8,
    optional: u8,
    network: u8,
    parent: usize,
    tie: u8,
    level: u8,
    limit: u8,
    port: bool,
    volume: bool,
    is_job: bool,
    hooks: u8,
    content: u8,
    /// How it is updated: not at all where bit 0 is not set, then order, parallelism and delay.
    update: u8,
}

fn dice() -> impl Strategy<Value = Dice> {
    let first = (
        prop::bool::weighted(0.85),
        0u32..4,
        any::<u8>(),
        any::<[u8; 5]>(),
        any::<u8>(),
        any::<u8>(),
        0u8..12,
        0usize..5,
    );
    let second = (
        0u8..8,
        0u8..2,
        0u8..2,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<u8>(),
        (0u8..2, any::<u8>()),
    );
    (first, second).prop_map(|(first, second)| Dice {
        exists: first.0,
        replicas: first.1,
        needs: first.2,
        conditions: first.3,
        restarts: first.4,
        optional: first.5,
        network: first.6,
        parent: first.7,
        tie: second.0,
        level: second.1,
        limit: second.2,
        port: second.3,
        volume: second.4,
        is_job: second.5,
        hooks: second.6,
        content: second.7.0,
        update: second.7.1,
    })
}

/// A project and the digests of its configs.
#[derive(Clone)]
struct Sample {
    project: Project,
    contents: BTreeMap<String, String>,
}

/// Shows a failing sample as what it says.
impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, service) in &self.project.services {
            let definition = crate::reconcile::definition::service_definition(service);
            write!(f, "\n{name} x{} {definition}", service.replicas())?;
            for (dependency, how) in &service.depends_on {
                write!(f, "\n    {dependency}: {how:?}")?;
            }
        }
        write!(f, "\n{:?}", self.project.networks["back"].ipam.config)
    }
}

fn sample() -> impl Strategy<Value = Sample> {
    (prop::collection::vec(dice(), 5), 0u16..5, 0u8..3)
        .prop_map(|(dice, shift, subnet)| build(&dice, shift, subnet))
}

fn build(dices: &[Dice], shift: u16, subnet: u8) -> Sample {
    let mut project = project([]);
    for key in ["front", "back"] {
        declare_network(&mut project, key);
    }
    if subnet > 0 {
        project.networks["back"].ipam.config.push(IpamPool {
            subnet: Some(format!("10.9.{subnet}.0/24")),
            ..IpamPool::default()
        });
    }
    declare_volume(&mut project, "data");
    let mut contents = BTreeMap::new();
    let parents: BTreeSet<usize> = dices.iter().map(|dice| dice.parent).collect();
    for (index, dice) in dices.iter().enumerate() {
        if !dice.exists {
            continue;
        }
        let earlier = |other: usize| {
            (other < index)
                .then(|| NAMES[other])
                .filter(|name| project.services.contains_key(*name))
        };
        let is_parent = parents.contains(&index);
        let service = build_service(dices, index, shift, is_parent, earlier);
        contents.insert(
            format!("configs.{}", NAMES[index]),
            format!("digest{}", dice.content),
        );
        project.services.insert(NAMES[index].into(), service);
    }
    Sample { project, contents }
}

fn build_service(
    dices: &[Dice],
    index: usize,
    shift: u16,
    is_parent: bool,
    earlier: impl Fn(usize) -> Option<&'static str>,
) -> Service {
    let dice = &dices[index];
    let depends_on = (0..5)
        .filter(|other| dice.needs & (1 << other) != 0)
        .filter_map(|other| {
            let dependency = Dependency {
                condition: match dice.conditions[other] % 4 {
                    0 => Condition::ServiceHealthy,
                    1 if dices[other].is_job => Condition::ServiceCompletedSuccessfully,
                    _ => Condition::ServiceStarted,
                },
                restart: dice.restarts & (1 << other) != 0,
                required: dice.optional & (1 << other) != 0,
            };
            Some((earlier(other)?.to_owned(), dependency))
        })
        .collect();
    let parent = earlier(dice.parent);
    let of_parent = || parent.map(|parent| format!("service:{parent}"));
    let mut service = Service {
        name: NAMES[index].into(),
        image: Some("busybox".into()),
        depends_on,
        scale: Some(i64::from(if is_parent {
            dice.replicas.max(1)
        } else {
            dice.replicas
        })),
        environment: IndexMap::from([("LEVEL".into(), Some(dice.level.to_string()))]),
        cpus: Some(f64::from(dice.limit) + 1.0),
        restart: Some(if dice.is_job { "no" } else { "always" }.into()),
        ..Service::default()
    };
    match dice.network {
        0 => service.network_mode = Some("none".into()),
        1 => service.network_mode = Some("host".into()),
        2 | 3 if parent.is_some() => service.network_mode = of_parent(),
        number => {
            for (bit, key) in ["default", "front", "back"].iter().enumerate() {
                if number & (1 << bit) != 0 {
                    service.networks.insert((*key).into(), None);
                }
            }
        }
    }
    match dice.tie {
        0 => service.pid = of_parent(),
        1 => service.ipc = of_parent(),
        2 => service.volumes_from = parent.map(String::from).into_iter().collect(),
        3 => {
            service.healthcheck = Some(Healthcheck {
                test: vec!["CMD".into(), "true".into()],
                interval: Some(Duration::from_secs(1)),
                ..Healthcheck::default()
            });
        }
        _ => {}
    }
    if dice.port && !is_parent && service.network_mode.is_none() {
        service.scale = service.scale.map(|scale| scale.min(1));
        let number = u16::try_from(index).unwrap_or_default();
        service.ports = vec![port(&(8000 + (number + shift) % 5).to_string(), 80)];
        if dice.level == 1 {
            service.container_name = Some(format!("fixed-{}", NAMES[index]));
        }
    }
    if dice.volume {
        service.volumes = vec![Mount {
            source: Some("data".into()),
            target: "/data".into(),
            ..Mount::default()
        }];
    }
    service.configs = vec![crate::model::FileReference {
        source: NAMES[index].into(),
        ..crate::model::FileReference::default()
    }];
    if dice.update & 1 != 0 {
        let order = ["start-first", "stop-first"][usize::from(dice.update >> 1 & 1)];
        let update = UpdateConfig {
            order: Some(order.into()),
            parallelism: Some(u64::from(dice.update >> 2 & 3)),
            delay: (dice.update & 16 != 0).then_some(Duration(1)),
            ..UpdateConfig::default()
        };
        service.deploy = Some(Deploy {
            update_config: Some(update),
            ..Deploy::default()
        });
    }
    let hooks = |count: u8| vec![Hook::default(); usize::from(count % 2)];
    service.pre_start = hooks(dice.hooks);
    service.post_start = hooks(dice.hooks >> 1);
    service.pre_stop = hooks(dice.hooks >> 2);
    service
}

fn options() -> impl Strategy<Value = UpOptions> {
    let recreate = || {
        prop_oneof![
            4 => Just(Recreate::Diverged),
            1 => Just(Recreate::Force),
            1 => Just(Recreate::Never),
        ]
    };
    (
        prop::collection::vec(prop::sample::select(&NAMES[..]), 0..3),
        (recreate(), recreate()),
        any::<[bool; 5]>(),
    )
        .prop_map(
            |(services, (recreate, recreate_dependencies), flags)| UpOptions {
                services: services.into_iter().map(String::from).collect(),
                recreate,
                recreate_dependencies,
                no_deps: flags[0] && flags[1],
                no_start: flags[1] && flags[2],
                remove_orphans: flags[3],
                wait: flags[4],
                ..UpOptions::default()
            },
        )
}

/// What happens to containers between two commands.
fn accidents() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..12, 0..6)
}

fn happen(world: &mut World, accidents: &[u8]) {
    for (container, accident) in world.observed.containers.iter_mut().zip(accidents) {
        match accident {
            0 => (container.status, container.exit_code) = (Status::Exited, Some(0)),
            1 => (container.status, container.exit_code) = (Status::Exited, Some(1)),
            2 => {
                (container.status, container.exit_code) = (Status::Exited, Some(137));
                container.state.wanted = Wanted::Stopped;
            }
            3 => container.status = Status::Dead,
            4 => container.desired = None,
            5 => {
                container.status = Status::Restarting;
                // What a command has stopped is not waited for.
                container.state.wanted = Wanted::Running;
            }
            6 if container.status == Status::Running => container.state.wanted = Wanted::Stopped,
            _ => {}
        }
    }
    // A container that nobody can name any more lost its sandbox too.
    let bare = world
        .observed
        .containers
        .iter()
        .filter(|container| container.desired.is_none());
    let bare: BTreeSet<String> = bare.map(|container| container.name.clone()).collect();
    for container in &mut world.observed.containers {
        if bare.contains(&container.name) {
            container.status = Status::Exited;
        }
    }
}

fn bring_up(
    world: &mut World,
    sample: &Sample,
    options: &UpOptions,
    mut choose: impl FnMut(usize) -> usize,
) -> Plan {
    let state = wanted_with(&sample.project, Some(&image("sha256:1")), &sample.contents);
    let known = |name: &String| sample.project.services.contains_key(name);
    let options = UpOptions {
        services: options
            .services
            .iter()
            .filter(|name| known(name))
            .cloned()
            .collect(),
        ..options.clone()
    };
    // A parent that is left out may be missing; such a command fails.
    let options = if options.no_deps || options.recreate == Recreate::Never {
        UpOptions {
            services: Vec::new(),
            ..options
        }
    } else {
        options
    };
    let plan = plan_up(&sample.project, &state, &world.observed, &options).unwrap();
    world.apply_in_order(&plan, &mut choose);
    let lenient = UpOptions {
        // A container that is kept as it was may never do what the file now wants of it.
        wait: options.wait
            && options.recreate != Recreate::Never
            && options.recreate_dependencies != Recreate::Never,
        recreate: match options.recreate {
            Recreate::Force => Recreate::Diverged,
            other => other,
        },
        recreate_dependencies: match options.recreate_dependencies {
            Recreate::Force => Recreate::Diverged,
            other => other,
        },
        ..options
    };
    plan_up(&sample.project, &state, &world.observed, &lenient).unwrap()
}

fn chooser(seed: [u8; 32]) -> impl FnMut(usize) -> usize {
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    move |count| {
        let number = usize::try_from(random.next_u32()).unwrap_or_default();
        number % count
    }
}

fn version() -> impl Strategy<Value = rollout::Version> {
    (1usize..4, 0u8..3, 0u8..3, any::<bool>()).prop_map(|(replicas, level, networks, is_named)| {
        rollout::Version {
            replicas,
            level,
            networks,
            is_named,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// In whatever order independent steps are done, the world never refuses one, and nothing is left to do.
    #[test]
    fn a_plan_leads_to_what_is_wanted(
        samples in prop::collection::vec((sample(), options(), accidents()), 1..4),
        seed in any::<[u8; 32]>(),
    ) {
        let mut choose = chooser(seed);
        let mut world = World::default();
        for (sample, options, accidents) in &samples {
            let again = bring_up(&mut world, sample, options, &mut choose);
            prop_assert_eq!(summary(&again), Vec::<String>::new());
            happen(&mut world, accidents);
        }
        let (sample, ..) = &samples[0];
        let again = bring_up(&mut world, sample, &UpOptions::default(), &mut choose);
        prop_assert_eq!(summary(&again), Vec::<String>::new());
    }

    /// Whatever a command had done when it was interrupted, the next one leads to what is wanted by then.
    #[test]
    fn an_interrupted_plan_is_made_up_for(
        first in sample(),
        second in sample(),
        third in prop::option::of(sample()),
        steps in prop::collection::vec(any::<prop::sample::Index>(), 1..3),
        accidents in accidents(),
        seed in any::<[u8; 32]>(),
    ) {
        let mut choose = chooser(seed);
        let mut world = World::default();
        drop(bring_up(&mut world, &first, &UpOptions::default(), &mut choose));
        for steps in steps {
            let state = wanted_with(&second.project, Some(&image("sha256:1")), &second.contents);
            let options = UpOptions::default();
            let plan = plan_up(&second.project, &state, &world.observed, &options).unwrap();
            world.apply_until(&plan, steps.index(plan.steps.len() + 1), &mut choose);
        }
        happen(&mut world, &accidents);
        let last = third.as_ref().unwrap_or(&second);
        let options = UpOptions {
            remove_orphans: true,
            ..UpOptions::default()
        };
        let again = bring_up(&mut world, last, &options, &mut choose);
        prop_assert_eq!(summary(&again), Vec::<String>::new());
        let mut names = world.names();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        prop_assert_eq!(names.len(), count, "two containers of one slot are left");
        let stand_by = world.observed.sandboxes.iter().filter(|it| it.stands_by_for.is_some());
        prop_assert_eq!(stand_by.count(), 0);
    }

    /// As long as only one service changes and nothing that two sandboxes cannot both have, as many replicas are ready as were,
    /// or as are wanted by then, whatever was cut off before.
    #[test]
    fn an_update_keeps_as_many_replicas_ready_as_it_can(
        versions in prop::collection::vec(version(), 2..5),
        has_probe in any::<bool>(),
        steps in prop::collection::vec(any::<prop::sample::Index>(), 4),
        seed in any::<[u8; 32]>(),
    ) {
        let mut choose = chooser(seed);
        let mut world = World::default();
        let (first, others) = versions.split_first().unwrap();
        world.apply_in_order(&rollout::up_to(first, has_probe, &world), &mut choose);
        for (index, version) in others.iter().enumerate() {
            let plan = rollout::up_to(version, has_probe, &world);
            let is_last = index + 1 == others.len();
            let end = if is_last { plan.steps.len() } else { steps[index].index(plan.steps.len() + 1) };
            let promised = world.ready().min(version.replicas);
            world.apply_watched(&plan, end, &mut choose, |world| {
                let ready = world.ready();
                assert!(ready >= promised, "{ready} of {promised} replicas are ready");
            });
            if is_last {
                prop_assert_eq!(summary(&rollout::up_to(version, has_probe, &world)), Vec::<String>::new());
                prop_assert_eq!(world.names().len(), version.replicas);
                prop_assert_eq!(world.ready(), version.replicas);
            }
        }
    }

    #[test]
    fn a_slot_is_never_made_twice(first in sample(), second in sample(), options in options()) {
        let mut world = World::default();
        drop(bring_up(&mut world, &first, &UpOptions::default(), |_| 0));
        let state = wanted_with(&second.project, Some(&image("sha256:2")), &second.contents);
        let options = UpOptions { services: Vec::new(), ..options };
        let plan = plan_up(&second.project, &state, &world.observed, &options).unwrap();
        let mut made = BTreeSet::new();
        for step in &plan.steps {
            if let Action::CreateContainer { desired, .. } = &step.action {
                prop_assert!(made.insert(desired.name.clone()), "{} twice", desired.name);
            }
        }
    }

    #[test]
    fn dependents_start_after_their_dependencies(sample in sample()) {
        let state = wanted_with(&sample.project, None, &sample.contents);
        let plan = plan_up(
            &sample.project, &state, &World::default().observed, &UpOptions::default(),
        ).unwrap();
        let starts = |service: &str| -> Vec<String> {
            let steps = plan.steps.iter().filter_map(|step| match &step.action {
                Action::StartContainer { service: other, name, .. } if other == service => Some(name),
                _ => None,
            });
            steps.map(|name| format!("start {name}")).collect()
        };
        for (name, service) in &sample.project.services {
            for dependency in service.depends_on.keys() {
                for (later, earlier) in starts(name).iter().flat_map(|later| {
                    starts(dependency).into_iter().map(move |earlier| (later, earlier))
                }) {
                    prop_assert!(waits(&plan, later, &earlier), "{later} before {earlier}");
                }
            }
        }
    }

    #[test]
    fn down_leaves_nothing_but_volumes(
        first in sample(),
        second in sample(),
        accidents in accidents(),
        with_file in any::<bool>(),
        with_volumes in any::<bool>(),
        seed in any::<[u8; 32]>(),
    ) {
        let mut world = World::default();
        drop(bring_up(&mut world, &first, &UpOptions::default(), |_| 0));
        happen(&mut world, &accidents);
        let options = DownOptions {
            remove_orphans: true,
            volumes: with_volumes,
            ..DownOptions::default()
        };
        let file = with_file.then_some(&second.project);
        let had_volume = !world.observed.volumes.is_empty();
        let plan = plan_down("shop", file, &world.observed, &options).unwrap();
        world.apply_in_order(&plan, chooser(seed));
        prop_assert_eq!(world.names(), Vec::<&str>::new());
        prop_assert!(world.observed.networks.is_empty());
        prop_assert!(world.observed.sandboxes.is_empty());
        prop_assert_eq!(world.observed.volumes.is_empty(), with_volumes || !had_volume);
        let again = plan_down("shop", file, &world.observed, &options).unwrap();
        prop_assert!(again.is_empty());
    }

    #[test]
    fn what_is_stopped_starts_again_and_nothing_else_changes(
        sample in sample(),
        seed in any::<[u8; 32]>(),
    ) {
        let mut world = World::default();
        drop(bring_up(&mut world, &sample, &UpOptions::default(), |_| 0));
        let names: Vec<String> = world.names().into_iter().map(String::from).collect();
        let project = Some(&sample.project);
        let mut choose = chooser(seed);
        let stop = plan_stop(project, &world.observed, &[], None).unwrap();
        world.apply_in_order(&stop, &mut choose);
        prop_assert!(plan_stop(project, &world.observed, &[], None).unwrap().is_empty());
        let start = plan_start(project, &world.observed, &[], false).unwrap();
        world.apply_in_order(&start, &mut choose);
        prop_assert!(plan_start(project, &world.observed, &[], false).unwrap().is_empty());
        let restart = plan_restart(project, None, &world.observed, &[], None, false).unwrap();
        world.apply_in_order(&restart, &mut choose);
        prop_assert_eq!(world.names(), names);
    }
}
