//! The part of Go's template language that users write for `--format` and for the tags of logging drivers.
//!
//! Fields, literals, pipelines, `if`, `with`, `range`, `else`, trim markers, comments and Docker's functions. Values
//! are JSON; numbers print without a fraction.

mod parse;

use serde_json::{Map, Value};
use thiserror::Error;

use self::parse::{Command, Node, Operand, Pipeline};

/// A template could not be read or does not fit the values.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum TemplateError {
    #[error("template is not complete: {0}")]
    Incomplete(&'static str),
    #[error("template has an unexpected `{0}`")]
    Unexpected(String),
    #[error("template function `{0}` is not known")]
    Function(String),
    #[error("template function `{0}` cannot work with its arguments")]
    Arguments(&'static str),
    #[error("there is no field `{0}` to format")]
    Field(String),
    #[error("template nests more than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Bound for nested parentheses and blocks.
const MAX_DEPTH: usize = 64;

/// A template that was read.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// Reads `source`; a literal `\t` or `\n` outside of actions stands for the character.
    pub(crate) fn parse(source: &str) -> Result<Self, TemplateError> {
        let source = source.replace(r"\t", "\t").replace(r"\n", "\n");
        Ok(Self {
            nodes: parse::parse(&source)?,
        })
    }

    /// Renders for `value`. Fields of `hidden` can be named too, but are no part of `{{json .}}`.
    pub(crate) fn render(
        &self,
        value: &Value,
        hidden: &Map<String, Value>,
    ) -> Result<String, TemplateError> {
        let scope = Scope {
            root: value,
            hidden,
            header: false,
        };
        let mut out = String::new();
        scope.nodes(&self.nodes, value, &mut out)?;
        Ok(out)
    }

    /// Renders the head of a table, where each field is replaced by its title and functions do nothing.
    pub(crate) fn render_header(&self, titles: &Value) -> Result<String, TemplateError> {
        let scope = Scope {
            root: titles,
            hidden: &Map::new(),
            header: true,
        };
        let mut out = String::new();
        scope.nodes(&self.nodes, titles, &mut out)?;
        Ok(out)
    }
}

struct Scope<'a> {
    root: &'a Value,
    hidden: &'a Map<String, Value>,
    header: bool,
}

impl Scope<'_> {
    fn nodes(&self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), TemplateError> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipeline) => out.push_str(&text(&self.pipeline(pipeline, dot)?)),
                Node::If(condition, then, other) => {
                    let value = self.pipeline(condition, dot)?;
                    self.nodes(if is_true(&value) { then } else { other }, dot, out)?;
                }
                Node::With(subject, then, other) => {
                    let value = self.pipeline(subject, dot)?;
                    if is_true(&value) {
                        self.nodes(then, &value, out)?;
                    } else {
                        self.nodes(other, dot, out)?;
                    }
                }
                Node::Range(subject, body, other) => {
                    let items: Vec<Value> = match self.pipeline(subject, dot)? {
                        Value::Array(items) => items,
                        Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
                        _ => Vec::new(),
                    };
                    if items.is_empty() {
                        self.nodes(other, dot, out)?;
                    }
                    for item in &items {
                        self.nodes(body, item, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut value = None;
        for command in &pipeline.0 {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or_default())
    }

    fn command(
        &self,
        command: &Command,
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        let Some((head, rest)) = command.0.split_first() else {
            return Ok(Value::Null);
        };
        let mut arguments = rest
            .iter()
            .map(|operand| self.operand(operand, dot))
            .collect::<Result<Vec<_>, _>>()?;
        arguments.extend(piped);
        match head {
            Operand::Function(name) if self.header => {
                let known = FUNCTIONS.contains(&name.as_str());
                let title = arguments.pop().unwrap_or_default();
                known
                    .then_some(title)
                    .ok_or_else(|| TemplateError::Function(name.clone()))
            }
            Operand::Function(name) => call(name, &arguments),
            _ => {
                let mut value = self.operand(head, dot)?;
                // A field with arguments is a method: `.Label "x"`.
                for argument in arguments.iter().filter(|_| !self.header) {
                    value = value
                        .get(argument.as_str().unwrap_or_default())
                        .cloned()
                        .unwrap_or_else(|| "".into());
                }
                Ok(value)
            }
        }
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field { root, path } => {
                let mut value = if *root { self.root } else { dot };
                for (depth, name) in path.iter().enumerate() {
                    let hidden = (depth == 0).then(|| self.hidden.get(name)).flatten();
                    value = value
                        .get(name)
                        .or(hidden)
                        .ok_or_else(|| TemplateError::Field(name.clone()))?;
                }
                Ok(value.clone())
            }
            Operand::Group(pipeline) => self.pipeline(pipeline, dot),
            Operand::Function(name) => call(name, &[]),
        }
    }
}

