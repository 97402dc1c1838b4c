//! Random names.

use data_encoding::HEXLOWER;
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};

/// `bytes` random bytes as hex digits.
///
/// # Panics
///
/// If the kernel has none to give: getrandom(2) without flags fails only on kernels that are too old to run containers.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        filled += retry_on_intr(|| getrandom(&mut buffer[filled..], GetRandomFlags::empty()))
            .expect("the kernel gives random bytes");
    }
    HEXLOWER.encode(&buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_two_digits_for_each_byte_and_differs() {
        let name = random_hex(32);
        assert_eq!(name.len(), 64);
        assert!(name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(name, random_hex(32));
    }
}
