//! What projects share with each other and with the host: ports, networks, namespaces.

use crate::world::{Output, Project, World};

fn exec(project: &Project<'_>, service: &str, command: &str) -> Output {
    project
        .command(["exec", "-T", service])
        .args(command.split(' '))
        .run()
}

/// Whether `service` gets an answer from the web server at `address`, which has no such page.
fn reaches(project: &Project<'_>, service: &str, address: &str) -> bool {
    let fetch = format!("timeout 3 wget -Y off -q -O - http://{address}/none");
    exec(project, service, &fetch).stderr.contains("404")
}

#[test]
fn a_taken_port_is_refused_with_its_owner_and_free_after_a_stop() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  web: {image: demo, init: true, stop_grace_period: 0s, ports: ['8080:8080']}
";
        let one = world.project("one", file);
        let two = world.project("two", file);
        let _up = one.compose("up -d").success();
        let refused = two.compose("up -d").failure();
        for part in ["8080", "one-web-1"] {
            assert!(refused.stderr.contains(part), "no {part} in\n{refused}");
        }
        let _stop = one.compose("stop").success();
        let _up = two.compose("up -d").success();
        let refused = one.compose("start").failure();
        assert!(refused.stderr.contains("two-web-1"), "{refused}");
        let _down = two.compose("down").success();
        let _start = one.compose("start").success();
        assert!(
            world
                .get("http://127.0.0.1:8080/none")
                .stderr
                .contains("404")
        );
        let _down = one.compose("down").success();
    });
}

#[test]
fn two_projects_meet_on_an_external_network() {
    World::run(|world| {
        world.import_image("default");
        let server = "services:
  web: {image: demo, init: true, stop_grace_period: 0s, networks: [shared]}
networks: {shared: {name: shared}}
";
        let client = "services:
  cli: {image: demo, command: sleep infinity, init: true, stop_grace_period: 0s, networks: [shared]}
networks: {shared: {external: true}}
";
        let server = world.project("server", server);
        let client = world.project("client", client);
        let missing = client.compose("up -d").failure();
        assert!(missing.stderr.contains("shared"), "{missing}");
        let _up = server.compose("up -d").success();
        let _up = client.compose("up -d").success();
        assert!(reaches(&client, "cli", "web:8080"));
        let _stop = server.compose("stop").success();
        let _unknown = exec(&client, "cli", "nslookup -type=a web").failure();
        let _start = server.compose("start").success();
        assert!(reaches(&client, "cli", "web:8080"));
        let _down = client.compose("down").success();
        let _down = server.compose("down").success();
    });
}

