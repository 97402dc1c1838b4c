//! The library as other programs use it. Tests here run in a world, so the parts that call the library are run by this
//! same binary inside of it: they are ignored where nobody asks for them by name.

use std::time::Duration;

use containerd_compose::stack::TemporaryStack;

use crate::world::{Output, World};

#[path = "../../examples/integration_test.rs"]
mod example;

/// Runs one of the ignored tests in the world.
fn inside(world: &World, name: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    let compose = std::path::Path::new(env!("CARGO_BIN_EXE_compose"));
    let path = format!(
        "{}:/usr/sbin:/usr/bin:/sbin:/bin",
        compose.parent().unwrap().display()
    );
    world
        .command(program)
        .args(["--ignored", "--exact", "--nocapture", name])
        .env("PATH", path)
        .env("IMAGE", "demo")
        .run()
}

#[test]
fn two_stacks_of_one_file_live_side_by_side_in_one_process() {
    World::run(|world| {
        world.import_image("default");
        let output = inside(world, "api::plays_the_example").success();
        assert!(output.stdout.contains("1 passed"), "{output}");
    });
}

#[test]
#[ignore = "runs in a world"]
fn plays_the_example() {
    example::main().unwrap();
}

#[test]
fn a_stack_that_does_not_become_ready_says_who_and_why_and_goes() {
    World::run(|world| {
        world.import_image("default");
        let output = inside(world, "api::does_not_become_ready").failure();
        let all = format!("{}{}", output.stdout, output.stderr);
        for part in [
            "db-1 is unhealthy",
            "  | last probe:",
            "  |   no database here",
            "  | last log lines:",
            "  |   starting up",
        ] {
            assert!(all.contains(part), "`{part}` is missing in\n{output}");
        }
    });
}

#[test]
#[ignore = "runs in a world, and fails"]
fn does_not_become_ready() {
    let file = "
services:
  db:
    image: demo
    command: sh -c 'echo starting up; sleep infinity'
    healthcheck: {test: 'echo no database here; false', interval: 100ms, retries: 2}
";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _stack = runtime
        .block_on(TemporaryStack::from_yaml(file).up())
        .unwrap();
}

#[test]
fn a_stack_is_taken_down_by_the_panic_of_its_test() {
    World::run(|world| {
        world.import_image("default");
        let output = inside(world, "api::panics").failure();
        let all = format!("{}{}", output.stdout, output.stderr);
        assert!(all.contains("the test fails"), "{output}");
    });
}

#[test]
#[ignore = "runs in a world, and fails"]
fn panics() {
    let file = world_file("command: sleep infinity");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let _stack = TemporaryStack::from_file(&file)
            .patience(Duration::from_secs(30))
            .up()
            .await
            .unwrap();
        panic!("the test fails");
    });
}

/// A file in the working directory, with one service.
fn world_file(attributes: &str) -> std::path::PathBuf {
    let path = std::env::current_dir().unwrap().join("panics.yaml");
    let text = format!(
        "services:\n  app:\n    image: demo\n    volumes: ['data:/data']\n    {attributes}\nvolumes:\n  data:\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}
