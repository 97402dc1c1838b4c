//! What `up` does to a project that runs already.

use crate::world::{World, eventually};

/// Two services, of which one has a variable.
fn two_services(value: &str) -> String {
    format!(
        "services:
  steady:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
  edited:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    environment:
      VALUE: {value}
"
    )
}

#[test]
fn an_edit_recreates_only_the_service_that_it_concerns() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("edit", &two_services("one"));
        let _up = project.compose("up -d").success();
        let before = project.fields("Service", "ID");

        project.write("compose.yaml", &two_services("two"));
        let _up = project.compose("up -d").success();
        let after = project.fields("Service", "ID");

        assert_eq!(after["steady"], before["steady"]);
        assert_ne!(after["edited"], before["edited"]);
        let print = ["exec", "-T", "edited", "sh", "-c", "echo $VALUE"];
        let value = project.command(print).run().success();
        assert_eq!(value.stdout, "two\n");
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_service_that_is_gone_from_the_file_is_removed_on_demand() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("orphan", &two_services("one"));
        let _up = project.compose("up -d").success();
        let before = project.fields("Service", "ID");

        let shorter = two_services("one");
        let shorter = shorter.split("  edited:").next().unwrap();
        project.write("compose.yaml", shorter);
        let warned = project.compose("up -d").success();
        assert!(warned.stderr.contains("orphan"), "{warned}");
        let _up = project.compose("up -d --remove-orphans").success();

        assert_eq!(
            project
                .fields("Service", "ID")
                .into_iter()
                .collect::<Vec<_>>(),
            [("steady".to_owned(), before["steady"].clone())]
        );
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_scaled_service_keeps_the_replicas_that_it_has() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("scale", &two_services("one"));
        let _up = project.compose("up -d --scale steady=3").success();
        let three = project.fields("Name", "ID");
        let _up = project.compose("up -d --scale steady=2").success();
        let two = project.fields("Name", "ID");

        assert_eq!(
            two.keys().collect::<Vec<_>>(),
            ["scale-edited-1", "scale-steady-1", "scale-steady-2"]
        );
        assert!(
            two.iter().all(|(name, id)| three.get(name) == Some(id)),
            "{three:?} {two:?}"
        );
        let _down = project.compose("down").success();
    });
}

/// A bit of everything that a plan compares.
const FEATURES: &str = "services:
  db:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    healthcheck: {test: [CMD, 'true'], interval: 200ms}
    volumes: [data:/data, /scratch]
    tmpfs: [/cache]
    environment: {LEVEL: debug, EMPTY: '', FROM_HOST:}
    ulimits: {nofile: 1024}
    sysctls: {net.core.somaxconn: 512}
    cap_drop: [NET_RAW]
    mem_limit: 64m
    cpus: 0.5
    labels: {tier: back}
    logging: {driver: json-file, options: {max-size: 1m}}
    configs: [app]
    secrets: [{source: token, mode: 0o400}]
    networks:
      back: {aliases: [store], priority: 5}
      front:
  web:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    deploy: {replicas: 2, restart_policy: {condition: on-failure, max_attempts: 2}}
    depends_on: {db: {condition: service_healthy, restart: true}}
    links: ['db:database']
    ports: ['18100-18110:80']
    networks: [back]
    post_start: [{command: ['true']}]
    pre_stop: [{command: ['true']}]
  job:
    image: demo
    command: ['true']
  after:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    depends_on: {job: {condition: service_completed_successfully}}
    network_mode: none
    ipc: shareable
  neighbour:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    network_mode: service:db
  tracer:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    pid: service:db
    ipc: container:every-after-1
    depends_on: [after]
    volumes_from: [db:ro]
    network_mode: host
networks:
  back: {internal: true, ipam: {config: [{subnet: 10.83.7.0/24}]}}
  front: {driver_opts: {com.docker.network.driver.mtu: '1400'}, labels: {a: b}}
volumes:
  data: {labels: {keep: 'yes'}}
configs:
  app: {content: 'level = 1'}
secrets:
  token: {file: ./token}
";

