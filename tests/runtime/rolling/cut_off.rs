//! Updates that end with the supervisor that carries them out.

use std::time::Duration;

use super::{CLIENT, SHOP, answers, client};
use crate::failpoints::{has, walk};
use crate::world::{World, eventually};

/// One replica that tells its version, and a peer that asks for it by the service's name.
fn file(version: u32) -> String {
    format!(
        "
services:
  web:
    image: demo
    init: true
    stop_grace_period: 1s
    ports: ['8080:80']
    environment: {{VERSION: 'v{version}'}}
    command: sh -c 'mkdir -p /www && echo $$VERSION >/www/index.html && exec httpd -f -p 80 -h /www'
    healthcheck: {{test: wget -q -O /dev/null http://127.0.0.1/, interval: 200ms}}
    deploy: {{update_config: {{order: start-first}}}}
  peer:
    image: demo
    init: true
    stop_grace_period: 0s
    command: sleep infinity
"
    )
}

#[test]
fn whoever_keeps_asking_is_answered_wherever_an_update_is_cut_off() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("switching", &file(0));
        let _up = project.compose("up -d --wait").success();
        let client = world
            .command_in(project.folder(), "python3")
            .args(["-c", CLIENT, "8080"])
            .start()
            .within_a_day();
        let names = walk(
            world,
            &project,
            "up -d",
            |number| project.write("compose.yaml", &file(number)),
            || {
                // A command of any kind starts a supervisor if there is none.
                let _ps = project.compose("exec peer true").success();
                eventually("an answer by name", || {
                    let ask = "exec -T peer timeout 2 wget -q -O - http://web/";
                    project.compose(ask).status.success()
                });
            },
            || {
                assert_eq!(project.containers().len(), 2);
                let plan = project.compose("plan --detailed-exitcode").success();
                assert_eq!(plan.status.code(), Some(0), "{plan}");
            },
        );
        has(
            &names,
            &[
                "create sandbox",
                "create container",
                "start container",
                "monitor",
                "switch sandbox: one record",
                "switch sandbox: both records",
                "switch sandbox: ports to be held",
                "switch sandbox",
                "drain",
                "stop container",
                "conclude update",
                "remove container",
            ],
        );
        let answers = answers(&project, client);
        assert!(answers.contains("'v1'"), "{answers}");
        let _down = project.compose("down").success();
    });
}

#[test]
fn an_update_that_is_cut_off_at_any_moment_is_finished_by_the_next_command() {
    World::run(|world| {
        world.import_image("default");
        let file = SHOP.replace("ACTION", "pause");
        let project = world.project("cut", &file);
        let _up = project.compose("up -d --wait").success();
        let client = client(world, &project);
        for (round, pause) in [150, 700, 1300, 2100].into_iter().enumerate() {
            let version = format!("VERSION: v{round}");
            project.write("compose.yaml", &file.replace("VERSION: one", &version));
            let _cut = project
                .script(&format!(
                    "timeout -s KILL {}.{:03} $0 up -d",
                    pause / 1000,
                    pause % 1000
                ))
                .run();
            if round == 2 {
                // The supervisor, too.
                assert!(world.kill(" supervisor --project cut") > 0);
            }
        }
        let _up = project
            .command(["up", "-d", "--wait"])
            .within(Duration::from_mins(3))
            .run()
            .success();
        assert!(project.compose("plan").stdout.contains("up to date"));
        assert_eq!(project.containers().len(), 4);
        // Even while there was no supervisor.
        let answers = answers(&project, client);
        assert!(answers.contains("'v3'"), "{answers}");
        for port in 8080..8083 {
            let page = world.get(&format!("http://127.0.0.1:{port}/")).success();
            assert_eq!(page.stdout.trim(), "v3");
        }
        let _down = project.compose("down -v").success();
    });
}
