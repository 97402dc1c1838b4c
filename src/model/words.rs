//! Command lines as words.

/// A command line and whether anything of it was dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    pub words: Vec<String>,
    /// The character at which reading ended before the end: an unquoted `;`, `|`, `&`, `<` or `>`.
    pub cut_at: Option<char>,
}

/// A command line with an unmatched quote or parenthesis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    #[error("a {0} is not closed")]
    Unclosed(&'static str),
    #[error("an unquoted `(` is not allowed")]
    Parenthesis,
}

/// Splits a command line as the reference does: quotes and backslashes as in a shell, but no
/// variables, no comments, and an end at the first operator.
pub fn split_words(line: &str) -> Result<Words, WordsError> {
    let mut result = Words::default();
    let mut word = String::new();
    let mut started = false;
    let mut escaped = false;
    let mut quote: Option<char> = None;
    for character in line.chars() {
        if escaped {
            word.push(character);
            escaped = false;
            started = true;
            continue;
        }
        if character == '\\' && quote != Some('\'') {
            escaped = true;
            continue;
        }
        match (quote, character) {
            (None, ' ' | '\t' | '\r' | '\n') => {
                if std::mem::take(&mut started) {
                    result.words.push(std::mem::take(&mut word));
                }
                continue;
            }
            (None, '"' | '\'') => {
                quote = Some(character);
                continue;
            }
            (Some('"'), '"') | (Some('\''), '\'') => {
                quote = None;
                started = true;
                continue;
            }
            (None, '`') => quote = Some('`'),
            (Some('`'), '`') | (Some('('), ')') => quote = None,
            (None, '(') if word.ends_with('$') => quote = Some('('),
            (None | Some('('), '(') => return Err(WordsError::Parenthesis),
            // A lone one opens what the next one closes, as odd as that is.
            (None, ')') => quote = Some('('),
            (None, ';' | '&' | '|' | '<' | '>') => {
                // `2>` redirects: the digit is no word.
                if character == '>' && word.starts_with(|first: char| first.is_ascii_digit()) {
                    started = false;
                }
                result.cut_at = Some(character);
                break;
            }
            _ => {}
        }
        started = true;
        word.push(character);
    }
    if started {
        result.words.push(word);
    }
    if escaped {
        return Err(WordsError::Unclosed("backslash at the end"));
    }
    match quote {
        None => Ok(result),
        Some('"') => Err(WordsError::Unclosed("double quote")),
        Some('\'') => Err(WordsError::Unclosed("single quote")),
        Some('`') => Err(WordsError::Unclosed("back quote")),
        Some(_) => Err(WordsError::Unclosed("parenthesis")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_split_as_in_the_reference() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  ", &[]),
            ("echo hello", &["echo", "hello"]),
            (r#"sh -c "a b""#, &["sh", "-c", "a b"]),
            ("a 'b \"c'", &["a", "b \"c"]),
            (r"a\ b c\td\n", &["a b", "ctdn"]),
            ("a ) b ; c ) d", &["a", ") b ; c )", "d"]),
            (r"'a\b'", &[r"a\b"]),
            ("a # b", &["a", "#", "b"]),
            ("''", &[""]),
            ("echo $(date +%s) x", &["echo", "$(date +%s)", "x"]),
            ("a `b c` d", &["a", "`b c`", "d"]),
            ("a ; b", &["a"]),
            ("a && b", &["a"]),
            ("a 2> b", &["a"]),
            ("x=$HOME", &["x=$HOME"]),
        ];
        for (line, words) in cases {
            assert_eq!(split_words(line).unwrap().words, *words, "{line}");
        }
        assert_eq!(split_words("a | b").unwrap().cut_at, Some('|'));
    }

    #[test]
    fn unmatched_quotes_are_errors() {
        for line in ["\"a", "'a", "a\\", "`a", "$(a", "(a)", "a)"] {
            assert!(split_words(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_splitter_panic(line in "\\PC*") {
            split_words(&line).ok();
        }
    }
}
