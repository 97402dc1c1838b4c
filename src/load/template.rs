//! The grammar of `$VAR` and `${VAR…}`.

use std::borrow::Cow;

/// Why a text cannot be interpolated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("`{text}` is not a valid reference to a variable")]
    Invalid {
        /// From the `$` on.
        text: String,
        /// Byte in the template.
        at: usize,
    },
    #[error("variables make this text longer than {} MiB", MAX_LENGTH >> 20)]
    TooLong,
    #[error("required variable `{name}` is missing a value{}", reason_text(.reason))]
    Required { name: String, reason: String },
}

fn reason_text(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    }
}

/// Where values come from.
pub trait Lookup {
    /// The value of a variable, if it is set.
    fn get(&self, name: &str) -> Option<Cow<'_, str>>;

    /// Called for a variable that is unset and has no default.
    fn unset(&mut self, name: &str);
}

/// What stands behind the name in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `:-`, `-`
    Default,
    /// `:+`, `+`
    Alternative,
    /// `:?`, `?`
    Required,
}

/// A reference to a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'text> {
    pub name: &'text str,
    pub operator: Option<(Operator, Colon, &'text str)>,
}

/// Whether an empty value counts as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colon {
    Present,
    Absent,
}

/// A part of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'text> {
    Text(&'text str),
    /// `$$`
    Dollar,
    Reference(Reference<'text>),
}

/// Splits a template into its parts, stopping at what is no valid reference.
pub fn parts(template: &str) -> impl Iterator<Item = Result<Part<'_>, TemplateError>> {
    let mut rest = template;
    let mut failed = false;
    std::iter::from_fn(move || {
        if rest.is_empty() || failed {
            return None;
        }
        let at = template.len() - rest.len();
        if let Some((part, length)) = next_part(rest) {
            rest = &rest[length..];
            return Some(Ok(part));
        }
        failed = true;
        Some(Err(TemplateError::Invalid {
            text: rest.lines().next().unwrap_or(rest).to_owned(),
            at,
        }))
    })
}

/// The part at the start of a text that is not empty, and its length in bytes.
fn next_part(text: &str) -> Option<(Part<'_>, usize)> {
    let Some(after) = text.strip_prefix('$') else {
        let end = text.find('$').unwrap_or(text.len());
        return Some((Part::Text(&text[..end]), end));
    };
    if after.starts_with('$') {
        return Some((Part::Dollar, 2));
    }
    if let Some(inside) = after.strip_prefix('{') {
        let name = &inside[..name_length(inside)];
        let behind = &inside[name.len()..];
        if name.is_empty() {
            return None;
        }
        if behind.starts_with('}') {
            let reference = Reference {
                name,
                operator: None,
            };
            return Some((Part::Reference(reference), name.len() + 3));
        }
        let (operator, colon, length) = operator(behind)?;
        let word_start = name.len() + length;
        let word = &inside[word_start..];
        // Braces inside the word belong to nested references.
        let end = closing_brace(word)?;
        let reference = Reference {
            name,
            operator: Some((operator, colon, &word[..end])),
        };
        return Some((Part::Reference(reference), 2 + word_start + end + 1));
    }
    let length = name_length(after);
    if length == 0 {
        // A dollar that starts nothing is just a dollar.
        return Some((Part::Text(&text[..1]), 1));
    }
    let reference = Reference {
        name: &after[..length],
        operator: None,
    };
    Some((Part::Reference(reference), 1 + length))
}

fn operator(text: &str) -> Option<(Operator, Colon, usize)> {
    let (colon, symbol) = match text.strip_prefix(':') {
        Some(rest) => (Colon::Present, rest),
        None => (Colon::Absent, text),
    };
    let operator = match symbol.bytes().next()? {
        b'-' => Operator::Default,
        b'+' => Operator::Alternative,
        b'?' => Operator::Required,
        _ => return None,
    };
    Some((operator, colon, if colon == Colon::Present { 2 } else { 1 }))
}

/// The brace that closes the reference in which `word` stands.
///
/// As in the reference it is on the same line, a brace right behind an opening one is not counted, and
/// if braces are not in pairs, as in `${A:-{}`, the last one closes.
fn closing_brace(word: &str) -> Option<usize> {
    let line = word.split('\n').next().unwrap_or_default();
    let last = line.rfind('}')?;
    let mut depth = 0usize;
    let mut bytes = line.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'{' => {
                depth += 1;
                bytes.next();
            }
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    Some(last)
}

/// Bytes of the name at the start of a text.
fn name_length(text: &str) -> usize {
    let is_start = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    match text.bytes().next() {
        Some(first) if is_start(first) => text
            .bytes()
            .take_while(|byte| is_start(*byte) || byte.is_ascii_digit())
            .count(),
        _ => 0,
    }
}

/// Bytes that a text may become.
const MAX_LENGTH: usize = 16 << 20;

/// Nesting of defaults beyond which a template is refused.
const MAX_DEPTH: usize = 64;

/// Replaces every reference in a template.
pub fn substitute(template: &str, lookup: &mut dyn Lookup) -> Result<String, TemplateError> {
    substitute_at(template, lookup, 0)
}

