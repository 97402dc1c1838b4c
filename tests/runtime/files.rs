//! Files in and out of containers: `cp`, `export` and `commit`.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::world::{Project, World};

const STACK: &str = "services:
  web:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    volumes: ['data:/data', './bound:/bound', './file.conf:/etc/file.conf', 'data:/fixed:ro']
    tmpfs: [/scratch]
  sealed:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    read_only: true
    volumes: ['data:/data']
  once:
    image: demo
    command: sh -c 'echo made > /made; ln -s /etc /hidden'
volumes:
  data:
";

fn started(world: &World) -> Project<'_> {
    world.import_image("default");
    let project = world.project("files", STACK);
    std::fs::create_dir(project.folder().join("bound")).unwrap();
    project.write("file.conf", "old\n");
    let _up = project.compose("up -d").success();
    project
}

#[track_caller]
fn inside(project: &Project<'_>, script: &str) -> String {
    let words = ["exec", "-T", "web", "sh", "-c", script];
    project.command(words).run().success().stdout
}

fn down(project: &Project<'_>) {
    let _down = project.compose("down -v").success();
}

#[test]
fn files_go_both_ways_wherever_they_lie_in_the_container() {
    World::run(|world| {
        let project = started(world);
        let folder = project.folder();
        std::fs::create_dir_all(folder.join("tree/sub")).unwrap();
        project.write("tree/a", "text");
        project.write("tree/sub/b", "deep");
        std::fs::hard_link(folder.join("tree/a"), folder.join("tree/sub/same")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o4751);
        std::os::unix::fs::chown(folder.join("tree/sub/b"), Some(1000), Some(7)).unwrap();
        std::fs::set_permissions(folder.join("tree/sub/b"), mode).unwrap();

        for place in ["/", "/data", "/bound", "/scratch"] {
            let _cp = project.compose(&format!("cp tree web:{place}")).success();
            let listed = inside(
                &project,
                &format!(
                    "cd {place}/tree && cat a sub/b && stat -c '%u %g %a' sub/b && [ a -ef sub/same ] && echo same"
                ),
            );
            assert_eq!(listed, "textdeep1000 7 4751\nsame\n", "{place}");
            let back = format!("back{}", place.replace('/', "-"));
            let _cp = project
                .compose(&format!("cp web:{place}/tree {back}"))
                .success();
            let b = std::fs::metadata(folder.join(&back).join("sub/b")).unwrap();
            // Whoever runs the command owns what it brings, without the rights that it had.
            assert_eq!((b.uid(), b.gid(), b.mode() & 0o7777), (0, 0, 0o751));
            let same = |path: &str| {
                std::fs::metadata(folder.join(&back).join(path))
                    .unwrap()
                    .ino()
            };
            assert_eq!(same("a"), same("sub/same"));
        }
        let _cp = project.compose("cp -a web:/tree kept").success();
        let b = std::fs::metadata(folder.join("kept/sub/b")).unwrap();
        assert_eq!((b.uid(), b.gid()), (1000, 7));

        // A file that is mounted itself is rewritten, and the host sees it.
        project.write("new.conf", "new\n");
        let _cp = project.compose("cp new.conf web:/etc/file.conf").success();
        assert_eq!(inside(&project, "cat /etc/file.conf"), "new\n");
        let bound = std::fs::read_to_string(folder.join("file.conf")).unwrap();
        assert_eq!(bound, "new\n");

        // Streams: tar archives on standard output and input.
        let sent = world
            .command_in(folder, "sh")
            .args([
                "-c",
                &format!(
                    "{0} cp web:/tree - | {0} cp - web:/scratch/tree && {0} cp web:/tree - | tar t",
                    env!("CARGO_BIN_EXE_compose")
                ),
            ])
            .run()
            .success();
        assert_eq!(
            sent.stdout,
            "tree/\ntree/a\ntree/sub/\ntree/sub/b\ntree/sub/same\n"
        );
        assert_eq!(inside(&project, "cat /scratch/tree/tree/sub/b"), "deep");
        down(&project);
    });
}

