//! Where a quote or bracket was left open, for errors that a parser only meets further down.

/// A character that wants its counterpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclosed {
    pub(super) character: char,
    /// Offset in bytes.
    pub(super) at: usize,
}

/// The innermost quote or bracket that `text` opens and does not close. Knows as much of YAML as that needs: what looks
/// like an opening within plain text is none, and a comment is skipped; the lines of block scalars are taken for YAML.
pub(super) fn unclosed(text: &str) -> Option<Unclosed> {
    let mut open: Vec<Unclosed> = Vec::new();
    // Whether a value can begin here.
    let mut fresh = true;
    let mut previous = '\n';
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let before = std::mem::replace(&mut previous, character);
        let quote = open.last().map(|unclosed| unclosed.character);
        if let Some(quote @ ('"' | '\'')) = quote {
            let next = characters.peek().map(|(_, next)| *next);
            match character {
                '\\' if quote == '"' => drop(characters.next()),
                '\'' if quote == '\'' && next == Some('\'') => drop(characters.next()),
                _ if character == quote => drop(open.pop()),
                _ => {}
            }
            continue;
        }
        let ends_word = characters
            .peek()
            .is_none_or(|(_, next)| next.is_whitespace());
        match character {
            '"' | '\'' | '[' | '{' if fresh => {
                open.push(Unclosed { character, at });
                fresh = !matches!(character, '"' | '\'');
            }
            ']' | '}' if quote.is_some() => {
                open.pop();
                fresh = false;
            }
            '#' if before.is_whitespace() => {
                while characters.next_if(|(_, next)| *next != '\n').is_some() {}
            }
            ',' if quote.is_some() => fresh = true,
            ':' if ends_word => fresh = true,
            '-' | '?' if fresh && ends_word => {}
            '\n' => fresh = true,
            _ if character.is_whitespace() => {}
            _ => fresh = false,
        }
    }
    open.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(char, usize)> {
        unclosed(text).map(|found| (found.character, found.at))
    }

    #[test]
    fn the_innermost_opening_without_its_end_is_found() {
        let cases = [
            ("a: \"b\nc: d\n", Some(('"', 3))),
            ("a: 'it''s\nc: d\n", Some(('\'', 3))),
            ("a: [b, {c: d]\n", Some(('[', 3))),
            ("a: [b, {c: d\n", Some(('{', 7))),
            ("- [\n  x", Some(('[', 2))),
            ("a: \"\\\"\n", Some(('"', 3))),
        ];
        for (text, expected) in cases {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_closed_or_only_looks_open_is_not_found() {
        let cases = [
            "a: \"b\"\nc: ['d', {e: f}]\n",
            "a: it's [not] {open\n",
            "a: b # \"\n",
            "a: x:[y\n",
            "- - 'b'\n",
            "a: 'it''s'\n",
            "",
        ];
        for text in cases {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
