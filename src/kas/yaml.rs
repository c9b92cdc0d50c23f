//! YAML 1.1 as kas reads it (PyYAML's safe loader), with the place of each value: `08` is text and `010` is 8, `no` is false, of a key that
//! stands twice the last value counts at the first one's place. JSON is read the same way.

use std::{collections::HashMap, sync::LazyLock};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Tag};
use regex::Regex;

use crate::config::{Problem, Span};

/// How many values one file may have, aliases written out, and how deep they may be nested.
const VALUES: usize = 200_000;
const DEPTH: usize = 100;

/// A place in one of the files that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which file, counted from 0.
    pub file: usize,
    /// Where in it, in bytes.
    pub span: Span,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// The kinds of values.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One that has no parts.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, each key once, in the order of their first appearance.
    Map(Map),
}

/// The entries of a mapping.
pub(super) type Map = Vec<(Key, Node)>;

/// A key with its place.
#[derive(Clone, Debug)]
pub struct Key {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub scalar: Scalar,
}

/// A value without parts.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number, as it was written.
    Float(String),
    /// A day or a time, as it was written.
    Time(String),
    /// Text.
    Text(String),
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.scalar == other.scalar
    }
}

impl Node {
    /// A value that stands in no file.
    pub fn made(value: Value) -> Self {
        Self { place: Place::default(), value }
    }

    /// A text that stands in no file.
    pub fn text(text: impl Into<String>) -> Self {
        Self::made(Value::Scalar(Scalar::Text(text.into())))
    }

    /// A mapping that stands in no file.
    pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::made(Value::Map(entries.into_iter().map(|(key, node)| (Key::made(key), node)).collect()))
    }

    /// The entries of a mapping; of anything else, none.
    pub fn entries(&self) -> &[(Key, Self)] {
        match &self.value {
            Value::Map(map) => map,
            _ => &[],
        }
    }

    /// The entries of a mapping, which anything else becomes.
    pub fn entries_mut(&mut self) -> &mut Map {
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Map::new());
        }
        match &mut self.value {
            Value::Map(map) => map,
            _ => unreachable!("it has just become one"),
        }
    }

    /// The value of a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(known, _)| known.is(key)).map(|(_, node)| node)
    }

    /// Sets a key of a mapping: at its place where it is there, else at the end.
    pub fn set(&mut self, key: &str, node: Self) {
        let map = self.entries_mut();
        match map.iter_mut().find(|(known, _)| known.is(key)) {
            Some((_, known)) => *known = node,
            None => map.push((Key::made(key), node)),
        }
    }

    /// Removes a key of a mapping.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        let Value::Map(map) = &mut self.value else { return None };
        let at = map.iter().position(|(known, _)| known.is(key))?;
        Some(map.remove(at).1)
    }

    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(Scalar::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list; of anything else, none.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Whether nothing stands there.
    pub fn is_null(&self) -> bool {
        self.value == Value::Scalar(Scalar::Null)
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(map) => map.iter().map(|(_, node)| 1 + node.count()).sum(),
        }
    }
}

impl Key {
    /// A key that stands in no file.
    pub fn made(text: &str) -> Self {
        Self { place: Place::default(), scalar: Scalar::Text(text.to_owned()) }
    }

    /// Whether it is this text.
    pub fn is(&self, text: &str) -> bool {
        matches!(&self.scalar, Scalar::Text(known) if known == text)
    }
}

impl std::fmt::Display for Scalar {
    /// As Python's `str` prints it, which is what kas writes into comments.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(text) | Self::Time(text) | Self::Text(text) => f.write_str(text),
        }
    }
}

