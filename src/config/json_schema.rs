//! The JSON schema of a document: its keys as the decoder asks for them, explained by the tables of its reference.

use std::collections::BTreeMap;

use serde::Serialize;

use super::decode::{KeyKind, KnownKey};

/// A schema, draft 2020-12.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Schema {
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    dialect: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Vec::is_empty")]
    types: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    properties: BTreeMap<String, Self>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Box<Self>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    required: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_properties: Option<Additional>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    any_of: Vec<Self>,
    #[serde(rename = "enum", skip_serializing_if = "Vec::is_empty")]
    values: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<&'static str>,
}

/// What may stand in a mapping beside its properties.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Additional {
    None(bool),
    Like(Box<Schema>),
}

/// A row of a table of the reference.
struct Row<'r> {
    kind: &'r str,
    default: &'r str,
    meaning: &'r str,
}

/// What stands for any name in a path: `customers.NAME.weight`.
pub const NAME: &str = "NAME";

/// The schema of these keys. `reference` is the text with their tables; where a key is one of several forms of a document, it stands in `instead`.
pub fn schema(title: &str, known: &[KnownKey], reference: &str, instead: &[(&str, &str)]) -> Schema {
    let rows = rows(reference);
    let mut root = Schema {
        dialect: Some("https://json-schema.org/draft/2020-12/schema"),
        title: Some(title.into()),
        ..mapping()
    };
    for key in known {
        let path = key.path.replace("[0]", "[]");
        let row = rows.get(path.as_str()).or_else(|| rows.get(path.rsplit('.').next()?));
        let (around, name) = path.rsplit_once('.').unwrap_or(("", &path));
        if name.is_empty() || name == NAME {
            continue;
        }
        let place = around.split('.').filter(|part| !part.is_empty()).fold(&mut root, |at, part| at.below(part));
        if row.is_some_and(|row| row.default == "required") && !place.required.iter().any(|known| known == name) {
            place.required.push(name.into());
        }
        place.below(name).fill(key.kind, row);
    }
    if !instead.is_empty() {
        let own = std::mem::take(&mut root.required);
        root.any_of = vec![Schema { required: own, ..Schema::default() }];
        for (key, about) in instead {
            root.any_of.push(Schema { required: vec![(*key).to_owned()], ..Schema::default() });
            let schema = Schema { description: Some((*about).to_owned()), ..Schema::default() };
            root.properties.insert((*key).to_owned(), schema);
        }
    }
    root
}

fn mapping() -> Schema {
    Schema { types: vec!["object"], additional_properties: Some(Additional::None(false)), ..Schema::default() }
}

/// One value; a variable of the environment may stand for it.
fn scalar() -> Schema {
    Schema { types: vec!["string", "number", "boolean"], ..Schema::default() }
}

fn variable() -> Schema {
    Schema { types: vec!["string"], pattern: Some("\\$\\{"), ..Schema::default() }
}

fn list(items: Schema) -> Schema {
    Schema { types: vec!["array"], items: Some(Box::new(items)), ..Schema::default() }
}

impl Schema {
    /// What stands under a key of a mapping; `KEY[]` is an item of the list there, and [`NAME`] any key.
    fn below(&mut self, part: &str) -> &mut Self {
        if part == NAME {
            if !matches!(self.additional_properties, Some(Additional::Like(_))) {
                self.types = vec!["object"];
                self.additional_properties = Some(Additional::Like(Box::new(mapping())));
            }
            return match &mut self.additional_properties {
                Some(Additional::Like(schema)) => schema,
                _ => unreachable!("it was set"),
            };
        }
        let (key, is_item) = part.strip_suffix("[]").map_or((part, false), |key| (key, true));
        let found = self.properties.entry(key.to_owned()).or_default();
        match is_item {
            true => found.items.get_or_insert_with(|| Box::new(mapping())),
            false => found,
        }
    }

