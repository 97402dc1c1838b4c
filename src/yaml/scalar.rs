//! What a plain scalar means: the rules of go-yaml v4, which the reference implementation uses.

use super::node::Value;

/// Resolves a plain, untagged scalar.
///
/// Octal as `0644`, underscores between digits, `0b` and `0o` prefixes and integers too large for
/// 64 bits (as floats) are numbers; `yes`, `no`, `on` and `off` are strings. Dates stay strings.
pub fn resolve_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Value::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    number(text).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The number that a plain scalar is, if it is one.
pub(super) fn number(text: &str) -> Option<Value> {
    let first = text.bytes().next()?;
    if !matches!(first, b'0'..=b'9' | b'+' | b'-' | b'.') {
        return None;
    }
    let digits: std::borrow::Cow<'_, str> = if text.contains('_') {
        text.replace('_', "").into()
    } else {
        text.into()
    };
    if let Some(value) = integer(&digits) {
        return Some(value);
    }
    if is_float(&digits) {
        let value: f64 = digits.parse().ok()?;
        // As in the reference, what no number can hold is text.
        return value.is_finite().then_some(Value::Float(value));
    }
    None
}

/// An integer with the prefixes that Go understands.
fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match lower.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.bytes().next()?.is_ascii_alphanumeric() {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value)
        .map(Value::Int)
        .or_else(|_| u64::try_from(value).map(Value::Unsigned))
        .ok()
}

/// Whether this is written as a decimal number: digits, an optional fraction and exponent.
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_is_good = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    all_digits(whole)
        && all_digits(fraction)
        && exponent_is_good
        && !(whole.is_empty() && fraction.is_empty())
}

/// A float as Go prints it: as few digits as identify it, with an exponent below 1e-4 and from 1e6.
pub fn format_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    format_with_exponent(value, -4, 6)
}

/// Formats with an exponent if it is below `low` or at least `high`.
pub(super) fn format_with_exponent(value: f64, low: i32, high: i32) -> String {
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if value != 0.0 && (exponent < low || exponent >= high) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_resolve_as_go_yaml_resolves_them() {
        let string = |text: &str| Value::String(text.to_owned());
        let cases = [
            ("", Value::Null),
            ("~", Value::Null),
            ("null", Value::Null),
            ("nUll", string("nUll")),
            ("yes", string("yes")),
            ("on", string("on")),
            ("True", Value::Bool(true)),
            ("0644", Value::Int(420)),
            ("0o17", Value::Int(15)),
            ("0899", Value::Float(899.0)),
            ("1_000", Value::Int(1000)),
            ("1_", Value::Int(1)),
            ("1_0.5", Value::Float(10.5)),
            ("0b101", Value::Int(5)),
            ("-0x1F", Value::Int(-31)),
            ("+7", Value::Int(7)),
            ("1e3", Value::Float(1000.0)),
            (".5", Value::Float(0.5)),
            ("5.", Value::Float(5.0)),
            ("1e400", string("1e400")),
            (".", string(".")),
            ("-", string("-")),
            ("+", string("+")),
            ("--1", string("--1")),
            ("1.2.3", string("1.2.3")),
            ("1e", string("1e")),
            ("0x", string("0x")),
            ("2001-12-14", string("2001-12-14")),
            ("22:22", string("22:22")),
            (
                "12345678901234567890",
                Value::Unsigned(12_345_678_901_234_567_890),
            ),
            (
                "18446744073709551616",
                Value::Float(18_446_744_073_709_551_616.0),
            ),
            (".inf", Value::Float(f64::INFINITY)),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve_plain(text), expected, "{text:?}");
        }
    }

    #[test]
    fn floats_print_as_go_prints_them() {
        for (value, expected) in [
            (0.5, "0.5"),
            (1.0, "1"),
            (0.0, "0"),
            (123_456.5, "123456.5"),
            (1_234_567.5, "1.2345675e+06"),
            (1e21, "1e+21"),
            (1e-7, "1e-07"),
            (-2.25, "-2.25"),
        ] {
            assert_eq!(format_float(value), expected);
        }
    }
}
