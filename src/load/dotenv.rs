//! Files of variables: `.env`, `env_file`, `label_file`.

use std::borrow::Cow;
use std::collections::HashMap;

use indexmap::IndexMap;

use super::template::{self, Lookup, TemplateError};

/// What is wrong with a file of variables, and where.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct DotenvError {
    /// From 1.
    pub line: u32,
    pub kind: DotenvErrorKind,
}

#[derive(Debug, thiserror::Error)]
pub enum DotenvErrorKind {
    #[error("unexpected character `{character}` in the name of a variable")]
    Character { character: char },
    #[error("the name of a variable cannot contain a space")]
    Space,
    #[error("a quoted value is not closed")]
    Unclosed,
    #[error("there is no name before `=`")]
    NoName,
    #[error("variables make this more than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Bytes of all values of a file: each may repeat those before it.
const MAX_BYTES: usize = 64 << 20;

/// Variables in the order in which they were first set.
pub type Variables = IndexMap<String, String>;

/// Where variables were set: the line of each, from 1.
pub type Lines = HashMap<String, u32>;

/// Reads a file of variables into `variables` and returns the lines that set them. References are
/// looked up with `lookup`, then in `variables`. Names of unset variables are handed to `unset` with
/// their line.
pub fn parse<'v>(
    text: &str,
    variables: &mut Variables,
    lookup: &dyn Fn(&str) -> Option<&'v str>,
    unset: &mut dyn FnMut(&str, u32),
) -> Result<Lines, DotenvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Lines::new();
    let mut parser = Parser {
        rest: text,
        line: 1,
    };
    let mut size = 0;
    while parser.skip_to_statement() {
        let line = parser.line;
        let fail = |kind| DotenvError { line, kind };
        let (name, has_value) = parser.name().map_err(fail)?;
        if !has_value {
            if let Some(value) = lookup(name) {
                variables.insert(name.to_owned(), value.to_owned());
                lines.insert(name.to_owned(), line);
            }
            continue;
        }
        lines.insert(name.to_owned(), line);
        let value = match parser.value().map_err(fail)? {
            Raw::Literal(value) => value,
            Raw::Template(template) => {
                let mut scope = Scope {
                    lookup,
                    variables,
                    unset: &mut |name| unset(name, line),
                };
                template::substitute(&template, &mut scope).map_err(|error| fail(error.into()))?
            }
        };
        size += value.len();
        if size > MAX_BYTES {
            return Err(fail(DotenvErrorKind::TooLarge));
        }
        variables.insert(name.to_owned(), value);
    }
    Ok(lines)
}

/// Reads a file as `docker run --env-file` does: everything behind the first `=` is the value.
pub fn parse_raw<'v>(
    text: &str,
    variables: &mut Variables,
    lookup: &dyn Fn(&str) -> Option<&'v str>,
) -> Result<Lines, DotenvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Lines::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        let kind = if name.is_empty() {
            Some(DotenvErrorKind::NoName)
        } else if name.contains([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']) {
            Some(DotenvErrorKind::Space)
        } else {
            None
        };
        if let Some(kind) = kind {
            return Err(DotenvError { line: number, kind });
        }
        if let Some(value) = value.or_else(|| lookup(name)) {
            variables.insert(name.to_owned(), value.to_owned());
            lines.insert(name.to_owned(), number);
        }
    }
    Ok(lines)
}

struct Scope<'a, 'v> {
    lookup: &'a dyn Fn(&str) -> Option<&'v str>,
    variables: &'a Variables,
    unset: &'a mut dyn FnMut(&str),
}

impl Lookup for Scope<'_, '_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        let own = || self.variables.get(name).map(String::as_str);
        (self.lookup)(name).or_else(own).map(Cow::Borrowed)
    }

    fn unset(&mut self, name: &str) {
        (self.unset)(name);
    }
}

/// A value before variables are replaced.
enum Raw {
    Literal(String),
    Template(String),
}

struct Parser<'text> {
    rest: &'text str,
    line: u32,
}

impl<'text> Parser<'text> {
    fn advance(&mut self, bytes: usize) {
        let newlines = self.rest[..bytes]
            .bytes()
            .filter(|byte| *byte == b'\n')
            .count();
        self.line += u32::try_from(newlines).unwrap_or(u32::MAX);
        self.rest = &self.rest[bytes..];
    }

    /// Skips white space and comments; whether anything follows.
    fn skip_to_statement(&mut self) -> bool {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.advance(blank);
            if !self.rest.starts_with('#') {
                return !self.rest.is_empty();
            }
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.advance(end);
        }
    }

    /// The name of a variable and whether a value follows.
    fn name(&mut self) -> Result<(&'text str, bool), DotenvErrorKind> {
        if let Some(rest) = self.rest.strip_prefix("export")
            && rest.starts_with(char::is_whitespace)
        {
            let blank = rest.len() - rest.trim_start_matches(is_space).len();
            self.advance("export".len() + blank);
        }
        let text = self.rest;
        let mut end = text.len();
        let mut has_value = false;
        for (at, character) in text.char_indices() {
            match character {
                '=' | ':' => {
                    end = at;
                    has_value = true;
                    break;
                }
                '\n' => {
                    end = at;
                    break;
                }
                '_' | '.' | '-' | '[' | ']' => {}
                other if other.is_alphanumeric() || is_space(other) => {}
                character => return Err(DotenvErrorKind::Character { character }),
            }
        }
        let name = text[..end].trim_end();
        if name.contains(' ') {
            return Err(DotenvErrorKind::Space);
        }
        self.advance((end + 1).min(text.len()));
        if has_value {
            let blank = self.rest.len() - self.rest.trim_start_matches(is_space).len();
            self.advance(blank);
        }
        Ok((name, has_value))
    }

    fn value(&mut self) -> Result<Raw, DotenvErrorKind> {
        let Some(quote @ ('"' | '\'')) = self.rest.chars().next() else {
            let line = self.rest.split('\n').next().unwrap_or_default();
            let value = line.split(" #").next().unwrap_or_default().trim_end();
            self.advance((line.len() + 1).min(self.rest.len()));
            return Ok(Raw::Template(value.to_owned()));
        };
        let mut value = String::new();
        let mut escaped = false;
        for (at, character) in self.rest.char_indices().skip(1) {
            if character == quote && !escaped {
                self.advance(at + 1);
                return Ok(if quote == '"' {
                    Raw::Template(unescape(&value))
                } else {
                    Raw::Literal(value)
                });
            }
            if character == '\\' && !escaped {
                escaped = true;
                continue;
            }
            // A backslash before anything but the quote is kept.
            if std::mem::take(&mut escaped) && character != quote {
                value.push('\\');
            }
            value.push(character);
        }
        Err(DotenvErrorKind::Unclosed)
    }
}