    fn fill(&mut self, kind: KeyKind, row: Option<&Row<'_>>) {
        if let Some(row) = row {
            let default = if row.default.is_empty() { String::new() } else { format!(" (default: {})", row.default) };
            let default = if row.default == "required" { " (required)".into() } else { default };
            self.description = Some(format!("{}{default}", row.meaning));
        }
        let values = row.map(|row| values(row.kind)).unwrap_or_default();
        let one = match values.is_empty() {
            true => scalar(),
            false => {
                let named = Schema { values, ..Schema::default() };
                Schema { any_of: vec![named, variable()], ..Schema::default() }
            }
        };
        let filled = match kind {
            KeyKind::Text => one,
            KeyKind::Texts => Schema { any_of: vec![list(one.clone()), one], ..Schema::default() },
            KeyKind::Flag => {
                let flag = Schema { types: vec!["boolean"], ..Schema::default() };
                let words = ["yes", "no", "on", "off"].map(str::to_owned).to_vec();
                let words = Schema { values: words, ..Schema::default() };
                Schema { any_of: vec![flag, words, variable()], ..Schema::default() }
            }
            KeyKind::Count => {
                let number = Schema { types: vec!["integer"], minimum: Some(1), ..Schema::default() };
                Schema { any_of: vec![number, variable()], ..Schema::default() }
            }
            KeyKind::List => Schema { types: vec!["array"], ..Schema::default() },
            KeyKind::Fields => mapping(),
            KeyKind::Pairs => Schema {
                types: vec!["object"],
                additional_properties: Some(Additional::Like(Box::new(scalar()))),
                ..Schema::default()
            },
            KeyKind::Other if row.is_some_and(|row| row.kind == "names and overlays") => Schema {
                types: vec!["object"],
                additional_properties: Some(Additional::Like(Box::new(Schema {
                    types: vec!["object"],
                    ..Schema::default()
                }))),
                ..Schema::default()
            },
            KeyKind::Other => Schema::default(),
        };
        // What is below it stays.
        if self.properties.is_empty()
            && self.items.is_none()
            && !matches!(self.additional_properties, Some(Additional::Like(_)))
        {
            self.any_of = filled.any_of;
            self.items = filled.items;
        }
        self.types = if self.items.is_some() && filled.types.is_empty() && self.any_of.is_empty() {
            vec!["array"]
        } else if !self.properties.is_empty() {
            vec!["object"]
        } else {
            filled.types
        };
        if self.additional_properties.is_none() {
            self.additional_properties = match self.types.as_slice() {
                ["object"] => filled.additional_properties.or(Some(Additional::None(false))),
                _ => None,
            };
        }
    }
}

/// The values that the column of types lists; none where it names a type.
fn values(kind: &str) -> Vec<String> {
    let kind = kind.strip_prefix("list of ").unwrap_or(kind);
    let words: Vec<&str> = kind.split(", ").map(|word| word.trim_matches('`')).collect();
    let is_word = |word: &&str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    match words.len() > 1 && words.iter().all(is_word) {
        true => words.into_iter().map(str::to_owned).collect(),
        false => Vec::new(),
    }
}

/// The rows of all tables, by key. One row may be about several.
fn rows(reference: &str) -> BTreeMap<&str, Row<'_>> {
    let mut rows = BTreeMap::new();
    // Settings are a list.
    for line in reference.lines().filter_map(|line| line.strip_prefix("- `")) {
        let Some((keys, meaning)) = line.split_once("`: ") else { continue };
        for key in keys.split(", ") {
            rows.insert(key.trim_matches('`'), Row { kind: "", default: "", meaning });
        }
    }
    for line in reference.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(keys), Some(kind), Some(default), Some(meaning)) =
            (cells.next(), cells.next(), cells.next(), cells.next())
        else {
            continue;
        };
        for key in keys.split(", ") {
            rows.insert(key.trim_matches('`'), Row { kind, default, meaning });
        }
    }
    rows
}
