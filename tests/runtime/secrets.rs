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
        // Nor is it in anything that is printed, or that containerd knows of the container.
        let said = |words: &[&str]| {
            let output = project.command(words).env("TOKEN", MARKER).run().success();
            format!("{}{}", output.stdout, output.stderr)
        };
        for words in [
            &["config"][..],
            &["config", "--format", "json"],
            &["logs"],
            &["ps", "--all", "--format", "json"],
            &["plan"],
            &["--dry-run", "up"],
        ] {
            let output = said(words);
            assert!(!output.contains(MARKER), "{words:?}: {output}");
        }
        let containers = world
            .ctr(["container", "list", "--quiet"])
            .run()
            .success()
            .stdout;
        for id in containers.lines() {
            let record = world.ctr(["container", "info", id]).run().success().stdout;
            assert!(!record.contains(MARKER), "{record}");
        }
        // No process has it in its arguments or, but for what the user starts, in its environment.
        let environments = "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -c correct-horse";
        let found = world.command("sh").args(["-c", environments]).run();
        assert_eq!(found.stdout, "0\n");
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

const FILES: &str = "
services:
  app:
    image: demo
    init: true
    user: app
    stop_grace_period: 0s
    command: sleep infinity
    configs:
      - short
      - {source: inline, target: /etc/deep/inline.conf, uid: '7', gid: '8', mode: 0440}
      - {source: variable, target: /variable}
      - {source: folder, target: /folder}
    secrets:
      - short
      - {source: variable, target: renamed, uid: '1000', mode: 0400}
      - {source: variable, target: /etc/app.key}
configs:
  short: {file: ./short.conf, name: named, labels: {a: b}}
  inline: {content: \"text of ${TOKEN}\"}
  variable: {environment: TOKEN}
  folder: {file: ./folder}
secrets:
  short: {file: ./short.key, name: other, labels: {a: b}}
  variable: {environment: TOKEN}
";

#[test]
fn configs_and_secrets_are_put_where_they_belong() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("files", FILES);
        project.write("short.conf", "short\n");
        project.write("short.key", "key\n");
        std::fs::create_dir(project.path("folder")).unwrap();
        project.write("folder/inner", "inner\n");
        let run = |words: &[&str]| project.command(words).env("TOKEN", "t0ken").run();
        let _up = run(&["up", "-d"]).success();
        let look = "cat /short /etc/deep/inline.conf /variable /folder/inner /run/secrets/short /run/secrets/renamed /etc/app.key 2>&1; echo;
            stat -c '%n %u:%g %a' /short /etc/deep/inline.conf /run/secrets/short /run/secrets/renamed /etc/app.key;
            for file in /short /variable /run/secrets/short /etc/app.key /folder/inner; do { echo x >$file; } 2>/dev/null && echo written; done; true";
        let found = run(&["exec", "-T", "app", "sh", "-c", look])
            .success()
            .stdout;
        assert_eq!(
            found,
            "short\ncat: can't open '/etc/deep/inline.conf': Permission denied\nt0keninner\nkey\nt0kent0ken\n\
             /short 1000:1000 444\n/etc/deep/inline.conf 7:8 440\n/run/secrets/short 1000:1000 444\n\
             /run/secrets/renamed 1000:1000 400\n/etc/app.key 1000:1000 444\n"
        );
        let root = run(&[
            "exec",
            "-T",
            "--user",
            "0:8",
            "app",
            "cat",
            "/etc/deep/inline.conf",
        ]);
        assert_eq!(root.success().stdout, "text of t0ken");
        let _down = run(&["down"]).success();

        // What only a swarm has is refused by name.
        for (name, text) in [
            ("configs", "{external: true}"),
            ("secrets", "{external: true}"),
            ("configs", "{content: x, template_driver: golang}"),
            (
                "secrets",
                "{file: ./short.key, driver: vault, driver_opts: {a: b}}",
            ),
            ("secrets", "{file: ./short.key, template_driver: golang}"),
        ] {
            let file = format!(
                "services:\n  app: {{image: demo, {name}: [kept]}}\n{name}:\n  kept: {text}\n"
            );
            project.write("compose.yaml", &file);
            let failed = run(&["up", "-d"]).failure();
            for part in [name, "`kept`", "swarm"] {
                assert!(failed.stderr.contains(part), "no {part} in\n{failed}");
            }
            let _down = run(&["down"]).success();
        }
    });
}
