//! Signals by name or number.

const NAMES: [(&str, u32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Least and largest real-time signal that programs may use.
const REAL_TIME: (u32, u32) = (34, 64);

/// The number of `SIGTERM`, `TERM`, `15`, `RTMIN+3` or `RTMAX-1`, in any case; `None` if there is no such signal.
pub fn parse_signal(text: &str) -> Option<u32> {
    let (least, largest) = REAL_TIME;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .ok()
            .filter(|number| (1..=largest).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let offset = |text: &str, sign: char| -> Option<u32> {
        if text.is_empty() {
            return Some(0);
        }
        let digits = text.strip_prefix(sign)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok())?
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        least.checked_add(offset(rest, '+')?)?
    } else {
        largest.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?
    };
    (least..=largest).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_numbers_and_real_time_signals_are_read() {
        for text in ["SIGTERM", "TERM", "15", "sigterm", "term", "Term"] {
            assert_eq!(parse_signal(text), Some(15), "{text}");
        }
        assert_eq!(parse_signal("RTMIN+3"), Some(37));
        assert_eq!(parse_signal("SIGRTMIN"), Some(34));
        assert_eq!(parse_signal("RTMAX-14"), Some(50));
        assert_eq!(parse_signal("SIGRTMAX"), Some(64));
        assert_eq!(parse_signal("64"), Some(64));
    }

    #[test]
    fn anything_else_is_no_signal() {
        for text in [
            "", "0", "65", "FOO", "SIG", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31", "-9",
            "RTMIN+", "RTMIN3", "RTMIN++3",
        ] {
            assert_eq!(parse_signal(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_number_found_is_a_signal(text in ".*") {
            prop_assert!(parse_signal(&text).is_none_or(|number| (1..=64).contains(&number)));
        }
    }
}
