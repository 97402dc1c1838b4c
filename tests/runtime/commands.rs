//! Commands on services: `wait`, `scale`, `volumes`.

use crate::world::World;

const JOBS: &str = "
services:
  slow:
    image: demo
    command: sh -c 'sleep 3; exit 4'
    volumes: [data:/data, /anonymous]
  endless:
    image: demo
    init: true
    command: sleep infinity
    volumes: [other:/data]
volumes:
  data:
    labels: {tier: back}
  other: {}
";

#[test]
fn wait_tells_how_containers_end_and_ends_likewise() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("waits", JOBS);
        let nothing = project.compose("wait slow").failure();
        assert!(
            nothing
                .stderr
                .contains("no containers for project \"waits\""),
            "{nothing}"
        );
        let _up = project.compose("up -d").success();
        let id = project.fields("Service", "ID")["slow"].clone();
        let wait = project.compose("wait slow");
        assert_eq!(wait.status.code(), Some(4), "{wait}");
        let expected = format!("container \"{id}");
        assert!(wait.stdout.starts_with(&expected), "{wait}");
        assert!(
            wait.stdout.ends_with("\" exited with status code 4\n"),
            "{wait}"
        );

        let _up = project.compose("up -d").success();
        let wait = project.compose("wait --down-project slow endless");
        assert_eq!(wait.status.code(), Some(4), "{wait}");
        assert_eq!(wait.stdout.lines().count(), 1, "{wait}");
        assert!(project.containers().is_empty());
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn scale_changes_one_service_only() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("scales", JOBS);
        let names = || {
            let names = project.fields("Name", "State").into_keys();
            names.collect::<Vec<_>>().join(" ")
        };
        let _scale = project.compose("scale endless=2").success();
        assert_eq!(names(), "scales-endless-1 scales-endless-2");
        let _scale = project.compose("scale endless=1").success();
        assert_eq!(names(), "scales-endless-1");
        let _scale = project.compose("scale endless=0").success();
        assert_eq!(names(), "");
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn volumes_are_those_of_the_project_or_of_a_service() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("vols", JOBS);
        assert_eq!(
            project.compose("volumes").success().stdout,
            "DRIVER    VOLUME NAME\n"
        );
        let _create = project.compose("create").success();
        assert_eq!(
            project.compose("volumes -q").success().stdout,
            "vols_data\nvols_other\n"
        );
        assert_eq!(
            project.compose("volumes -q slow").success().stdout,
            "vols_data\n"
        );
        let format = ["volumes", "--format", "{{.Name}} {{.Label \"tier\"}}"];
        let found = project.command(format).run().success();
        assert_eq!(found.stdout, "vols_data back\nvols_other \n");
        let mountpoint = ["volumes", "slow", "--format", "{{.Mountpoint}}"];
        let found = project.command(mountpoint).run().success();
        assert!(
            std::path::Path::new(found.stdout.trim()).is_dir(),
            "{found}"
        );
        let _down = project.compose("down -v").success();
    });
}
