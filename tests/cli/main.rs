//! Transcripts of commands that need no containerd.

mod schema;
mod world;

use insta::assert_snapshot;
use world::World;

const SHOP: &str = "\
name: shop
services:
  web:
    image: nginx:1.27
    depends_on: [db]
  db:
    image: postgres:17
";

const BROKEN: &str = "\
services:
  web:
    image: nginx
    prots:
      - 80:80
";

#[test]
fn help_lists_the_commands_for_people() {
    let world = World::new();
    let help = world.run(&["--help"]);
    assert!(help.contains("\n  up "), "{help}");
    assert!(!help.contains("supervisor"), "{help}");
    assert!(help.ends_with("[exit status: 0]"), "{help}");
    assert_eq!(help, world.run(&[]));
    assert_eq!(help, world.run(&["help"]));
}

#[test]
fn an_unknown_command_shows_the_help_and_ends_with_1() {
    let text = World::new().run(&["nosuch"]);
    assert!(
        text.starts_with("------- stderr -------\nRuns Compose projects"),
        "{text}"
    );
    assert!(text.contains("unrecognized subcommand 'nosuch'"), "{text}");
    assert!(text.ends_with("[exit status: 1]"), "{text}");
}

#[test]
fn flags_with_values_are_not_shown_as_such() {
    let help = World::new().run(&["up", "--help"]);
    assert!(
        help.contains("-d, --detach\n") || help.contains("-d, --detach  "),
        "{help}"
    );
    // One that is on, off or as it was has a value to show, and so has one that can be switched off.
    let help = help.replace("--live[=<BOOL>]", "");
    let help = help.replace("--menu[=<BOOL>]", "");
    assert!(!help.contains("[="), "{help}");
}

#[test]
fn config_needs_nothing_but_the_files() {
    let world = World::with(SHOP);
    assert_snapshot!(world.run(&["config", "-q"]), @"[exit status: 0]");
    assert_snapshot!(world.run(&["config", "--services"]), @r"
    db
    web
    [exit status: 0]
    ");
}

#[test]
fn a_closed_output_is_no_error() {
    let world = World::with(SHOP);
    let text = world.run_into_closed_pipe(&["config"]);
    assert_eq!(text, "[exit status: 0]");
}

#[test]
fn the_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli-reference.md");
    let reference = containerd_compose::cli::reference();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, &reference).expect("the reference can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == reference,
        "docs/cli-reference.md differs from the commands; run the tests with UPDATE_REFERENCE=1"
    );
}

#[test]
fn versions_have_three_forms() {
    let world = World::new();
    assert_snapshot!(world.run(&["version"]), @r#"
    containerd-compose version 0.1.0
    [exit status: 0]
    "#);
    assert_snapshot!(world.run(&["version", "--short"]), @r#"
    0.1.0
    [exit status: 0]
    "#);
    assert_snapshot!(world.run(&["version", "-f", "json"]), @r#"
    {"version":"0.1.0"}
    [exit status: 0]
    "#);
    assert_snapshot!(world.run(&["version", "-f", "toml"]), @r#"
    ------- stderr -------
    error: unknown format `toml`
    hint: it is one of pretty, json
    [exit status: 1]
    "#);
}

#[test]
fn a_wrong_command_line_is_explained_and_ends_with_1() {
    let world = World::new();
    assert_snapshot!(world.run(&["up", "--nosuch"]), @r#"
    ------- stderr -------
    error: unexpected argument '--nosuch' found

      tip: a similar argument exists: '--no-attach'

    Usage: compose up [OPTIONS] [SERVICE]...

    For more information, try '--help'.
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["build"]), @r#"
    ------- stderr -------
    error: `compose build` is not supported yet
    hint: build the image with another tool and name it with `image`
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["up", "--timeout", "x"]), @r#"
    ------- stderr -------
    error: invalid value 'x' for '--timeout <SECONDS>': invalid digit found in string

    For more information, try '--help'.
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["exec", "web"]), @r#"
    ------- stderr -------
    error: the following required arguments were not provided:
      <COMMAND>...

    Usage: compose exec [OPTIONS] <SERVICE> <COMMAND>...

    For more information, try '--help'.
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["--progress", "foo", "ps"]), @r#"
    ------- stderr -------
    error: unsupported --progress value "foo"
    hint: it is one of auto, tty, plain, json, quiet
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["--ansi", "never", "--progress", "tty", "ps"]), @r#"
    ------- stderr -------
    error: can't use --progress tty while ANSI support is disabled
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["up", "-p", "shop"]), @r#"
    ------- stderr -------
    error: unexpected argument '-p' found

      tip: it goes before the command: `compose -p NAME up`

    Usage: compose up [OPTIONS] [SERVICE]...

    For more information, try '--help'.
    [exit status: 1]
    "#);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let world = World::with(SHOP);
    assert_snapshot!(world.run(&["up", "--build", "--no-build"]), @r#"
    ------- stderr -------
    error: --build and --no-build are incompatible
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["up", "-d", "--abort-on-container-exit"]), @r#"
    ------- stderr -------
    error: --detach cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --attach, --attach-dependencies or --watch
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["up", "--wait", "--attach", "web"]), @r#"
    ------- stderr -------
    error: --wait cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --attach, --attach-dependencies or --watch
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["create", "--force-recreate", "--no-recreate"]), @r#"
    ------- stderr -------
    error: --force-recreate and --no-recreate are incompatible
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["logs", "--index", "1"]), @r#"
    ------- stderr -------
    error: --index requires one service to be selected
    [exit status: 1]
    "#);
}

