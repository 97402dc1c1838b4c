//! Numbers of bytes.
#![no_main]

use containerd_compose_fuzz::model::parse_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(bytes) = parse_bytes(text) {
        assert_eq!(parse_bytes(&bytes.to_string()), Ok(bytes));
    }
});