fn substitute_at(
    template: &str,
    lookup: &mut dyn Lookup,
    depth: usize,
) -> Result<String, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::Invalid {
            text: template.to_owned(),
            at: 0,
        });
    }
    let mut out = String::with_capacity(template.len());
    for part in parts(template) {
        match part? {
            Part::Text(text) => out.push_str(text),
            Part::Dollar => out.push('$'),
            Part::Reference(reference) => {
                out.push_str(&resolve(&reference, lookup, depth)?);
            }
        }
        if out.len() > MAX_LENGTH {
            return Err(TemplateError::TooLong);
        }
    }
    Ok(out)
}

fn resolve(
    reference: &Reference<'_>,
    lookup: &mut dyn Lookup,
    depth: usize,
) -> Result<String, TemplateError> {
    let value = lookup.get(reference.name);
    let Some((operator, colon, word)) = reference.operator else {
        if let Some(value) = value {
            return Ok(value.into_owned());
        }
        lookup.unset(reference.name);
        return Ok(String::new());
    };
    let counts = match colon {
        Colon::Present => value.as_ref().is_some_and(|value| !value.is_empty()),
        Colon::Absent => value.is_some(),
    };
    if counts == (operator != Operator::Alternative) {
        let value = value.unwrap_or_default().into_owned();
        // What is wrong in a word that is not used is wrong still, as in the reference.
        substitute_at(word, &mut Unused(lookup), depth + 1)?;
        return Ok(value);
    }
    let word = substitute_at(word, lookup, depth + 1)?;
    match operator {
        Operator::Default | Operator::Alternative => Ok(word),
        Operator::Required => Err(TemplateError::Required {
            name: reference.name.to_owned(),
            reason: word,
        }),
    }
}

/// The variables of a word that is not used: none of them has to be set.
struct Unused<'a>(&'a dyn Lookup);

impl Lookup for Unused<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get(name)
    }

    fn unset(&mut self, _name: &str) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Table(Vec<String>);

    impl Lookup for Table {
        fn get(&self, name: &str) -> Option<Cow<'_, str>> {
            match name {
                "FOO" => Some("foo".into()),
                "EMPTY" => Some("".into()),
                _ => None,
            }
        }

        fn unset(&mut self, name: &str) {
            self.0.push(name.to_owned());
        }
    }

    fn run(template: &str) -> Result<String, TemplateError> {
        substitute(template, &mut Table(Vec::new()))
    }

    #[test]
    fn references_are_replaced() {
        for (template, expected) in [
            ("$FOO", "foo"),
            ("${FOO}bar", "foobar"),
            ("$FOO-bar", "foo-bar"),
            ("$$FOO", "$FOO"),
            ("$$$FOO", "$foo"),
            ("${NO:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${NO-${FOO}}", "foo"),
            ("${NO:-${ALSO:-x}}y", "xy"),
            ("${FOO:+r}", "r"),
            ("${EMPTY:+r}", ""),
            ("${EMPTY+r}", "r"),
            ("${NO+r}", ""),
            ("${FOO:?e}", "foo"),
            ("${NO:--1}", "-1"),
            ("a $ b", "a $ b"),
            ("$1", "$1"),
            ("${NO:-{a}}", "{a}"),
            ("$", "$"),
        ] {
            assert_eq!(run(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn malformed_references_are_errors() {
        for template in [
            "${",
            "${}",
            "${ FOO}",
            "${FOO",
            "${FOO }",
            "${FOO:bar}",
            "${1}",
            // Words that are not used are read, too.
            "${FOO:-${}}",
            "${NO:+${}}",
        ] {
            assert!(
                matches!(run(template), Err(TemplateError::Invalid { .. })),
                "{template}"
            );
        }
    }

    #[test]
    fn a_missing_required_variable_says_why() {
        let error = run("${NO:?set it to ${FOO}}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "required variable `NO` is missing a value: set it to foo"
        );
    }

    #[test]
    fn a_required_variable_in_a_word_that_is_not_used_is_required() {
        for template in [
            "${FOO:-${NO:?why}}",
            "${NO:+${NO:?why}}",
            "${FOO:?${NO:?why}}",
        ] {
            assert_eq!(
                run(template).unwrap_err().to_string(),
                "required variable `NO` is missing a value: why",
                "{template}"
            );
        }
    }

    #[test]
    fn unset_variables_in_words_that_are_not_used_are_not_reported() {
        let mut table = Table(Vec::new());
        let text = substitute("${FOO:-$NO}${EMPTY:+$NO}", &mut table);
        assert_eq!(text.as_deref(), Ok("foo"));
        assert!(table.0.is_empty());
    }

    #[test]
    fn unset_variables_without_a_default_are_reported() {
        let mut table = Table(Vec::new());
        assert_eq!(
            substitute("$NO ${OTHER} ${X:-}", &mut table).as_deref(),
            Ok("  ")
        );
        assert_eq!(table.0, ["NO", "OTHER"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_grammar_panic(text in "[ -~]{0,60}") {
            run(&text).ok();
        }

        #[test]
        fn references_at_random_do_not_panic(
            parts in prop::collection::vec(
                prop::sample::select(vec!["$", "{", "}", ":", "-", "?", "+", "FOO", "x", "é"]),
                0..20,
            ),
        ) {
            run(&parts.concat()).ok();
        }

        #[test]
        fn doubled_dollars_bring_any_text_through(text in "[ -~]{0,60}") {
            prop_assert_eq!(run(&text.replace('$', "$$")), Ok(text));
        }
    }
}
