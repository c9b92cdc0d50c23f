//! YAML as a tree of [`Node`]s with their places in the text.

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_yaml::Spanned;

use super::{
    conflict::conflict,
    problem::Problem,
    yaml_error::{self, byte_span},
};

/// A place in the text, in bytes.
pub type Span = Range<usize>;

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// The kinds of YAML values.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing after the colon, or `null`.
    Null,
    /// Text, number or boolean, as it was written: `5.0` stays `5.0`.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values in the order of the text.
    Map(Vec<(Text, Node)>),
}

/// A piece of text with its place.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// Its place; for a default, the place that requires it.
    pub span: Span,
    /// Its content.
    pub text: String,
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Node {
    /// Parses one YAML document.
    ///
    /// # Errors
    ///
    /// The first place that is not valid YAML, or a duplicate key.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        match serde_yaml::from_str::<Raw>(text) {
            Ok(raw) => Ok(raw.into_node(text)),
            Err(error) => Err(conflict(text).unwrap_or_else(|| yaml_error::problem(text, &error))),
        }
    }

    /// Whether another document says the same, wherever it stands in its text.
    pub fn says_the_same(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Scalar(one), Value::Scalar(other)) => one == other,
            (Value::List(one), Value::List(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.says_the_same(other))
            }
            (Value::Map(one), Value::Map(other)) => {
                one.len() == other.len()
                    && one
                        .iter()
                        .zip(other)
                        .all(|((key, one), (other_key, other))| key.text == other_key.text && one.says_the_same(other))
            }
            _ => false,
        }
    }

    /// The value of a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Lays `over` on top: mappings are merged key by key, everything else is replaced.
    pub fn overlay(&mut self, over: &Node) {
        match (&mut self.value, &over.value) {
            (Value::Map(below), Value::Map(above)) => {
                for (key, node) in above {
                    match below.iter_mut().find(|(name, _)| name.text == key.text) {
                        Some((_, existing)) => existing.overlay(node),
                        None => below.push((key.clone(), node.clone())),
                    }
                }
            }
            _ => *self = over.clone(),
        }
    }
}

// The type for serde: the parser fills in the span of every node.
#[derive(Deserialize)]
struct Raw(Spanned<RawValue>);

enum RawValue {
    Null,
    Plain,
    Text(String),
    List(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

impl Raw {
    fn into_node(self, text: &str) -> Node {
        let span = byte_span(text, self.0.referenced);
        let value = match self.0.value {
            RawValue::Null => Value::Null,
            // Numbers and booleans keep the text that they were written with. For an alias or a merge key, `referenced`
            // is its place, `defined` that of the anchor's value.
            RawValue::Plain => {
                let written = byte_span(text, self.0.defined);
                Value::Scalar(text.get(written).unwrap_or_default().trim().to_owned())
            }
            RawValue::Text(text) => Value::Scalar(text),
            RawValue::List(items) => Value::List(items.into_iter().map(|raw| raw.into_node(text)).collect()),
            RawValue::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, raw)| {
                        let key = Text { span: byte_span(text, key.referenced), text: key.value };
                        (key, raw.into_node(text))
                    })
                    .collect(),
            ),
        };
        Node { span, value }
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_i128<E>(self, _: i128) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_u128<E>(self, _: u128) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_str<E>(self, text: &str) -> Result<RawValue, E> {
        Ok(RawValue::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        RawValue::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawValue::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_stay_as_written_and_know_their_place() {
        let text = "a: 5.0\nb: [yes, 0755, 'x y']\nc:\n  d: |\n    one\n    two\n";
        let node = Node::parse(text).expect("good YAML");
        let scalar = |node: &Node| match &node.value {
            Value::Scalar(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        let a = node.get("a").expect("a");
        assert_eq!((scalar(a).as_str(), text.get(a.span.clone())), ("5.0", Some("5.0")));
        match &node.get("b").expect("b").value {
            Value::List(items) => {
                assert_eq!(items.iter().map(scalar).collect::<Vec<_>>(), ["yes", "0755", "x y"]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(scalar(node.get("c").and_then(|c| c.get("d")).expect("d")), "one\ntwo\n");
    }

    #[test]
    fn aliased_and_merged_scalars_have_the_text_of_their_anchor_and_the_place_of_their_use() {
        let text = "\
base: &base {int: &n 8, hex: 0x1F, float: 5.0, exp: 1.5e3, truth: yes, nul: ~, text: &t two words, 'q': \"8\", list: [1, 2.50]}
plain: *n
text: *t
list: [*n, *t, *base, 0755]
merged:
  <<: *base
  float: 6.0
merges:
  <<: [{int: 1}, *base]
nested: {<<: {<<: *base}}
";
        let node = Node::parse(text).expect("good YAML");
        fn show(node: &Node) -> String {
            match &node.value {
                Value::Null => "-".into(),
                Value::Scalar(text) => text.clone(),
                Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
                Value::Map(entries) => {
                    let mut pairs: Vec<_> = entries.iter().map(|(k, v)| format!("{k}={}", show(v))).collect();
                    pairs.sort();
                    pairs.join(",")
                }
            }
        }
        let base = "exp=1.5e3,float=5.0,hex=0x1F,int=8,list=[1 2.50],nul=-,q=8,text=two words,truth=yes";
        let found: Vec<_> = ["base", "plain", "text", "list", "merged", "merges", "nested"]
            .map(|key| show(node.get(key).expect(key)))
            .into();
        let wanted = [
            base.to_owned(),
            "8".into(),
            "two words".into(),
            format!("[8 two words {base} 0755]"),
            base.replace("5.0", "6.0"),
            base.replace("int=8", "int=1"),
            base.to_owned(),
        ];
        assert_eq!(found, wanted);
        let place = |node: &Node| text.get(node.span.clone()).unwrap_or_default().to_owned();
        assert_eq!(place(node.get("plain").expect("plain")), "*n");
        let merged = node.get("merged").expect("merged");
        assert_eq!(place(merged.get("int").expect("int")), "*base");
        assert_eq!(place(merged.get("float").expect("float")), "6.0");
    }

    #[test]
    fn what_is_not_yaml_says_where() {
        let problem = Node::parse("a: 1\nb: [1,\n").expect_err("not YAML");
        assert!(problem.span.start >= 5, "{problem:?}");
        let twice = Node::parse("a: 1\na: 2\n").expect_err("a key twice");
        assert_eq!((twice.title.as_str(), twice.span), ("the key `a` stands here a second time", 5..6));
    }
}
