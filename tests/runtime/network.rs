//! Who reaches whom, and by which name.

use crate::world::{Output, Project, World, eventually};

const THREE_SERVICES: &str = "
x-service: &service
  image: demo
  init: true
  stop_grace_period: 0s
services:
  left:
    <<: *service
    networks: [west]
  middle:
    <<: *service
    networks:
      west:
        aliases: [centre]
      east:
  right:
    <<: *service
    networks: [east]
    deploy:
      replicas: 2
networks:
  west:
  east:
    internal: true
";

fn exec(project: &Project<'_>, service: &str, command: &str) -> Output {
    project
        .command(["exec", "-T", service])
        .args(command.split(' '))
        .run()
}

#[test]
fn names_resolve_on_shared_networks_only() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("names", THREE_SERVICES);
        let _up = project.compose("up -d").success();
        for (asker, name, addresses) in [
            ("left", "middle", 1),
            ("left", "centre", 1),
            ("left", "names-middle-1", 1),
            ("left", "right", 0),
            ("middle", "right", 2),
            ("right", "middle", 1),
            ("right", "centre", 0),
            ("right", "left", 0),
        ] {
            let answer = exec(&project, asker, &format!("nslookup -type=a {name}"));
            let found = answer.stdout.matches("\nAddress: ").count();
            assert_eq!(found, addresses, "{asker} asks for {name}:\n{answer}");
        }
        // No such record is another answer than no such name, on which libraries give up.
        let answer = exec(&project, "left", "nslookup -type=aaaa middle");
        assert!(!answer.stdout.contains("NXDOMAIN"), "{answer}");
        let _down = project.compose("down").success();
    });
}

#[test]
fn packets_do_not_pass_from_one_network_to_another() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("walls", THREE_SERVICES);
        let _up = project.compose("up -d").success();
        let address = |service: &str, other: &str| {
            let answer = exec(&project, service, &format!("nslookup -type=a {other}")).success();
            let line = answer
                .stdout
                .rsplit("\nAddress: ")
                .next()
                .unwrap_or_default();
            line.lines().next().unwrap_or_default().to_owned()
        };
        let left = address("middle", "left");
        let right = address("middle", "right");
        let fetch = |service: &str, address: &str| {
            exec(
                &project,
                service,
                &format!("timeout 2 wget -q -O - http://{address}:8080/none"),
            )
        };
        let answered = |output: &Output| output.stderr.contains("404");
        assert!(
            answered(&fetch("middle", &left)),
            "the test's own way to ask does not work"
        );
        assert!(
            answered(&fetch("middle", &right)),
            "the test's own way to ask does not work"
        );
        assert!(!answered(&fetch("left", &right)));
        assert!(!answered(&fetch("right", &left)));
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_published_port_answers_on_ipv6_whoever_is_killed() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  web:
    image: demo
    init: true
    stop_grace_period: 0s
    command: sh -c 'mkdir /www; echo page >/www/index.html; exec httpd -f -p 80 -h /www'
    ports: ['8080:80', '127.0.0.1:8081:80']
";
        let project = world.project("six", file);
        let _up = project.compose("up -d").success();
        let is_served = || world.get("http://[::1]:8080/").stdout == "page\n";
        eventually("a page", is_served);
        assert_eq!(world.get("http://[::1]:8081/").stdout, "");
        let listed = project.compose("ps").success();
        let ports = listed.stdout.lines().last().unwrap_or_default();
        assert!(
            ports.ends_with("0.0.0.0:8080->80/tcp, 127.0.0.1:8081->80/tcp, [::]:8080->80/tcp"),
            "{listed}"
        );
        assert!(world.kill("supervisor --project six --worker") > 0);
        eventually("a page from the next worker", is_served);
        let _restart = project.compose("restart").success();
        eventually("a page after a restart", is_served);
        let _stop = project.compose("stop").success();
        assert!(!is_served());
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_port_published_on_loopback_is_closed_to_neighbours() {
    World::run(|world| {
        world.import_image("default");
        let ports = "services:
  app:
    image: demo
    init: true
    stop_grace_period: 0s
    ports: ['8080:8080', '127.0.0.1:8081:8080']
";
        let project = world.project("publish", ports);
        let _up = project.compose("up -d").success();
        // A second machine on the network of the uplink, which also tries to reach the loopback
        // address of the first by a route.
        let machine = "set -e; touch neighbour; unshare --net=neighbour true
            ip link add door type veth peer name eth0 netns $PWD/neighbour
            ip link set door master uplink up
            nsenter --net=neighbour sh -c '
                sysctl -q -w net.ipv4.conf.all.route_localnet=1
                ip address add 192.0.2.3/24 dev eth0; ip link set eth0 up
                ip route del local 127.0.0.0/8 table local 2>/dev/null || true
                ip route add 127.0.0.0/8 via 192.0.2.2'";
        let _made = world.command("sh").args(["-c", machine]).run().success();
        let from_neighbour = |url: &str| {
            let fetch = [
                "--net=neighbour",
                "timeout",
                "2",
                "busybox",
                "wget",
                "-Y",
                "off",
            ];
            let fetch = world
                .command("nsenter")
                .args(fetch)
                .args(["-q", "-O", "-", url]);
            fetch.run().stderr.contains("404")
        };
        let from_here = |url: &str| world.get(url).stderr.contains("404");

        assert!(from_here("http://127.0.0.1:8080/none"));
        assert!(from_here("http://127.0.0.1:8081/none"));
        assert!(from_here("http://192.0.2.2:8080/none"));
        assert!(from_neighbour("http://192.0.2.2:8080/none"));
        assert!(!from_neighbour("http://192.0.2.2:8081/none"));
        assert!(!from_neighbour("http://127.0.0.1:8081/none"));

        let _down = project.compose("down").success();
        assert!(!from_here("http://127.0.0.1:8080/none"));
        let remove = "ip link del door; umount neighbour; rm neighbour";
        let _removed = world.command("sh").args(["-c", remove]).run().success();
    });
}

#[test]
fn an_up_writes_wiped_rules_again_although_nothing_else_is_to_be_done() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:\n  web:\n    image: demo\n    ports: ['8080:8080']\n    stop_grace_period: 0s\n";
        let project = world.project("wiped", file);
        let _up = project.compose("up -d").success();
        let ids = project.fields("Name", "ID");
        let page = "http://127.0.0.1:8080/";
        let answers = || !world.get(page).stderr.contains("refused");
        assert!(answers());
        let flush = || {
            let flush = ["flush", "ruleset"];
            let _flushed = world.command("nft").args(flush).run().success();
        };
        flush();
        assert!(!answers());
        let _up = project.compose("up -d").success();
        assert!(answers());
        assert_eq!(project.fields("Name", "ID"), ids);
        // Without a command it takes the supervisor a while to look.
        flush();
        eventually("the supervisor mends the rules", answers);
        let events = project.compose("events --since 5m --until 0s").success();
        let told = "network repair (reason=firewall rules were not as recorded)";
        assert_eq!(events.stdout.matches(told).count(), 2, "{events}");
        let _down = project.compose("down").success();
    });
}
