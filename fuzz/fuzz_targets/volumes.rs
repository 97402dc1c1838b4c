//! The short form of a mount.
#![no_main]

use containerd_compose_fuzz::model::{MountKind, parse_mount};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(short) = parse_mount(text) else { return };
    assert!(!short.mount.target.is_empty());
    assert!(text.contains(&short.mount.target));
    assert!(matches!(
        short.mount.kind,
        MountKind::Bind | MountKind::Volume
    ));
    if let Some(source) = &short.mount.source {
        assert!(text.starts_with(source.as_str()));
    }
});
