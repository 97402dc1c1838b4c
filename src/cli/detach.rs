//! Keys that let go of a container.

use super::error::CommandError;

/// Docker's.
const DEFAULT: &str = "ctrl-p,ctrl-q";

/// How the input of a user ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    End,
    Detach,
}

/// Looks for a sequence of keys in what is typed.
#[derive(Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed last, and are held back.
    held: usize,
}

impl DetachKeys {
    /// Reads a list as `ctrl-p,ctrl-q` or `x,ctrl-@`; none: Docker's default.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, CommandError> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or(DEFAULT);
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        match keys {
            Some(keys) => Ok(Self { keys, held: 0 }),
            None => Err(
                CommandError::usage(format!("invalid detach keys \"{text}\""))
                    .hint("a key is a character or `ctrl-` and one of a-z @ [ \\ ] ^ _"),
            ),
        }
    }

    /// What of `typed` is for the process, and whether the keys were typed; what follows them is dropped.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + self.held);
        for byte in typed {
            if *byte != self.keys[self.held] {
                passed.extend(&self.keys[..self.held]);
                self.held = 0;
            }
            if *byte == self.keys[self.held] {
                self.held += 1;
                if self.held == self.keys.len() {
                    return (passed, true);
                }
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

fn key(name: &str) -> Option<u8> {
    let single = |text: &str| match text.as_bytes() {
        [byte] if byte.is_ascii() => Some(*byte),
        _ => None,
    };
    match name.strip_prefix("ctrl-") {
        None => single(name),
        Some(letter) => match single(letter)? {
            byte @ b'a'..=b'z' => Some(byte - b'a' + 1),
            b'@' => Some(0),
            byte @ b'['..=b'_' => Some(byte - b'[' + 27),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_docker_s_users_write_them() {
        let keys = |text| DetachKeys::parse(text).map(|keys| keys.keys).ok();
        assert_eq!(keys(None), Some(vec![16, 17]));
        assert_eq!(keys(Some("a,ctrl-@,ctrl-]")), Some(vec![b'a', 0, 29]));
        for wrong in ["ctrl-foo", "ab", "a,,b", "ctrl-1", "é"] {
            assert_eq!(keys(Some(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn keys_are_found_over_several_reads_and_nothing_else_is_lost() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10\x11z"), (b"\x10".to_vec(), true));
    }
}
