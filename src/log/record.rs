//! Output of a container cut into lines, and lines as records of a json-file log.

use jiff::Timestamp;

/// Bytes at which a line is cut, as Docker cuts.
pub(super) const LONGEST: usize = 16 << 10;

/// Which output a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Stdout,
    Stderr,
}

impl Origin {
    pub(super) const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// As in the record and as the FIFO is called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Length of the first line of `input`, line feed included; `None` if its end is still to come. `ended`: nothing is to
/// come.
///
/// Where a line is cut depends on nothing but its bytes, so that doing it again gives the same records.
pub(super) fn line_length(input: &[u8], ended: bool) -> Option<usize> {
    let window = &input[..input.len().min(LONGEST)];
    if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
        return Some(end + 1);
    }
    if window.len() == LONGEST {
        return Some(character_boundary(window));
    }
    (ended && !input.is_empty()).then_some(input.len())
}

/// Length of `window` without a character that it cuts.
fn character_boundary(window: &[u8]) -> usize {
    for back in 1..=window.len().min(3) {
        let start = window.len() - back;
        let needed = match window[start] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if needed > back { start } else { window.len() };
    }
    window.len()
}

/// Appends the record of one line to `out`. What is not UTF-8 is replaced by U+FFFD.
pub(super) fn encode(out: &mut Vec<u8>, line: &[u8], stream: &str, time: Timestamp) {
    out.extend(b"{\"log\":");
    let text = String::from_utf8_lossy(line);
    // A vector takes everything and a string is always JSON.
    serde_json::to_writer(&mut *out, &text).ok();
    out.extend(format!(",\"stream\":\"{stream}\",\"time\":\"{time}\"}}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Line;
    use super::*;

    fn lines(mut input: &[u8]) -> Vec<&[u8]> {
        let mut lines = Vec::new();
        while let Some(length) = line_length(input, true) {
            lines.push(&input[..length]);
            input = &input[length..];
        }
        lines
    }

    #[test]
    fn a_line_ends_with_its_line_feed_and_the_last_may_have_none() {
        assert_eq!(lines(b"a\n\nb\r\nc"), [&b"a\n"[..], b"\n", b"b\r\n", b"c"]);
        assert_eq!(line_length(b"more", false), None);
        assert_eq!(line_length(b"", true), None);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let long = [vec![b'x'; LONGEST - 1], "é\n".as_bytes().to_vec()].concat();
        assert_eq!(lines(&long), [&long[..LONGEST - 1], "é\n".as_bytes()]);
        let fits = [vec![b'x'; LONGEST - 2], "é\n".as_bytes().to_vec()].concat();
        assert_eq!(lines(&fits), [&fits[..LONGEST], b"\n"]);
        let garbage = vec![0x80; LONGEST + 1];
        assert_eq!(lines(&garbage)[0].len(), LONGEST);
    }

    #[test]
    fn a_record_is_what_docker_writes() {
        let mut out = Vec::new();
        let time = "2026-11-21T05:00:00.120Z".parse().unwrap();
        encode(&mut out, b"say \"hi\"\t\x01\xff\n", "stdout", time);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"say \\\"hi\\\"\\t\\u0001\u{fffd}\\n\",\"stream\":\"stdout\",\
             \"time\":\"2026-11-21T05:00:00.12Z\"}\n"
        );
    }

    proptest! {
        #[test]
        fn lines_are_the_input_however_it_arrives(
            input in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(0xc3), Just(0xa9), Just(0xf0), any::<u8>()], 0..200
            ),
            repeat in 1usize..400,
            at in any::<prop::sample::Index>(),
        ) {
            let input = input.repeat(repeat);
            let whole = lines(&input);
            prop_assert_eq!(whole.concat(), input.clone());
            prop_assert!(whole.iter().all(|line| line.len() <= LONGEST));
            // The same in two parts.
            let (first, second) = input.split_at(at.index(input.len() + 1));
            let mut parts = Vec::new();
            let mut rest = first.to_vec();
            for (more, ended) in [(&[][..], false), (second, true)] {
                rest.extend(more);
                while let Some(length) = line_length(&rest, ended) {
                    parts.push(rest.drain(..length).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(parts, whole);
        }

        #[test]
        fn every_record_is_one_line_that_reads_back(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            encode(&mut out, &line, "stderr", Timestamp::UNIX_EPOCH);
            prop_assert_eq!(out.iter().position(|&byte| byte == b'\n'), Some(out.len() - 1));
            let read: Line = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(read.log, String::from_utf8_lossy(&line));
            prop_assert_eq!(read.stream, "stderr");
        }
    }
}
