//! From the text of a template to its nodes.

use std::vec::IntoIter;

use serde_json::Value;

use super::{MAX_DEPTH, TemplateError};

#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If(Pipeline, Vec<Self>, Vec<Self>),
    With(Pipeline, Vec<Self>, Vec<Self>),
    Range(Pipeline, Vec<Self>, Vec<Self>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pipeline(pub(super) Vec<Command>);

#[derive(Clone, Debug, Default)]
pub(super) struct Command(pub(super) Vec<Operand>);

#[derive(Clone, Debug)]
pub(super) enum Operand {
    Literal(Value),
    /// `root`: begins with `$`.
    Field {
        root: bool,
        path: Vec<String>,
    },
    Group(Pipeline),
    Function(String),
}

/// Text between actions, or the inside of one.
enum Piece {
    Text(String),
    Action(String),
}

pub(super) fn parse(source: &str) -> Result<Vec<Node>, TemplateError> {
    let mut pieces = pieces(source)?.into_iter();
    let (nodes, end) = block(&mut pieces, 0)?;
    match end {
        Stop::Source => Ok(nodes),
        Stop::End => Err(TemplateError::Unexpected("end".into())),
        Stop::Else(_) => Err(TemplateError::Unexpected("else".into())),
    }
}

fn pieces(source: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = source;
    let mut trim = false;
    while let Some(start) = rest.find("{{") {
        let (mut text, mut action) = (&rest[..start], &rest[start + 2..]);
        if trim {
            text = text.trim_start();
        }
        if action.starts_with("- ") {
            action = &action[1..];
            text = text.trim_end();
        }
        let end = action
            .find("}}")
            .ok_or(TemplateError::Incomplete("`}}` is missing"))?;
        rest = &action[end + 2..];
        action = &action[..end];
        trim = action.ends_with(" -");
        if trim {
            action = &action[..action.len() - 1];
        }
        pieces.push(Piece::Text(text.into()));
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            pieces.push(Piece::Action(action.into()));
        }
    }
    let text = if trim { rest.trim_start() } else { rest };
    pieces.push(Piece::Text(text.into()));
    Ok(pieces)
}

/// What ended a block.
enum Stop {
    Source,
    End,
    /// With what stands behind `else`.
    Else(String),
}

fn block(pieces: &mut IntoIter<Piece>, depth: usize) -> Result<(Vec<Node>, Stop), TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::TooDeep);
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) if text.is_empty() => continue,
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action
            .split_once(char::is_whitespace)
            .unwrap_or((action.as_str(), ""));
        match word {
            "end" => return Ok((nodes, Stop::End)),
            "else" => return Ok((nodes, Stop::Else(rest.trim().into()))),
            "if" | "with" | "range" => nodes.push(branch(word, rest, pieces, depth + 1)?),
            _ => nodes.push(Node::Print(pipeline(&action)?)),
        }
    }
    Ok((nodes, Stop::Source))
}

fn branch(
    word: &str,
    subject: &str,
    pieces: &mut IntoIter<Piece>,
    depth: usize,
) -> Result<Node, TemplateError> {
    // `range $item := .List`: the variable is the same as the dot.
    let subject = match subject.split_once(":=") {
        Some((variables, list)) if variables.trim_start().starts_with('$') => list,
        _ => subject,
    };
    let subject = pipeline(subject)?;
    let (then, end) = block(pieces, depth)?;
    let other = match end {
        Stop::Source => return Err(TemplateError::Incomplete("`{{end}}` is missing")),
        Stop::End => Vec::new(),
        Stop::Else(next) if next.is_empty() => match block(pieces, depth)? {
            (nodes, Stop::End) => nodes,
            (_, Stop::Source) => return Err(TemplateError::Incomplete("`{{end}}` is missing")),
            (_, Stop::Else(_)) => return Err(TemplateError::Unexpected("else".into())),
        },
        Stop::Else(next) => match next.split_once(char::is_whitespace) {
            Some((word @ ("if" | "with"), subject)) => {
                vec![branch(word, subject, pieces, depth + 1)?]
            }
            _ => return Err(TemplateError::Unexpected(next)),
        },
    };
    Ok(match word {
        "if" => Node::If(subject, then, other),
        "with" => Node::With(subject, then, other),
        _ => Node::Range(subject, then, other),
    })
}

