//! Who is connected to a container, from `/proc`.

use std::collections::BTreeSet;
use std::io;

/// States of a connection that is still used, or being made: established, its request received, closed by the other side
/// only.
const OPEN: [&str; 3] = ["01", "03", "08"];
const LISTENING: &str = "0A";

/// How many TCP connections from outside are open to ports on which somebody in the network namespace of process `pid` listens.
pub fn open_connections(pid: u32) -> io::Result<usize> {
    let mut text = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    match std::fs::read_to_string(format!("/proc/{pid}/net/tcp6")) {
        Ok(more) => text.push_str(&more),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(count(&text))
}

/// Local port, address of the other side and state of a line of `/proc/net/tcp`.
fn socket(line: &str) -> Option<(&str, &str, &str)> {
    let mut fields = line.split_whitespace().skip(1);
    let (_, port) = fields.next()?.split_once(':')?;
    let (other, _) = fields.next()?.split_once(':')?;
    Some((port, other, fields.next()?))
}

fn count(text: &str) -> usize {
    let sockets: Vec<_> = text.lines().filter_map(socket).collect();
    let listening = sockets.iter().filter(|(_, _, state)| *state == LISTENING);
    let ports: BTreeSet<&str> = listening.map(|(port, ..)| *port).collect();
    let open = sockets.iter().filter(|(port, other, state)| {
        OPEN.contains(state) && ports.contains(port) && !is_loopback(other)
    });
    open.count()
}

/// Whether an address, in hexadecimal words as the host has them in memory, is the container itself.
fn is_loopback(address: &str) -> bool {
    let Some(last) = address.get(address.len().saturating_sub(8)..) else {
        return false;
    };
    let is_mapped = address.len() == 8 || address.starts_with("0000000000000000FFFF0000");
    let word = u32::from_str_radix(last, 16).unwrap_or_default();
    if is_mapped {
        word.to_ne_bytes()[0] == 127
    } else {
        address.starts_with("000000000000000000000000")
            && u32::from_be_bytes(word.to_ne_bytes()) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n";

    #[test]
    fn open_connections_to_listening_ports_are_counted() {
        let lines = [
            "0: 00000000:0050 00000000:0000 0A 0 0",
            "1: 0200000A:0050 0100000A:9C40 01 0 0",
            "2: 0200000A:0050 0100000A:9C41 08 0 0",
            "3: 0200000A:0050 0100000A:9C42 06 0 0",
        ];
        assert_eq!(count(&format!("{HEAD}{}\n", lines.join("\n"))), 2);
    }

    #[test]
    fn what_it_connects_to_itself_does_not_count() {
        let lines = [
            "0: 00000000:0050 00000000:0000 0A 0 0",
            // To a server elsewhere, and a probe from within.
            "1: 0200000A:9C40 0300000A:1538 01 0 0",
            "2: 0100007F:0050 0100007F:9C40 01 0 0",
            "3: 0000000000000000FFFF00000100007F:0050 0000000000000000FFFF00000100007F:9C41 01 0 0",
            "4: 00000000000000000000000001000000:0050 00000000000000000000000001000000:9C42 01 0 0",
            "nonsense",
        ];
        assert_eq!(count(&format!("{HEAD}{}\n", lines.join("\n"))), 0);
    }

    #[test]
    fn a_port_of_ipv6_takes_connections_of_both() {
        let lines = [
            "0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0 0",
            "1: 0000000000000000FFFF00000200000A:0050 0000000000000000FFFF00000100000A:9C40 01 0 0",
        ];
        assert_eq!(count(&format!("{HEAD}{}\n", lines.join("\n"))), 1);
    }

    #[test]
    fn the_kernel_tells_of_this_process() {
        assert!(open_connections(std::process::id()).is_ok());
    }
}
