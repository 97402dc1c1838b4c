//! Accepts in the `FORWARD` chain of iptables.
//!
//! A packet passes only if every table lets it; where iptables drops what it does not know, no rule of ours elsewhere
//! helps. What must not pass is dropped by our nftables table.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::nft::Bridge;
use crate::network::NetworkError;
use crate::network::error::netlink_failed;
use crate::network::netlink::nftables;
use crate::network::process::{self, Finished};

const LIMIT: Duration = Duration::from_secs(30);

/// The rules of our chain as `iptables -S` shows them.
fn rules(chain: &str, bridges: &[Bridge]) -> Vec<String> {
    let mut rules = Vec::new();
    for Bridge { name, .. } in bridges {
        rules.push(format!("-A {chain} -i {name} -j ACCEPT"));
        rules.push(format!("-A {chain} -o {name} -j ACCEPT"));
    }
    rules
}

/// Input for `iptables-restore --noflush` that brings the chain from what is there (output of `iptables -S`) to what
/// should be; `None` if nothing is to be done.
fn restore(chain: &str, bridges: &[Bridge], there: &str) -> Option<String> {
    let jump = format!("FORWARD -j {chain}");
    let lines: Vec<&str> = there.lines().map(str::trim).collect();
    let declared = lines.contains(&format!("-N {chain}").as_str());
    let jumps = lines
        .iter()
        .filter(|line| **line == format!("-A {jump}"))
        .count();
    let prefix = format!("-A {chain} ");
    let found: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.starts_with(&prefix))
        .collect();
    let wanted = rules(chain, bridges);
    let mut text = String::from("*filter\n");
    if wanted.is_empty() {
        if !declared {
            return None;
        }
        let _ = writeln!(text, ":{chain} - [0:0]");
        for _ in 0..jumps {
            let _ = writeln!(text, "-D {jump}");
        }
        let _ = writeln!(text, "-X {chain}");
    } else {
        if declared && jumps == 1 && found == wanted {
            return None;
        }
        // Declaring a chain that is there empties it.
        let _ = writeln!(text, ":{chain} - [0:0]");
        for rule in &wanted {
            let _ = writeln!(text, "{rule}");
        }
        if jumps == 0 {
            let _ = writeln!(text, "-I {jump}");
        }
        for _ in 1..jumps {
            let _ = writeln!(text, "-D {jump}");
        }
    }
    text.push_str("COMMIT\n");
    Some(text)
}

/// Whether nothing is to be done. Where iptables keeps its rules in nftables this needs no program.
pub(super) fn is_whole(chain: &str, bridges: &[Bridge]) -> Result<bool, NetworkError> {
    let Some(list) = process::find("iptables") else {
        return Ok(true);
    };
    if let Some(is_whole) = is_whole_in_nftables(chain, bridges)? {
        return Ok(is_whole);
    }
    let listed = list_rules(&list)?;
    Ok(listed.is_none_or(|there| restore(chain, bridges, &there).is_none()))
}

/// As [`is_whole`]; `None` if our chain is not where nftables can see it.
pub(super) fn is_whole_in_nftables(
    chain: &str,
    bridges: &[Bridge],
) -> Result<Option<bool>, NetworkError> {
    let found = nftables::rules("filter").map_err(netlink_failed("read the firewall"))?;
    Ok(found.get(chain).map(|rules| {
        let jumps = found.get("FORWARD").into_iter().flatten();
        let jumps = jumps.filter(|rule| names_chain(rule, chain)).count();
        jumps == 1 && rules.len() == bridges.len() * 2 && !bridges.is_empty()
    }))
}

/// Whether the expressions of a rule hold this name.
fn names_chain(expressions: &[u8], chain: &str) -> bool {
    let name = [chain.as_bytes(), &[0]].concat();
    expressions.windows(name.len()).any(|window| window == name)
}

fn failed(message: String) -> NetworkError {
    NetworkError::Firewall { message }
}

