//! What is secret stays secret.

use crate::world::World;

const MARKER: &str = "correct-horse-battery-staple";

const PROJECT: &str = "
services:
  app:
    image: demo
    init: true
    read_only: true
    user: app
    stop_grace_period: 0s
    secrets:
      - source: token
        uid: '1000'
        gid: '1000'
        mode: 0400
secrets:
  token:
    environment: TOKEN
";

#[test]
fn a_secret_is_read_by_its_owner_and_never_reaches_a_disk() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("secret", PROJECT);
        let _up = project
            .command(["up", "-d"])
            .env("TOKEN", MARKER)
            .run()
            .success();

        let inside = |command: &str| {
            let words = ["exec", "-T", "app"].into_iter().chain(command.split(' '));
            project
                .command(words)
                .env("TOKEN", MARKER)
                .run()
                .success()
                .stdout
        };
        assert_eq!(inside("cat /run/secrets/token"), MARKER);
        assert_eq!(
            inside("stat -c %u:%g:%a /run/secrets/token"),
            "1000:1000:400\n"
        );
        assert_eq!(inside("stat -f -c %T /run/secrets/token"), "tmpfs\n");

        // Everything of the world that is on a disk: state, containerd's root, the project.
        let grep = [
            "-exec",
            "grep",
            "--files-with-matches",
            "--text",
            MARKER,
            "{}",
            "+",
        ];
        let on_disk = ["-xdev", "-type", "f"].into_iter().chain(grep);
        let found = world
            .command("find")
            .arg(world.path(""))
            .args(on_disk)
            .run();
        assert_eq!(found.stdout, "");
        let arguments = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^correct-horse'";
        let found = world.command("sh").args(["-c", arguments]).run();
        assert_eq!(found.stdout, "0\n");
        let _down = project
            .command(["down"])
            .env("TOKEN", MARKER)
            .run()
            .success();
    });
}
