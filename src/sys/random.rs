//! Random names.

use std::fmt::Write as _;
use std::io::Read as _;

/// `bytes` random bytes as hex digits.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    let filled = rustix::rand::getrandom(&mut buffer[..], rustix::rand::GetRandomFlags::empty());
    if filled != Ok(bytes) {
        // An old kernel or a short answer: the device gives the same.
        let device = std::fs::File::open("/dev/urandom");
        device
            .and_then(|mut device| device.read_exact(&mut buffer))
            .unwrap_or_default();
    }
    buffer
        .iter()
        .fold(String::with_capacity(bytes * 2), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