/// White space within a line.
fn is_space(character: char) -> bool {
    matches!(
        character,
        '\t' | '\u{b}' | '\u{c}' | '\r' | ' ' | '\u{85}' | '\u{a0}'
    )
}

/// Replaces the escapes of double quotes; `\$` becomes `$$`, which stands for a dollar later.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (replacement, length) = match rest.as_bytes().get(1) {
            Some(b'a') => ("\u{7}", 2),
            Some(b'b') => ("\u{8}", 2),
            Some(b'f') => ("\u{c}", 2),
            Some(b'n') => ("\n", 2),
            Some(b'r') => ("\r", 2),
            Some(b't') => ("\t", 2),
            Some(b'v') => ("\u{b}", 2),
            Some(b'\\') => ("\\", 2),
            Some(b'"') => ("\"", 2),
            Some(b'$') => ("$$", 2),
            Some(b'0') => {
                if let Some(character) = octal(&rest[2..]) {
                    out.push(character);
                    rest = &rest[5..];
                    continue;
                }
                // The reference loses the zero of what is no octal escape.
                ("\\", 2)
            }
            _ => ("\\", 1),
        };
        out.push_str(replacement);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// The character that three octal digits stand for.
fn octal(text: &str) -> Option<char> {
    let digits = text.get(..3)?;
    let is_octal = digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let code = is_octal.then(|| u8::from_str_radix(digits, 8).ok())??;
    Some(char::from(code))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Variables, DotenvError> {
        let mut variables = Variables::new();
        let lookup = |name: &str| (name == "HOST").then_some("outside");
        parse(text, &mut variables, &lookup, &mut |_, _| {})?;
        Ok(variables)
    }

    fn value(text: &str) -> String {
        read(text).unwrap()["A"].clone()
    }

    #[test]
    fn every_form_of_value_is_read() {
        for (text, expected) in [
            ("A=b", "b"),
            ("A: b", "b"),
            ("export A=b", "b"),
            ("export\tA = b", "b"),
            ("\u{feff}A=b\r\n", "b"),
            ("A=", ""),
            ("A=b # c", "b"),
            ("A=b# c", "b# c"),
            ("A=\"b # c\" # d", "b # c"),
            ("A='b\\'c\\n'", "b'c\\n"),
            ("A=\"b\\nc\\\"\\$x\\0101\"", "b\nc\"$xA"),
            ("A=\"b\nc\"", "b\nc"),
            ("A=$HOST", "outside"),
            ("A='$HOST'", "$HOST"),
            ("B=1\nA=${B}2", "12"),
            ("A=${NOPE:-d}", "d"),
            ("HOST\nA=$HOST", "outside"),
            ("HOST=in\nA=$HOST", "outside"),
            ("A=a b", "a b"),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_bare_name_is_taken_from_outside() {
        let variables = read("HOST\nNOPE").unwrap();
        assert_eq!(variables["HOST"], "outside");
        assert!(!variables.contains_key("NOPE"));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line) in [
            ("A=1\nB C=2", 2),
            ("A=\"x", 1),
            ("A=1\n\nlol$wut", 3),
            ("A=${", 1),
        ] {
            assert_eq!(read(text).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn the_raw_format_takes_values_as_they_stand() {
        let mut variables = Variables::new();
        parse_raw("A=\"$b\" # c\n# x\nC\n", &mut variables, &|_| Some("d")).unwrap();
        assert_eq!(variables["A"], "\"$b\" # c");
        assert_eq!(variables["C"], "d");
        assert!(parse_raw("=x", &mut variables, &|_| None).is_err());
    }

    #[test]
    fn values_that_double_line_by_line_end_somewhere() {
        let mut text = "A0=0123456789\n".to_owned();
        for line in 1..60 {
            use std::fmt::Write as _;
            writeln!(text, "A{line}=$A{0}$A{0}", line - 1).unwrap();
        }
        let error = read(&text).unwrap_err();
        assert!(error.line < 30, "{error:?}");
    }

    #[test]
    fn a_million_lines_take_no_time() {
        let mut text = String::new();
        for line in 0..1_000_000 {
            use std::fmt::Write as _;
            writeln!(text, "NAME_{line}=value of ${{HOST}} and $NOPE").unwrap();
        }
        assert_eq!(read(&text).unwrap().len(), 1_000_000);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[ -~\\n]*") {
            read(&text).ok();
        }

        #[test]
        fn single_quotes_keep_everything(text in "[^'\\\\]*") {
            prop_assert_eq!(value(&format!("A='{text}'")), text);
        }
    }
}