fn run(program: &Path, arguments: &[&str], input: &str) -> Result<Finished, NetworkError> {
    let mut command = process::command(program);
    process::run(command.args(arguments), input.as_bytes(), LIMIT)
        .map_err(|error| failed(format!("{}: {error}", program.display())))
}

/// What `iptables -S` shows; `None` if the kernel has no such table, so that nothing drops there either.
fn list_rules(program: &Path) -> Result<Option<String>, NetworkError> {
    let listed = run(program, &["-w", "10", "-t", "filter", "-S"], "")?;
    if listed.status.success() {
        return Ok(Some(String::from_utf8_lossy(&listed.stdout).into_owned()));
    }
    tracing::debug!(
        message = process::complaint(&listed),
        "iptables is not usable"
    );
    Ok(None)
}

/// Brings our chain into the state that `bridges` asks for. Without iptables there is nothing to do.
pub(super) fn apply(chain: &str, bridges: &[Bridge]) -> Result<(), NetworkError> {
    let (Some(list), Some(change)) = (process::find("iptables"), process::find("iptables-restore"))
    else {
        return Ok(());
    };
    let Some(there) = list_rules(&list)? else {
        return Ok(());
    };
    let Some(input) = restore(chain, bridges, &there) else {
        return Ok(());
    };
    let restored = run(&change, &["-w", "10", "--noflush"], &input)?;
    if restored.status.success() {
        Ok(())
    } else {
        Err(failed(process::complaint(&restored)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridges(names: &[&str]) -> Vec<Bridge> {
        names
            .iter()
            .map(|name| Bridge {
                name: (*name).into(),
                subnets: Vec::new(),
                internal: false,
                masquerade: true,
                talk: true,
            })
            .collect()
    }

    const FRESH: &str = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n";

    #[test]
    fn the_first_network_brings_chain_and_jump() {
        assert_eq!(
            restore("COMPOSE", &bridges(&["br-a"]), FRESH).as_deref(),
            Some(
                "*filter\n:COMPOSE - [0:0]\n-A COMPOSE -i br-a -j ACCEPT\n\
                 -A COMPOSE -o br-a -j ACCEPT\n-I FORWARD -j COMPOSE\nCOMMIT\n"
            )
        );
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        let there = format!(
            "{FRESH}-N COMPOSE\n-A FORWARD -j COMPOSE\n-A COMPOSE -i br-a -j ACCEPT\n-A COMPOSE -o br-a -j ACCEPT\n"
        );
        assert_eq!(restore("COMPOSE", &bridges(&["br-a"]), &there), None);
        assert_eq!(restore("COMPOSE", &[], FRESH), None);
    }

    #[test]
    fn a_wiped_jump_is_put_back_and_a_second_one_goes() {
        let chain = "-N COMPOSE\n-A COMPOSE -i br-a -j ACCEPT\n-A COMPOSE -o br-a -j ACCEPT\n";
        let text = restore("COMPOSE", &bridges(&["br-a"]), chain).expect("a change");
        assert!(text.contains("-I FORWARD -j COMPOSE"));
        let twice = format!("{chain}-A FORWARD -j COMPOSE\n-A FORWARD -j COMPOSE\n");
        let text = restore("COMPOSE", &bridges(&["br-a"]), &twice).expect("a change");
        assert_eq!(text.matches("-D FORWARD -j COMPOSE").count(), 1);
    }

    #[test]
    fn the_last_network_takes_chain_and_jump_along() {
        let there = "-N COMPOSE\n-A FORWARD -j COMPOSE\n-A COMPOSE -i br-a -j ACCEPT\n";
        assert_eq!(
            restore("COMPOSE", &[], there).as_deref(),
            Some("*filter\n:COMPOSE - [0:0]\n-D FORWARD -j COMPOSE\n-X COMPOSE\nCOMMIT\n")
        );
    }
}
