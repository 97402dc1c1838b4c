//! Two tests that each have a stack of their own, at the same time, from one file.
//!
//! `compose` must be in a folder of `PATH`, and containers need root:
//!
//! ```sh
//! sudo env IMAGE=docker.io/library/busybox cargo run --example integration_test
//! ```

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use containerd_compose::stack::TemporaryStack;

/// A port of the host that is free is taken, so that any number of such stacks can be there.
const FILE: &str = "
services:
  web:
    image: ${IMAGE:-docker.io/library/busybox}
    command: sh -c 'echo serving $$GREETING; mkdir -p /www; echo $$GREETING >/www/index.html; exec httpd -f -p 80 -h /www'
    init: true
    environment: {GREETING: '${GREETING}'}
    ports: ['80']
    volumes: ['data:/data']
    healthcheck:
      test: wget -q -O /dev/null http://127.0.0.1/
      interval: 200ms
volumes:
  data:
";

/// What a test does with its stack, which goes when the function ends, however it ends.
async fn greets(greeting: &str) -> Result<(), Box<dyn Error>> {
    let stack = TemporaryStack::from_yaml(FILE)
        .prefix("greeting")
        .variable("GREETING", greeting)
        .up()
        .await?;

    // It is healthy by now.
    let page = get(stack.address("web", 80).await?)?;
    assert!(page.ends_with(&format!("{greeting}\n")), "{page}");

    let output = stack
        .run("web", ["sh", "-c", "echo >/data/kept; ls /data"])
        .await?;
    assert_eq!((output.code, output.stdout.as_str()), (0, "kept\n"));

    let log = stack.log("web").await?;
    assert_eq!(log, [format!("serving {greeting}")]);
    Ok(())
}

fn get(address: std::net::SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    tokio::try_join!(greets("good morning"), greets("good evening"))?;
    Ok(())
}