/// Reads one document. `file` is the number that places in it get.
///
/// # Errors
///
/// The first place that cannot be read.
pub(super) fn parse(text: &str, file: usize) -> Result<Node, Problem> {
    if let Some(conflict) = crate::config::conflict(text) {
        return Err(conflict);
    }
    let mut reader = Reader { parser: Parser::new_from_str(text), file, anchors: HashMap::new(), count: 0, last: 0..0 };
    let node = reader.document()?;
    Ok(node.unwrap_or(Node { place: Place { file, span: 0..0 }, value: Value::Scalar(Scalar::Null) }))
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    file: usize,
    anchors: HashMap<usize, Node>,
    count: usize,
    last: Span,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => {
                    self.last = span.byte_range().unwrap_or_else(|| self.last.clone());
                    return Ok((event, self.last.clone()));
                }
                Some(Err(error)) => return Err(unreadable(&error)),
                None => return Ok((Event::StreamEnd, self.last.clone())),
            }
        }
    }

    fn document(&mut self) -> Result<Option<Node>, Problem> {
        let mut node = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(node),
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if node.is_some() => {
                    return Err(
                        Problem::new(span, "a second document begins here").hint("a file holds one: remove the `---`")
                    );
                }
                event => node = Some(self.node(event, span, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        self.count += 1;
        if self.count > VALUES || depth > DEPTH {
            return Err(Problem::new(span, "this is too large or too deeply nested"));
        }
        let place = Place { file: self.file, span: span.clone() };
        let (anchor, value) = match event {
            Event::Alias(id) => {
                let node =
                    self.anchors.get(&id).ok_or_else(|| Problem::new(span, "this repeats what it is a part of"))?;
                self.count += node.count();
                return Ok(Node { place, value: node.value.clone() });
            }
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, Value::Scalar(resolve(&text, style, tag.as_deref(), &span)?))
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (anchor, Value::List(items))
            }
            Event::MappingStart(_, anchor, _) => (anchor, Value::Map(self.mapping(depth)?)),
            _ => return Err(Problem::new(span, "this is not valid YAML")),
        };
        let node = Node { place, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Map, Problem> {
        let (mut own, mut merged) = (Map::new(), Map::new());
        loop {
            let (event, span) = match self.next()? {
                (Event::MappingEnd, _) => break,
                next => next,
            };
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, _) if text == "<<");
            let key = self.node(event, span.clone(), depth + 1)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at.clone(), depth + 1)?;
            if is_merge {
                // Of several the first wins, so it comes last.
                let sources = match value.value {
                    Value::Map(map) => vec![map],
                    Value::List(items) => items
                        .into_iter()
                        .rev()
                        .map(|item| match item.value {
                            Value::Map(map) => Ok(map),
                            _ => Err(Problem::new(item.place.span, "only mappings can be merged with `<<`")),
                        })
                        .collect::<Result<_, _>>()?,
                    Value::Scalar(_) => return Err(Problem::new(at, "only mappings can be merged with `<<`")),
                };
                merged.extend(sources.into_iter().flatten());
                continue;
            }
            let Value::Scalar(scalar) = key.value else {
                return Err(Problem::new(span, "a list or a mapping cannot be a key"));
            };
            own.push((Key { place: key.place, scalar }, value));
        }
        let mut map = Map::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for (key, node) in merged.into_iter().chain(own) {
            let at = *known.entry(format!("{:?}", key.scalar)).or_insert(map.len());
            match map.get_mut(at) {
                Some((_, value)) => *value = node,
                None => map.push((key, node)),
            }
        }
        Ok(map)
    }
}

fn unreadable(error: &ScanError) -> Problem {
    let at = error.marker().byte_offset().unwrap_or_default();
    let (title, hint) = crate::config::yaml_words(&error.to_string());
    Problem { span: at..at, title, hint }
}

/// What PyYAML's resolver (resolver.py) and safe constructor make of a scalar.
fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Result<Scalar, Problem> {
    if let Some(tag) = tag {
        return match tag.core_suffix() {
            Some("str") => Ok(Scalar::Text(text.to_owned())),
            Some("null" | "bool" | "int" | "float") => Ok(plain(text)),
            _ => Err(Problem::new(span.clone(), format!("kas knows no tag {}", tag.original()))),
        };
    }
    Ok(if style == ScalarStyle::Plain { plain(text) } else { Scalar::Text(text.to_owned()) })
}