#[test]
fn a_stopped_container_is_copied_to_and_from() {
    World::run(|world| {
        let project = started(world);
        let folder = project.folder();
        let _wait = project.command(["ps", "--all"]).run().success();
        crate::world::eventually("the one-shot ends", || {
            project.fields("Service", "State")["once"] == "exited"
        });
        let _cp = project.compose("cp once:/made made").success();
        let made = std::fs::read_to_string(folder.join("made")).unwrap();
        assert_eq!(made, "made\n");
        project.write("later", "later");
        let _cp = project.compose("cp later once:/later").success();
        let _cp = project.compose("cp once:/later again").success();
        assert!(folder.join("again").exists());

        // Into a volume, past the root that is covered there.
        let _stop = project.compose("stop web").success();
        let _cp = project.compose("cp later web:/data/later").success();
        let _cp = project.compose("cp later web:/own").success();
        let _start = project.compose("start web").success();
        assert_eq!(inside(&project, "cat /data/later /own"), "laterlater");
        down(&project);
    });
}

#[test]
fn what_is_read_only_or_missing_is_refused() {
    World::run(|world| {
        let project = started(world);
        project.write("f", "x");
        let refused = |words: &str, reason: &str| {
            let output = project.compose(words).failure();
            assert_eq!(output.status.code(), Some(1), "{output}");
            assert!(output.stderr.contains(reason), "{output}");
        };
        refused(
            "cp f sealed:/etc/f",
            "/etc/f of container files-sealed-1 is read-only",
        );
        refused("cp f web:/fixed/f", "is read-only");
        let _cp = project.compose("cp f sealed:/data/f").success();
        refused(
            "cp f web:/gone/f",
            "could not find /gone in container files-web-1",
        );
        refused(
            "cp web:/gone .",
            "could not find /gone in container files-web-1",
        );
        refused("cp f nosuch:/f", "no such service: nosuch");
        refused(
            "cp --index 3 f web:/f",
            "service \"web\" is not running container #3",
        );
        refused("cp web:/etc gone/x", "directory \"");
        // A stopped one is as read-only as it was.
        let _stop = project.compose("stop sealed web").success();
        refused("cp f sealed:/etc/f", "is read-only");
        refused("cp f web:/fixed/f", "is read-only");
        down(&project);
    });
}

#[test]
fn no_link_leads_out_of_the_container_or_the_destination() {
    World::run(|world| {
        let project = started(world);
        let folder = project.folder();
        let victim = world.path("victim");
        std::fs::create_dir(&victim).unwrap();
        std::fs::write(victim.join("key"), "secret").unwrap();
        project.write("f", "x");
        let host = victim.display().to_string();
        // As the container may have prepared it: a link to a folder of the host, and one by way of `..`.
        inside(
            &project,
            &format!(
                "ln -s {host} /out; ln -s ../../../../../..{host} /up; ln -s /proc/1/root{host} /magic; mkdir /tree; ln -s {host} /tree/l"
            ),
        );
        for link in ["out", "up", "magic"] {
            let _refused = project.compose(&format!("cp f web:/{link}/f")).failure();
            let _refused = project
                .compose(&format!("cp web:/{link}/key stolen"))
                .failure();
        }
        assert!(!folder.join("stolen").exists());
        // The link comes along as a link; the next copy must not go through it.
        let _cp = project.compose("cp web:/tree tree").success();
        assert!(folder.join("tree/l").is_symlink());
        inside(&project, "rm /tree/l; mkdir /tree/l; echo x > /tree/l/key");
        let _refused = project.compose("cp web:/tree/. tree").failure();
        // An archive that makes a link and then writes through it.
        let script = format!(
            "mkdir a && ln -s /etc a/l && tar cf x.tar a/l && rm a/l && mkdir a/l && echo x >a/l/new \
             && tar rf x.tar a/l/new && ! {} cp - web:/ <x.tar",
            env!("CARGO_BIN_EXE_compose")
        );
        let refused = world
            .command_in(folder, "sh")
            .args(["-c", &script])
            .run()
            .success();
        assert!(
            refused.stderr.contains("leads through a symbolic link"),
            "{refused}"
        );
        assert_eq!(inside(&project, "ls /etc | grep -c new || true"), "0\n");
        assert_eq!(
            std::fs::read_to_string(victim.join("key")).unwrap(),
            "secret"
        );
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 1);
        down(&project);
    });
}

