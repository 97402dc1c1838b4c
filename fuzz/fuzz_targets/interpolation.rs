//! `$NAME` and `${NAME…}`.
#![no_main]

use std::borrow::Cow;

use containerd_compose_fuzz::load::template::{Lookup, substitute};
use libfuzzer_sys::fuzz_target;

struct Table;

impl Lookup for Table {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            "A" => Some("value $A ${A}".into()),
            "EMPTY" => Some("".into()),
            _ => None,
        }
    }

    fn unset(&mut self, name: &str) {
        assert!(!name.is_empty());
    }
}

fuzz_target!(|text: &str| {
    substitute(text, &mut Table).ok();
    let escaped = text.replace('$', "$$");
    assert_eq!(substitute(&escaped, &mut Table).as_deref(), Ok(text));
});
