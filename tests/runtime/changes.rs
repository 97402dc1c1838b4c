//! What `up` does to a project that runs already.

use crate::world::World;

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
