//! The worker is killed at each boundary between two effects of a request in turn, and the next request of the same kind
//! makes up for it. The program is a debug build: others have no such boundaries.

use std::fs;

use crate::world::{Project, World};

fn file(generation: u32) -> String {
    format!(
        "services:
  web:
    image: demo
    command: httpd -f -p 80 -h /etc
    stop_grace_period: 0s
    environment: {{GENERATION: '{generation}'}}
    ports: ['8080:80']
    volumes: ['data:/data']
    depends_on: {{db: {{condition: service_healthy}}}}
  db:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    environment: {{GENERATION: '{generation}'}}
    volumes: [/cache]
    healthcheck: {{test: 'true', interval: 200ms}}
volumes:
  data:
"
    )
}

/// Does `words` after `prepare` once for each boundary: the worker is killed there, every other time with its keeper. Then
/// `meanwhile` looks at what is left, and the command is given again. Returns the names of the boundaries.
#[expect(clippy::print_stderr, reason = "a failed test tells what it knows")]
pub(crate) fn walk(
    world: &World,
    project: &Project<'_>,
    words: &str,
    prepare: impl Fn(u32),
    meanwhile: impl Fn(),
    check: impl Fn(),
) -> Vec<String> {
    let run = world.state_root().join("run");
    let (armed, reached) = (run.join("failpoint"), run.join("failpoint.reached"));
    let mut names = Vec::new();
    for number in 1.. {
        prepare(number);
        fs::create_dir_all(&run).unwrap();
        fs::write(&armed, number.to_string()).unwrap();
        // One step after the other, or the boundaries would come in another order each time.
        let disturbed = project.compose(&format!("--parallel 1 {words}"));
        let came_to_its_end = armed.exists();
        let text = fs::read_to_string(&reached).unwrap_or_default();
        for path in [&armed, &reached] {
            // Not there if no boundary was reached.
            fs::remove_file(path).ok();
        }
        if came_to_its_end {
            let _undisturbed = disturbed.success();
            check();
            return names;
        }
        let name = text.lines().last().unwrap_or_default().to_owned();
        eprintln!("`{words}` is killed at {number}: {name}");
        names.push(name);
        if number % 2 == 0 {
            // A keeper whose worker dies again and again takes its time.
            world.kill(" supervisor --project");
        }
        meanwhile();
        let _again = project.compose(words).success();
        check();
    }
    unreachable!("the numbers end only with the boundaries")
}

/// Both services are as the file of this generation says, and reachable.
fn is_up(world: &World, project: &Project<'_>) {
    let states = project.fields("Name", "State");
    assert!(
        states.len() == 2 && states.values().all(|state| state == "running"),
        "{states:?}"
    );
    let plan = project.compose("plan --detailed-exitcode").success();
    assert_eq!(plan.status.code(), Some(0), "{plan}");
    let _page = world.get("http://127.0.0.1:8080/hostname").success();
}

pub(crate) fn has(names: &[String], expected: &[&str]) {
    for name in expected {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
}

#[test]
fn an_up_that_is_killed_at_any_boundary_is_made_up_for_by_the_next() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("up", &file(0));
        let clean = || {
            let _down = project.compose("down -v").success();
            world.assert_clean();
        };
        let names = walk(
            world,
            &project,
            "up -d",
            |_| clean(),
            || {},
            || is_up(world, &project),
        );
        has(
            &names,
            &[
                "create network",
                "create volume",
                "create sandbox: namespace",
                "create sandbox: links",
                "create sandbox: record",
                "create sandbox",
                "create container: snapshot",
                "create container: record",
                "create container",
                "start container: task made",
                "start container: task started",
                "start container",
                "wait",
            ],
        );
        clean();
    });
}

#[test]
fn a_recreate_that_is_killed_at_any_boundary_is_made_up_for_by_the_next() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("recreate", &file(0));
        let _up = project.compose("up -d").success();
        let names = walk(
            world,
            &project,
            "up -d",
            |number| project.write("compose.yaml", &file(number)),
            || {},
            || is_up(world, &project),
        );
        has(
            &names,
            &[
                "create container: record",
                "end of a run: recorded",
                "end of a run: task gone",
                "stop container",
                "start container: task made",
                "start container",
                "remove container: task gone",
                "remove container: record gone",
                "remove container: snapshots gone",
                "remove container",
            ],
        );
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn a_down_that_is_killed_at_any_boundary_is_made_up_for_by_the_next() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("down", &file(0));
        let names = walk(
            world,
            &project,
            "down -v",
            |_| {
                let _up = project.compose("up -d").success();
            },
            || {},
            || world.assert_clean(),
        );
        has(
            &names,
            &[
                "end of a run: recorded",
                "stop container",
                "remove container: record gone",
                "remove container",
                "take sandbox apart: record",
                "take sandbox apart: links and rules",
                "take sandbox apart: namespace",
                "remove sandbox",
                "remove network",
                "remove volume",
            ],
        );
    });
}