#[test]
fn a_container_that_swaps_folders_for_links_gets_nothing_written_elsewhere() {
    World::run(|world| {
        let project = started(world);
        let victim = world.path("victim");
        std::fs::create_dir(&victim).unwrap();
        std::fs::create_dir_all(project.folder().join("tree/d/e")).unwrap();
        for number in 0..50 {
            project.write(&format!("tree/d/e/{number}"), "x");
        }
        let script = format!(
            "cd /srv && while :; do mkdir -p tree/d; mv tree/d away 2>/dev/null; ln -s {} tree/d 2>/dev/null; rm -f tree/d; rm -rf away; done",
            victim.display()
        );
        let words = ["exec", "-d", "web", "sh", "-c", &script];
        let _swaps = project.command(words).run().success();
        for _ in 0..10 {
            // It may fail, as somebody removes what is copied.
            let _output = project.compose("cp tree web:/srv").status;
            let _output = project.compose("cp web:/srv/tree back").status;
        }
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
        down(&project);
    });
}

#[test]
fn a_root_file_system_is_exported_without_what_is_mounted() {
    World::run(|world| {
        let project = started(world);
        inside(
            &project,
            "echo mine > /mine; echo hidden > /data/hidden; ln /mine /twin",
        );
        let _export = project.compose("export -o root.tar web").success();
        let listed = world
            .command_in(project.folder(), "tar")
            .args(["tf", "root.tar"])
            .run()
            .success();
        let names: Vec<&str> = listed
            .stdout
            .lines()
            .map(|name| name.trim_start_matches("./"))
            .collect();
        for name in ["mine", "twin", "bin/busybox", "etc/passwd", "data/"] {
            assert!(names.contains(&name), "{name}: {listed}");
        }
        assert!(!names.contains(&"data/hidden"), "{listed}");
        let size = std::fs::metadata(project.folder().join("root.tar"))
            .unwrap()
            .len();
        let piped = world
            .command_in(project.folder(), "sh")
            .args([
                "-c",
                &format!("{} export web | wc -c", env!("CARGO_BIN_EXE_compose")),
            ])
            .run()
            .success();
        assert_eq!(piped.stdout.trim(), size.to_string());
        let _refused = project.compose("export -o gone/root.tar web").failure();
        assert!(!project.folder().join("gone").exists());
        down(&project);
    });
}

#[test]
fn a_container_becomes_an_image_that_runs() {
    World::run(|world| {
        let project = started(world);
        inside(&project, "echo mine > /mine; rm /etc/group");
        let words = [
            "commit",
            "-a",
            "me",
            "-m",
            "why",
            "-c",
            "ENV ADDED=yes",
            "-c",
            "CMD [\"sleep\", \"infinity\"]",
            "web",
            "mine:1",
        ];
        let committed = project.command(words).run().success();
        assert!(
            committed
                .stderr
                .contains("Container files-web-1 Committed as sha256:"),
            "{committed}"
        );
        assert_eq!(project.fields("Service", "State")["web"], "running");
        let words = ["commit", "-c", "FROM x", "web", "mine:2"];
        let refused = project.command(words).run().failure();
        assert!(refused.stderr.contains("it is one of CMD"), "{refused}");
        let refused = project.compose("commit web BAD:x").failure();
        assert!(refused.stderr.contains("BAD"), "{refused}");

        let copy = world.project(
            "copy",
            "services: {web: {image: 'mine:1', stop_grace_period: 0s}}",
        );
        let _up = copy.compose("up -d").success();
        let words = [
            "exec",
            "-T",
            "web",
            "sh",
            "-c",
            "cat /mine; echo $ADDED; ls /etc/group",
        ];
        let shown = copy.command(words).run();
        assert_eq!(shown.stdout, "mine\nyes\n");
        let _down = copy.compose("down").success();
        down(&project);
    });
}
