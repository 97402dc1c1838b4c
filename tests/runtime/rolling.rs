//! Services that are updated while they serve: nobody who keeps asking is turned away.

mod cut_off;
mod policies;
mod under_way;

use std::collections::BTreeSet;

use crate::world::{Project, Running, World, eventually};

/// Three replicas that tell their version, with a client that asks for them by the service's name.
const SHOP: &str = r"
services:
  web:
    image: demo
    init: true
    stop_grace_period: 2s
    scale: 3
    ports: ['8080-8082:80']
    environment: {VERSION: one}
    volumes: ['shared:/shared']
    command:
      - sh
      - -c
      - |
        # The second of a bad version ends.
        if [ $$VERSION = bad ] && ! mkdir /shared/bad; then echo 'cannot be'; exit 3; fi
        mkdir -p /www && echo $$VERSION >/www/index.html
        exec httpd -f -p 80 -h /www
    healthcheck:
      test: wget -q -O /dev/null http://127.0.0.1/
      interval: 200ms
      retries: 3
    deploy:
      update_config:
        order: start-first
        parallelism: 1
        failure_action: ACTION
        monitor: 300ms
  client:
    image: demo
    init: true
    stop_grace_period: 0s
    depends_on: {web: {condition: service_healthy}}
    command:
      - sh
      - -c
      - 'while :; do timeout 5 wget -Y off -q -O - http://web/ || echo REFUSED; done'
volumes:
  shared:
";

/// Asks each of the ports in turn until the file `enough` is there, and prints what it got.
const CLIENT: &str = r"
import collections, os, sys, time, urllib.request
got = collections.Counter()
while not os.path.exists('enough'):
    time.sleep(0.001)
    for port in sys.argv[1:]:
        try:
            with urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=5) as answer:
                got[answer.read().decode().strip()] += 1
        except OSError as error:
            got['REFUSED'] += 1
            print(time.strftime('%H:%M:%S'), port, error, file=sys.stderr)
print(dict(got))
";

fn client(world: &World, project: &Project<'_>) -> Running {
    world
        .command_in(project.folder(), "python3")
        .args(["-c", CLIENT, "8080", "8081", "8082"])
        .start()
}

/// Ends the client, and returns the answers that it got; none may be missing.
fn answers(project: &Project<'_>, client: Running) -> String {
    project.write("enough", "");
    let client = client.finish().success();
    assert!(!client.stdout.contains("REFUSED"), "{client}");
    client.stdout
}

/// Versions that the client in the project got from the service by its name.
fn versions(project: &Project<'_>) -> BTreeSet<String> {
    let logs = project.compose("logs --no-log-prefix client").success();
    assert!(!logs.stdout.contains("REFUSED"), "{logs}");
    logs.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn an_update_turns_nobody_away() {
    World::run(|world| {
        world.import_image("default");
        let file = SHOP.replace("ACTION", "pause");
        let project = world.project("rolling", &file);
        let _up = project.compose("up -d --wait").success();
        let before = project.fields("Name", "ID");
        let ports = project.fields("Name", "Ports");
        let client = client(world, &project);

        project.write(
            "compose.yaml",
            &file.replace("VERSION: one", "VERSION: two"),
        );
        let plan = project.compose("plan").success();
        assert!(plan.stdout.contains("wave 3 of 3, start-first"), "{plan}");
        let up = project.compose("up -d").success();

        assert!(
            project.compose("plan").stdout.contains("up to date"),
            "{up}"
        );
        let after = project.fields("Name", "ID");
        assert_eq!(before.len(), after.len());
        for (name, id) in &after {
            assert_eq!(before[name] == *id, name.contains("client"), "{name}");
        }
        assert_eq!(project.fields("Name", "Ports"), ports);
        eventually("answers of the new version by name", || {
            versions(&project).contains("two")
        });
        let answers = answers(&project, client);
        assert!(
            answers.contains("'one'") && answers.contains("'two'"),
            "{answers}"
        );
        for port in 8080..8083 {
            let page = world.get(&format!("http://127.0.0.1:{port}/")).success();
            assert_eq!(page.stdout.trim(), "two");
        }
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn a_bad_version_is_rolled_back_and_turns_nobody_away() {
    World::run(|world| {
        world.import_image("default");
        let file = SHOP.replace("ACTION", "rollback");
        let project = world.project("rolled", &file);
        let _up = project.compose("up -d --wait").success();
        let before = project.fields("Name", "ID");
        let client = client(world, &project);

        project.write(
            "compose.yaml",
            &file.replace("VERSION: one", "VERSION: bad"),
        );
        let up = project.compose("up -d").failure();

        assert!(up.stderr.contains("exited (3)"), "{up}");
        assert!(up.stderr.contains("rolled back"), "{up}");
        assert!(up.stderr.contains("cannot be"), "{up}");
        assert_eq!(project.fields("Name", "ID"), before);
        let states = project.fields("Name", "State");
        assert!(
            states.values().all(|state| state == "running"),
            "{states:?}"
        );
        let seen = versions(&project);
        assert!(seen.contains("one"), "{seen:?}");
        let answers = answers(&project, client);
        // The first replica was updated, and has served.
        assert!(
            answers.contains("'one'") && answers.contains("'bad'"),
            "{answers}"
        );
        for port in 8080..8083 {
            let page = world.get(&format!("http://127.0.0.1:{port}/")).success();
            assert_eq!(page.stdout.trim(), "one");
        }
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn a_paused_update_leaves_what_it_has_not_reached() {
    World::run(|world| {
        world.import_image("default");
        let file = SHOP.replace("ACTION", "pause");
        let project = world.project("paused", &file);
        let _up = project.compose("up -d --wait").success();
        let before = project.fields("Name", "ID");
        project.write(
            "compose.yaml",
            &file.replace("VERSION: one", "VERSION: bad"),
        );
        let up = project.compose("up -d").failure();
        assert!(up.stderr.contains("the update is paused"), "{up}");
        let after = project.fields("Name", "ID");
        let kept = after.iter().filter(|(name, id)| before[*name] == **id);
        assert_eq!(kept.count(), 3, "two replicas and the client: {after:?}");

        // Once the reason is gone, the next one goes on from there.
        project.write(
            "compose.yaml",
            &file.replace("VERSION: one", "VERSION: two"),
        );
        let _up = project.compose("up -d").success();
        assert!(project.compose("plan").stdout.contains("up to date"));
        let _down = project.compose("down -v").success();
    });
}