#[test]
fn nothing_is_done_twice_whatever_a_project_uses() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("every", FEATURES);
        project.write("token", "t0ken");
        let _up = project.compose("up -d --wait").success();
        let before = project.fields("Name", "ID");
        let plan = project.compose("plan --detailed-exitcode").success();
        assert!(plan.stdout.contains("up to date"), "{plan}");
        let _up = project.compose("up -d --wait").success();
        assert_eq!(project.fields("Name", "ID"), before);
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn who_shares_a_namespace_follows_only_where_it_must() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("every", FEATURES);
        project.write("token", "t0ken");
        let _up = project.compose("up -d --wait").success();
        let changed = |from: &str, to: &str| {
            let before = project.fields("Name", "ID");
            project.write("compose.yaml", &FEATURES.replace(from, to));
            let _up = project.compose("up -d --wait").success();
            let plan = project.compose("plan --detailed-exitcode").success();
            assert!(plan.stdout.contains("up to date"), "{plan}");
            let after = project.fields("Name", "ID");
            let differs = |name: &&String| before[*name] != after[*name];
            after.keys().filter(differs).cloned().collect::<Vec<_>>()
        };
        let follows = changed("LEVEL: debug", "LEVEL: info");
        assert_eq!(follows, ["every-db-1", "every-tracer-1"]);
        let moved = changed("aliases: [store]", "aliases: [shop]");
        assert_eq!(moved, ["every-db-1", "every-neighbour-1", "every-tracer-1"]);
        let in_place = changed("mem_limit: 64m", "mem_limit: 65m");
        assert_eq!(
            in_place,
            ["every-db-1", "every-neighbour-1", "every-tracer-1"]
        );
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn an_anonymous_volume_is_kept_over_a_recreate_and_renewed_on_demand() {
    World::run(|world| {
        world.import_image("default");
        let file = |value: &str| {
            format!(
                "services:
  app:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    volumes: [/data]
    environment: {{VALUE: {value}}}
"
            )
        };
        let project = world.project("anonymous", &file("one"));
        let _up = project.compose("up -d").success();
        let _written = project.compose("exec -T app touch /data/kept").success();
        project.write("compose.yaml", &file("two"));
        let _up = project.compose("up -d").success();
        let _kept = project.compose("exec -T app ls /data/kept").success();
        let _up = project.compose("up -d -V --force-recreate").success();
        let _gone = project.compose("exec -T app ls /data/kept").failure();
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn a_health_check_may_go_while_it_runs() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  app:
    image: demo
    init: true
    command: sh -c 'echo begun; exec sleep 1003'
    restart: always
    stop_grace_period: 0s
";
        let probed = format!("{file}    healthcheck: {{test: sleep 2, interval: 100ms}}\n");
        let project = world.project("unprobed", &probed);
        let _up = project.compose("up -d").success();
        let ids = project.fields("Name", "ID");
        std::thread::sleep(std::time::Duration::from_millis(500));
        project.write("compose.yaml", file);
        let _up = project.compose("up -d").success();
        assert_eq!(project.fields("Name", "ID"), ids);
        // The probe ends, and nobody waits for it any more.
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert!(world.kill("sleep 1003") > 0);
        eventually("a second run", || {
            let logs = project.compose("logs --no-log-prefix app").success();
            logs.stdout.matches("begun").count() == 2
        });
        let _down = project.compose("down").success();
    });
}

const PREPARED: &str = "
services:
  app:
    image: demo
    init: true
    stop_grace_period: 0s
    environment: {LEVEL: one}
    volumes: ['data:/data']
    command: sh -c 'cat /data/notes; exec sleep infinity'
    pre_start:
      - command: [sh, -c, 'echo first $$LEVEL $$MORE $$(hostname -i) >>/data/notes']
        environment: {MORE: added}
      - command: [sh, -c, 'echo second; FAIL']
volumes:
  data:
";

#[test]
fn preparation_runs_in_containers_of_its_own_before_the_service() {
    World::run(|world| {
        world.import_image("default");
        let file = PREPARED.replace("FAIL", "exit 0");
        let project = world.project("prepared", &file);
        let failing = PREPARED.replace("FAIL", "echo sorry; exit 4");
        project.write("compose.yaml", &failing);
        let up = project.compose("up -d").failure();
        for part in ["app hook pre_start[1] exited with status 4", "sorry"] {
            assert!(up.stderr.contains(part), "`{part}` is missing in\n{up}");
        }
        assert_eq!(project.fields("Name", "State")["prepared-app-1"], "created");

        project.write("compose.yaml", &file);
        let _up = project.compose("up -d").success();
        assert_eq!(project.fields("Name", "State").len(), 1);
        let notes = || {
            project
                .compose("exec -T app cat /data/notes")
                .success()
                .stdout
        };
        assert_eq!(notes().matches("first one added").count(), 2, "{}", notes());

        // Neither with nothing to do nor for another replica, but for a new container.
        let _up = project.compose("up -d --scale app=2").success();
        let _up = project.compose("up -d --scale app=2").success();
        assert_eq!(notes().lines().count(), 2);
        let _up = project.compose("up -d --force-recreate").success();
        assert_eq!(notes().lines().count(), 3);
        let _down = project.compose("down -v").success();
    });
}

const PROVIDED: &str = "
services:
  data-base:
    provider:
      type: ./provide
      options: {size: 5}
  app:
    image: demo
    init: true
    stop_grace_period: 0s
    depends_on: [data-base]
    command: sh -c 'echo at $$DATA_BASE_URL; exec sleep infinity'
";

const PROVIDER: &str = r#"#!/bin/sh
[ "$2" = metadata ] && exit 1
echo "$*" >>calls
[ -e broken ] && echo '{"type":"error","message":"no quota"}' && exit 1
echo '{"type":"info","message":"creating"}'
echo '{"type":"setenv","message":"URL=db://'"$(cat place)"'"}'
"#;

#[test]
fn a_provider_gives_its_dependents_what_they_need() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("provided", PROVIDED);
        project.write("provide", PROVIDER);
        let program = project.path("provide");
        std::fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        project.write("place", "here");
        let _up = project.compose("up -d").success();
        let ids = project.fields("Name", "ID");
        let logs = || project.compose("logs --no-log-prefix app").success().stdout;
        eventually("the variable", || logs() == "at db://here\n");

        // Who only looks does not call it, and who calls it gets the same answer.
        assert!(
            project
                .compose("plan")
                .success()
                .stdout
                .contains("up to date")
        );
        let _up = project.compose("up -d").success();
        assert_eq!(project.fields("Name", "ID"), ids);
        project.write("place", "there");
        let _up = project.compose("up -d").success();
        eventually("the new variable", || logs() == "at db://there\n");

        project.write("broken", "");
        let up = project.compose("up -d").failure();
        assert!(up.stderr.contains("no quota"), "{up}");
        std::fs::remove_file(project.path("broken")).unwrap();
        let _down = project.compose("down").success();
        let calls = std::fs::read_to_string(project.path("calls")).unwrap();
        let up = "compose --project-name=provided up --size=5 data-base\n";
        let down = "compose --project-name=provided down --size=5 data-base\n";
        assert_eq!(calls, format!("{up}{up}{up}{up}{down}"));
    });
}