#[test]
fn a_service_that_is_not_in_the_file_is_refused_with_a_suggestion() {
    let world = World::with(SHOP);
    assert_snapshot!(world.run(&["ps", "wbe"]), @r#"
    ------- stderr -------
    error: no such service: wbe
    hint: did you mean `web`?
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["up", "-d", "wbe"]), @r#"
    ------- stderr -------
    error: no such service: wbe
     |
     = help: did you mean `web`?
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["up", "-d", "--scale", "wbe=2"]), @r#"
    ------- stderr -------
    error: no such service: wbe
    hint: did you mean `web`?
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["up", "--exit-code-from", "nosuch"]), @r#"
    ------- stderr -------
    error: no such service: nosuch
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["--progress", "json", "stop", "wbe"]), @r#"
    ------- stderr -------
    {"error":true,"message":"no such service: wbe","hints":["did you mean `web`?"]}
    [exit status: 1]
    "#);
}

#[test]
fn filters_and_formats_are_checked_first() {
    let world = World::with(SHOP);
    assert_snapshot!(world.run(&["ps", "--filter", "foo=bar"]), @r#"
    ------- stderr -------
    error: unknown filter foo
    hint: containers are filtered by `status`
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["ls", "--filter", "foo=bar"]), @r#"
    ------- stderr -------
    error: invalid filter 'foo'
    hint: projects are filtered by `name`
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["down", "--rmi", "some"]), @r#"
    ------- stderr -------
    error: invalid value for --rmi: "some"
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["logs", "--since", "nonsense"]), @r#"
    ------- stderr -------
    error: invalid value for "since": failed to parse value as time or duration: "nonsense"
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["plan", "--format", "xml"]), @r#"
    ------- stderr -------
    error: unknown format `xml`
    hint: it is one of text, json
    [exit status: 1]
    "#);
}

#[test]
fn mistakes_in_files_show_their_place() {
    let world = World::with(BROKEN);
    assert_snapshot!(world.run(&["up", "-d"]), @r#"
    ------- stderr -------
    error: `prots` is not an attribute of `services.web`
     --> compose.yaml:4:5
      |
    4 |     prots:
      |     ^^^^^
      |
      = help: did you mean `ports`?
    [exit status: 1]
    "#);
    assert_snapshot!(world.run(&["--progress", "json", "ps"]), @r#"
    ------- stderr -------
    {"error":true,"severity":"error","message":"`prots` is not an attribute of `services.web`","labels":[{"file":"compose.yaml","line":4,"column":5,"range":{"start":38,"end":43},"text":""}],"chain":[],"expected":null,"hints":["did you mean `ports`?"]}
    [exit status: 1]
    "#);
    let world = World::new();
    assert_snapshot!(world.run(&["ps"]), @r#"
    ------- stderr -------
    error: no Compose file in `[FOLDER]` or a directory above it
     |
     = note: expected one of compose.yaml, compose.yml, docker-compose.yml, docker-compose.yaml
     = help: name the file with `-f`
    [exit status: 1]
    "#);
}

#[test]
fn a_containerd_that_does_not_answer_is_named() {
    let world = World::with(SHOP);
    assert_snapshot!(world.run(&["ps"]), @r#"
    ------- stderr -------
    error: cannot reach containerd at [FOLDER]/containerd.sock
      caused by: No such file or directory (os error 2)
    hint: there is no socket at `[FOLDER]/containerd.sock`; is containerd installed and running? `--address` or `CONTAINERD_ADDRESS` names another socket
    [exit status: 1]
    "#);
    let world = World::new();
    assert_snapshot!(world.run(&["-p", "shop", "down"]), @r#"
    ------- stderr -------
    error: cannot reach containerd at [FOLDER]/containerd.sock
      caused by: No such file or directory (os error 2)
    hint: there is no socket at `[FOLDER]/containerd.sock`; is containerd installed and running? `--address` or `CONTAINERD_ADDRESS` names another socket
    [exit status: 1]
    "#);
    let world = World::with(SHOP);
    assert_snapshot!(world.run(&["--progress", "json", "plan"]), @r#"
    ------- stderr -------
    {"error":true,"message":"cannot reach containerd at [FOLDER]/containerd.sock","causes":["No such file or directory (os error 2)"],"hints":["there is no socket at `[FOLDER]/containerd.sock`; is containerd installed and running? `--address` or `CONTAINERD_ADDRESS` names another socket"]}
    [exit status: 1]
    "#);
}

#[test]
fn options_of_run_attach_scale_and_wait_are_checked_first() {
    let world = World::with(SHOP);
    let mut told = String::new();
    for words in [
        &["run"][..],
        &["run", "-p", "80:80", "-P", "web"],
        &["run", "-l", "foo", "web"],
        &["run", "-e", "=x", "web"],
        &["run", "-v", "relative", "web"],
        &["run", "-p", "x", "web"],
        &["run", "--entrypoint", "a \"b", "web"],
        &["run", "--env-from-file", "nosuch", "web"],
        &["run", "wbe", "true"],
        &["attach", "--detach-keys", "ctrl-foo", "web"],
        &["attach", "nosuch"],
        &["scale", "web"],
        &["scale", "web=x"],
        &["wait"],
    ] {
        told.push_str(&["$ ", &words.join(" "), "\n", &world.run(words), "\n"].concat());
    }
    insta::assert_snapshot!(told);
}