const FUNCTIONS: &[&str] = &[
    "and", "eq", "index", "join", "json", "len", "lower", "ne", "not", "or", "pad", "print",
    "println", "printf", "split", "title", "truncate", "upper",
];

fn call(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let value = match (name, arguments) {
        ("json", [value]) => go_json(value).into(),
        ("upper", [value]) => text(value).to_uppercase().into(),
        ("lower", [value]) => text(value).to_lowercase().into(),
        ("title", [value]) => title(&text(value)).into(),
        ("len", [Value::Array(items)]) => items.len().into(),
        ("len", [Value::Object(map)]) => map.len().into(),
        ("len", [value]) => text(value).len().into(),
        ("join", [Value::Array(items), separator]) => {
            let items: Vec<String> = items.iter().map(text).collect();
            items.join(&text(separator)).into()
        }
        ("split", [value, separator]) => {
            let (value, separator) = (text(value), text(separator));
            value.split(&separator).map(Value::from).collect()
        }
        ("pad", [value, before, after]) if !text(value).is_empty() => {
            let spaces = |count: &Value| {
                let count = count.as_u64().unwrap_or(0).min(1000);
                " ".repeat(usize::try_from(count).unwrap_or(0))
            };
            format!("{}{}{}", spaces(before), text(value), spaces(after)).into()
        }
        ("pad", [value, _, _]) => value.clone(),
        ("truncate", [value, length]) => {
            let length = length
                .as_u64()
                .and_then(|length| usize::try_from(length).ok());
            let length = length.ok_or(TemplateError::Arguments("truncate"))?;
            text(value).chars().take(length).collect::<String>().into()
        }
        ("index", [value, key]) => match key.as_u64() {
            Some(index) => value.get(usize::try_from(index).unwrap_or(usize::MAX)),
            None => value.get(text(key)),
        }
        .cloned()
        .unwrap_or_default(),
        ("eq", [first, rest @ ..]) => rest.contains(first).into(),
        ("ne", [first, second]) => (first != second).into(),
        ("not", [value]) => (!is_true(value)).into(),
        ("and", [.., last]) => {
            let first_false = arguments.iter().find(|value| !is_true(value));
            first_false.unwrap_or(last).clone()
        }
        ("or", [.., last]) => {
            let first_true = arguments.iter().find(|value| is_true(value));
            first_true.unwrap_or(last).clone()
        }
        ("print", _) => arguments.iter().map(text).collect::<String>().into(),
        ("println", _) => {
            let words: Vec<String> = arguments.iter().map(text).collect();
            format!("{}\n", words.join(" ")).into()
        }
        ("printf", [format, rest @ ..]) => printf(&text(format), rest).into(),
        _ => {
            return Err(match FUNCTIONS.iter().find(|known| **known == name) {
                Some(known) => TemplateError::Arguments(known),
                None => TemplateError::Function(name.into()),
            });
        }
    };
    Ok(value)
}

/// `%s`, `%v`, `%d`, `%q` and `%%`, with `-` and a width.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let flags = rest.len()
            - rest
                .trim_start_matches(|c: char| c == '-' || c.is_ascii_digit())
                .len();
        let (flags, after) = rest.split_at(flags);
        let Some(verb) = after.chars().next() else {
            break;
        };
        rest = &after[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = arguments.next().map(text).unwrap_or_default();
        let value = if verb == 'q' {
            Value::from(value).to_string()
        } else {
            value
        };
        let width = flags.trim_start_matches('-').parse().unwrap_or(0).min(1000);
        if flags.starts_with('-') {
            out.push_str(&format_left(&value, width));
        } else {
            let missing = width.saturating_sub(value.chars().count());
            out.push_str(&" ".repeat(missing));
            out.push_str(&value);
        }
    }
    out.push_str(rest);
    out
}

