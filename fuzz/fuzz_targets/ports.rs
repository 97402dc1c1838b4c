//! The short form of a published port.
#![no_main]

use containerd_compose_fuzz::model::{parse_ports, parse_range};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    parse_range(text);
    let Ok(ports) = parse_ports(text) else { return };
    assert!(!ports.is_empty());
    // A long range is told by its ends.
    for port in ports.iter().take(16).chain(ports.last()) {
        let address = match &port.host_ip {
            Some(address) if address.contains(':') => format!("[{address}]:"),
            Some(address) => format!("{address}:"),
            None => String::new(),
        };
        let published = match &port.published {
            Some(published) => format!("{published}:"),
            None if address.is_empty() => String::new(),
            None => ":".to_owned(),
        };
        let short = format!("{address}{published}{}/{}", port.target, port.protocol);
        assert_eq!(
            parse_ports(&short).as_deref(),
            Ok(std::slice::from_ref(port))
        );
    }
});