static FLOAT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|",
        r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ))
    .expect("a fixed pattern")
});
static INT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[-+]?(?:0b[01_]+|0[0-7_]+|(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+|[1-9][0-9_]*(?::[0-5]?[0-9])+)$")
        .expect("a fixed pattern")
});
static TIME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}",
        r"(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?)$"
    ))
    .expect("a fixed pattern")
});

/// What a text without quotes is.
pub(super) fn plain(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Scalar::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Scalar::Bool(false),
        _ => {}
    }
    if INT.is_match(text)
        && let Some(number) = integer(text)
    {
        return Scalar::Int(number);
    }
    if FLOAT.is_match(text) {
        return Scalar::Float(text.to_owned());
    }
    if TIME.is_match(text) {
        return Scalar::Time(text.to_owned());
    }
    Scalar::Text(text.to_owned())
}

fn integer(text: &str) -> Option<i128> {
    let digits = text.replace('_', "");
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let number = if let Some(binary) = digits.strip_prefix("0b") {
        i128::from_str_radix(binary, 2).ok()
    } else if let Some(hex) = digits.strip_prefix("0x") {
        i128::from_str_radix(hex, 16).ok()
    } else if digits.contains(':') {
        digits.split(':').try_fold(0i128, |sum, part| sum.checked_mul(60)?.checked_add(part.parse().ok()?))
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from_str_radix(digits, 8).ok()
    } else {
        digits.parse().ok()
    };
    Some(sign * number?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_what_pyyaml_makes_of_them() {
        for (text, scalar) in [
            ("01", Scalar::Int(1)),
            ("010", Scalar::Int(8)),
            ("0x1f", Scalar::Int(31)),
            ("1_0", Scalar::Int(10)),
            ("1:30", Scalar::Int(90)),
            ("-0b11", Scalar::Int(-3)),
            ("08", Scalar::Text("08".into())),
            ("2.8", Scalar::Float("2.8".into())),
            ("1e3", Scalar::Text("1e3".into())),
            ("y", Scalar::Text("y".into())),
            ("on", Scalar::Bool(true)),
            ("~", Scalar::Null),
            ("2026-11-30", Scalar::Time("2026-11-30".into())),
            ("2026-11", Scalar::Text("2026-11".into())),
        ] {
            assert_eq!(plain(text), scalar, "{text}");
        }
    }

    #[test]
    fn the_last_of_two_keys_counts_and_merged_keys_come_first() {
        let text = "a: &a {x: 1, y: 2}\nb:\n  z: 3\n  y: 4\n  <<: *a\n  z: 5\n'1': text\n1: number\n";
        let node = parse(text, 7).expect("good YAML");
        let b = node.get("b").expect("b");
        let shown: Vec<String> =
            b.entries().iter().map(|(key, node)| format!("{}={:?}", key.scalar, node.value)).collect();
        assert_eq!(shown, ["x=Scalar(Int(1))", "y=Scalar(Int(4))", "z=Scalar(Int(5))"]);
        assert_eq!(node.entries().len(), 4);
        assert_eq!((b.entries()[2].1.place.file, text.get(b.entries()[2].1.place.span.clone())), (7, Some("5")));
    }

    #[test]
    fn bombs_and_loops_end() {
        let mut bomb = "a0: &a0 [x, x]\n".to_owned();
        for n in 1..40 {
            bomb.push_str(&format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1));
        }
        assert!(parse(&bomb, 0).expect_err("a bomb").title.contains("too large"));
        assert!(parse("a: &a [*a]\n", 0).is_err());
        assert!(parse(&"[".repeat(10_000), 0).is_err());
        assert!(parse("a: 1\n---\nb: 2\n", 0).expect_err("two").title.contains("second document"));
        assert!(parse("header:\n  version: 14\n\trepos:\n", 0).is_err());
        assert_eq!(parse("{\n\t\"a\": {\"b\": null},\n\t\"c\": [1, true]\n}\n", 0).expect("JSON").entries().len(), 2);
    }
}