#[test]
fn other_network_modes_are_what_they_say() {
    World::run(|world| {
        world.import_image("default");
        let file = "
x-service: &service {image: demo, init: true, stop_grace_period: 0s}
services:
  none: {<<: *service, network_mode: none}
  host: {<<: *service, network_mode: host, command: sleep infinity}
  main: {<<: *service}
  side: {<<: *service, network_mode: 'service:main', command: sleep infinity}
";
        let project = world.project("modes", file);
        let _up = project.compose("up -d").success();
        let links = |service| {
            exec(&project, service, "ls /sys/class/net")
                .success()
                .stdout
        };
        assert_eq!(links("none").trim(), "lo");
        assert!(links("host").contains("uplink"), "{}", links("host"));
        assert!(reaches(&project, "side", "127.0.0.1:8080"));
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_parent_that_stops_leaves_its_children_their_network() {
    World::run(|world| {
        world.import_image("default");
        let file = "
x-service: &service {image: demo, init: true, stop_grace_period: 0s}
services:
  main: {<<: *service, command: sleep 1002, ports: ['8080:8080']}
  side: {<<: *service, network_mode: 'service:main'}
  other: {<<: *service, command: sleep infinity}
";
        let project = world.project("family", file);
        let _up = project.compose("up -d").success();
        let address = exec(&project, "side", "hostname -i").success().stdout;
        assert!(reaches(&project, "other", "main:8080"));
        assert!(world.kill("sleep 1002") > 0);
        crate::world::eventually("the end of the parent", || {
            project.fields("Name", "State")["family-main-1"] == "exited"
        });
        std::thread::sleep(std::time::Duration::from_millis(500));
        let own = address.trim();
        assert!(reaches(&project, "other", &format!("{own}:8080")));
        assert!(
            world
                .get("http://127.0.0.1:8080/none")
                .stderr
                .contains("404")
        );
        // With the last of them the network goes, and with it the port.
        let _stop = project.compose("stop side").success();
        assert!(
            !world
                .get("http://127.0.0.1:8080/none")
                .stderr
                .contains("404")
        );
        let _up = project.compose("up -d").success();
        assert!(reaches(&project, "other", "main:8080"));
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_container_may_serve_port_53_itself() {
    World::run(|world| {
        world.import_image("default");
        let file = "
x-service: &service {image: demo, init: true, stop_grace_period: 0s}
services:
  dns: {<<: *service, command: httpd -f -p 53 -h /srv}
  client: {<<: *service, command: sleep infinity}
";
        let project = world.project("own53", file);
        let _up = project.compose("up -d").success();
        let _answer = exec(&project, "dns", "nslookup -type=a client").success();
        assert!(reaches(&project, "client", "dns:53"));
        let _down = project.compose("down").success();
    });
}

#[test]
fn all_of_it_works_where_forwarding_is_dropped_by_policy() {
    World::run(|world| {
        world.import_image("default");
        let policy = |target: &str| {
            let iptables = ["--wait", "--policy", "FORWARD", target];
            let _set = world.command("iptables").args(iptables).run().success();
        };
        policy("DROP");
        let file = "
x-service: &service {image: demo, init: true, stop_grace_period: 0s}
services:
  web: {<<: *service, ports: ['8080:8080']}
  client: {<<: *service, command: sleep infinity}
";
        let project = world.project("strict", file);
        let _up = project.compose("up -d").success();
        assert!(reaches(&project, "client", "web:8080"));
        assert!(
            world
                .get("http://127.0.0.1:8080/none")
                .stderr
                .contains("404")
        );
        assert!(
            world
                .get("http://192.0.2.2:8080/none")
                .stderr
                .contains("404")
        );
        let _ping = exec(&project, "client", "ping -c 1 -W 2 192.0.2.2").success();
        let _down = project.compose("down").success();
        policy("ACCEPT");
    });
}

#[test]
fn a_udp_client_goes_on_after_its_server_was_recreated() {
    World::run(|world| {
        world.import_image("default");
        let file = |value: &str| {
            format!(
                "services:
  echo:
    image: demo
    init: true
    stop_grace_period: 0s
    environment: {{VALUE: {value}}}
    volumes: ['/usr:/usr:ro', '/usr/lib:/lib:ro', '/usr/lib64:/lib64:ro']
    command:
      - python3
      - -c
      - |
        import socket
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(('0.0.0.0', 5353))
        while True: s.sendto(*s.recvfrom(10))
    ports: ['5353:5353/udp']
"
            )
        };
        let project = world.project("datagrams", &file("one"));
        let _up = project.compose("up -d").success();
        // One socket, so that every datagram is of the same flow.
        let script = "import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5)
s.connect(('192.0.2.2', 5353))
def ask():
    for _ in range(20):
        try:
            s.send(b'x')
            if s.recv(10) == b'x': return True
        except OSError: time.sleep(0.1)
    return False
assert ask(), 'no answer at first'
open('asked', 'w').close()
import os
while not os.path.exists('recreated'):
    try: s.send(b'x')
    except OSError: pass
    time.sleep(0.05)
time.sleep(0.3)
assert ask(), 'no answer after the recreate'
";
        let client = world.command("python3").args(["-c", script]).start();
        crate::world::eventually("an answer", || world.path("asked").exists());
        project.write("compose.yaml", &file("two"));
        let _up = project.compose("up -d").success();
        std::fs::write(world.path("recreated"), "").unwrap();
        let _client = client.finish().success();
        let _down = project.compose("down").success();
    });
}