fn pipeline(source: &str) -> Result<Pipeline, TemplateError> {
    let mut rest = source.trim();
    let pipeline = commands(&mut rest, 0)?;
    match rest.chars().next() {
        Some(character) => Err(TemplateError::Unexpected(character.into())),
        None => Ok(pipeline),
    }
}

/// Reads up to the end or a closing parenthesis, which is left in `rest`.
fn commands(rest: &mut &str, depth: usize) -> Result<Pipeline, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::TooDeep);
    }
    let mut pipeline = Pipeline::default();
    let mut command = Command::default();
    loop {
        *rest = rest.trim_start();
        match rest.chars().next() {
            None | Some(')') if command.0.is_empty() => {
                return Err(TemplateError::Incomplete("a value is missing"));
            }
            None | Some(')') => {
                pipeline.0.push(command);
                return Ok(pipeline);
            }
            Some('|') if command.0.is_empty() => {
                return Err(TemplateError::Unexpected("|".into()));
            }
            Some('|') => {
                *rest = &rest[1..];
                pipeline.0.push(std::mem::take(&mut command));
            }
            Some(_) => command.0.push(operand(rest, depth)?),
        }
    }
}

fn operand(rest: &mut &str, depth: usize) -> Result<Operand, TemplateError> {
    match rest.chars().next() {
        Some('(') => {
            *rest = &rest[1..];
            let mut group = commands(rest, depth + 1)?;
            if !rest.starts_with(')') {
                return Err(TemplateError::Incomplete("`)` is missing"));
            }
            *rest = &rest[1..];
            if rest.starts_with('.') {
                // `(index .List 1).Field`: the field of what the group gives.
                for name in path(word(rest))? {
                    group = Pipeline(vec![Command(vec![
                        Operand::Function("index".into()),
                        Operand::Group(group),
                        Operand::Literal(name.into()),
                    ])]);
                }
            }
            Ok(Operand::Group(group))
        }
        Some('"') => {
            let end = string_end(rest).ok_or(TemplateError::Incomplete("`\"` is missing"))?;
            let (literal, after) = rest.split_at(end);
            *rest = after;
            let value = serde_json::from_str(literal)
                .map_err(|_| TemplateError::Unexpected(literal.into()))?;
            Ok(Operand::Literal(value))
        }
        Some('`') => {
            let body = &rest[1..];
            let end = body
                .find('`')
                .ok_or(TemplateError::Incomplete("a back quote is missing"))?;
            *rest = &body[end + 1..];
            Ok(Operand::Literal(body[..end].into()))
        }
        _ => {
            let word = word(rest);
            if word.starts_with('.') {
                return Ok(Operand::Field {
                    root: false,
                    path: path(word)?,
                });
            }
            if let Some(variable) = word.strip_prefix('$') {
                // Only the root has no name; a range variable is the dot.
                let name_end = variable.find('.').unwrap_or(variable.len());
                return Ok(Operand::Field {
                    root: name_end == 0,
                    path: path(&variable[name_end..])?,
                });
            }
            if let Ok(value) = serde_json::from_str::<Value>(word)
                && (value.is_number() || value.is_boolean())
            {
                return Ok(Operand::Literal(value));
            }
            if !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_') {
                return Ok(Operand::Function(word.into()));
            }
            let found = if word.is_empty() { rest } else { word };
            Err(TemplateError::Unexpected(found.into()))
        }
    }
}

/// Cuts the next word off `rest`.
fn word<'a>(rest: &mut &'a str) -> &'a str {
    let end = rest
        .find(|c: char| c.is_whitespace() || matches!(c, '|' | '(' | ')' | '"' | '`'))
        .unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after;
    word
}

/// `.A.B` as its names; `.` alone has none.
fn path(word: &str) -> Result<Vec<String>, TemplateError> {
    if word.is_empty() || word == "." {
        return Ok(Vec::new());
    }
    word.split('.')
        .skip(1)
        .map(|name| match name {
            "" => Err(TemplateError::Unexpected(word.into())),
            name => Ok(name.into()),
        })
        .collect()
}

/// Where the quoted string at the start of `text` ends.
fn string_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(index + 1),
            _ => {}
        }
    }
    None
}
