//! Durations.
#![no_main]

use containerd_compose_fuzz::model::Duration;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(duration) = text.parse::<Duration>() {
        assert_eq!(duration.to_string().parse(), Ok(duration));
        duration.to_std();
    }
});