fn format_left(value: &str, width: usize) -> String {
    format!("{value:<width$}")
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for character in text.chars() {
        if start {
            out.extend(character.to_uppercase());
        } else {
            out.push(character);
        }
        start = character.is_whitespace();
    }
    out
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<no value>".into(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let items: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", text(value)))
                .collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

/// JSON as Go's encoder writes it: `<`, `>` and `&` escaped.
pub(crate) fn go_json(value: &Value) -> String {
    // These characters occur only inside of strings.
    value
        .to_string()
        .replace('<', r"\u003c")
        .replace('>', r"\u003e")
        .replace('&', r"\u0026")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn render(source: &str) -> Result<String, TemplateError> {
        let value = json!({
            "Name": "shop-web-1", "State": "running", "ExitCode": 0, "Ports": "80->80",
            "Publishers": [{"URL": "::", "TargetPort": 80}, {"URL": "0.0.0.0", "TargetPort": 81}],
        });
        let hidden = json!({"Label": {"a": "b"}});
        Template::parse(source)?.render(&value, hidden.as_object().unwrap())
    }

    #[test]
    fn what_users_write_is_rendered() {
        let table = [
            ("{{.Name}} {{ .State }}", "shop-web-1 running"),
            (r"{{.Name}}\t{{.State}}\n", "shop-web-1\trunning\n"),
            ("{{json .Ports}}", r#""80-\u003e80""#),
            ("{{upper .State}}", "RUNNING"),
            (
                "{{.State | upper | printf \"%10s|%-9s|%%\" \"a\"}}",
                "         a|RUNNING  |%",
            ),
            ("{{range .Publishers}}{{.TargetPort}} {{end}}", "80 81 "),
            (
                "{{range $p := .Publishers}}{{$.Name}}{{end}}",
                "shop-web-1shop-web-1",
            ),
            (
                "{{if eq .State \"paused\" \"running\"}}up{{else}}down{{end}}",
                "up",
            ),
            ("{{if .ExitCode}}bad{{else if .Name}}good{{end}}", "good"),
            ("a {{- /* why */ -}} b", "ab"),
            ("x{{with .Name}}{{.}}{{end}}", "xshop-web-1"),
            ("{{.Label \"a\"}}{{.Label \"z\"}}", "b"),
            (
                "{{len .Publishers}}{{(index .Publishers 1).URL}}",
                "20.0.0.0",
            ),
        ];
        for (source, expected) in table {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            render("{{.Nosuch}}"),
            Err(TemplateError::Field("Nosuch".into()))
        );
        assert_eq!(
            render("{{.Name"),
            Err(TemplateError::Incomplete("`}}` is missing"))
        );
        assert_eq!(
            render("{{if .Name}}x"),
            Err(TemplateError::Incomplete("`{{end}}` is missing"))
        );
        assert_eq!(
            render("{{end}}"),
            Err(TemplateError::Unexpected("end".into()))
        );
        assert_eq!(render("{{upper}}"), Err(TemplateError::Arguments("upper")));
        assert_eq!(
            render("{{slice}}"),
            Err(TemplateError::Function("slice".into()))
        );
    }

    #[test]
    fn a_header_replaces_fields_and_passes_functions() {
        let titles = json!({"Name": "NAME", "State": "STATE"});
        let template = Template::parse("{{.Name}} {{upper .State}}").unwrap();
        assert_eq!(template.render_header(&titles).unwrap(), "NAME STATE");
    }

    proptest! {
        #[test]
        fn no_template_panics(source in "(\\{\\{|\\}\\}|[a-z.$()|\"%\\- ]|if|end|range|else|json|index|é){0,30}") {
            render(&source).ok();
        }
    }
}
