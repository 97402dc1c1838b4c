//! Files of variables in both formats.
#![no_main]

use containerd_compose_fuzz::load::dotenv::{Variables, parse, parse_raw};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lines = text.split('\n').count();
    let lookup = |name: &str| (name == "HOST").then_some("outside");
    let mut check = |_: &str, line: u32| assert!(line >= 1 && line as usize <= lines);
    if let Err(error) = parse(text, &mut Variables::new(), &lookup, &mut check) {
        check("", error.line);
    }
    if let Err(error) = parse_raw(text, &mut Variables::new(), &lookup) {
        check("", error.line);
    }
});
