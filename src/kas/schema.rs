//! What one kas file may hold: checked before it is merged with others, by itself, as kas does.

use super::yaml::{Key, Node, Scalar, Value};
use crate::config::{Problem, nearest};

/// The versions of the format that are read.
pub(super) const VERSIONS: std::ops::RangeInclusive<i128> = 1..=23;

/// What may stand somewhere.
enum Shape {
    Text,
    TextOrNull,
    Texts,
    Number(i128, i128),
    Truth,
    Version,
    Words(&'static [&'static str]),
    Includes,
    Layer,
    /// Any keys, all with the same shape.
    Each(&'static Shape),
    /// These keys; whether further ones may be there, and whether nothing may.
    Keys {
        keys: &'static [(&'static str, Shape)],
        needed: &'static [&'static str],
        open: bool,
        null: bool,
    },
    Any,
}

use Shape::{Any, Each, Includes, Keys, Layer, Number, Text, TextOrNull, Texts, Truth, Version, Words};

const fn keys(keys: &'static [(&'static str, Shape)]) -> Shape {
    Keys { keys, needed: &[], open: false, null: false }
}

static FILE: Shape = Keys {
    keys: &[
        (
            "header",
            Keys {
                keys: &[("version", Version), ("includes", Includes)],
                needed: &["version"],
                open: false,
                null: false,
            },
        ),
        ("build_system", Words(&["openembedded", "oe", "isar", "isar-privileged", "isar-rootless"])),
        (
            "defaults",
            keys(&[(
                "repos",
                keys(&[("branch", Text), ("tag", Text), ("refspec", Text), ("patches", keys(&[("repo", Text)]))]),
            )]),
        ),
        ("machine", Text),
        ("distro", Text),
        ("env", Each(&TextOrNull)),
        ("target", Texts),
        ("task", Text),
        ("repos", Each(&REPO)),
        (
            "overrides",
            keys(&[("repos", Each(&keys(&[("commit", TextOrNull), ("branch", TextOrNull), ("url", Text)])))]),
        ),
        ("bblayers_conf_header", Each(&Text)),
        ("local_conf_header", Each(&Text)),
        ("proxy_config", Each(&Text)),
        ("menu_configuration", Any),
        ("artifacts", Each(&Text)),
        (
            "signers",
            Each(&Keys {
                keys: &[
                    ("type", Words(&["gpg", "ssh"])),
                    ("repo", Text),
                    ("path", Text),
                    ("fingerprint", Text),
                    ("gpg_keyserver", Text),
                ],
                needed: &[],
                open: false,
                null: false,
            }),
        ),
        (
            "buildtools",
            Keys {
                keys: &[("version", Text), ("sha256sum", Text), ("base_url", Text), ("filename", Text)],
                needed: &["version", "sha256sum"],
                open: true,
                null: false,
            },
        ),
        ("_source_dir", Text),
        ("_source_dir_host", Text),
    ],
    needed: &["header"],
    open: false,
    null: false,
};

static REPO: Shape = Keys {
    keys: &[
        ("name", Text),
        ("url", TextOrNull),
        ("type", Words(&["git", "hg"])),
        ("refspec", Text),
        ("commit", Text),
        ("branch", TextOrNull),
        ("tag", TextOrNull),
        ("path", TextOrNull),
        ("layers", Each(&Layer)),
        (
            "patches",
            Each(&Keys { keys: &[("repo", Text), ("path", Text)], needed: &["path"], open: false, null: true }),
        ),
        ("signed", Truth),
        ("allowed_signers", Texts),
    ],
    needed: &[],
    open: false,
    null: true,
};

static LAYER: Shape = keys(&[("prio", Number(-99, 99))]);

/// Everything that is wrong with a file.
pub(super) fn check(file: &Node) -> Vec<Problem> {
    let mut problems = Vec::new();
    look(file, &FILE, "", &mut problems);
    problems
}

/// Whether a layer's value switches it off, and whether in a way that kas deprecates.
pub(super) fn is_disabled(value: &Node) -> Option<bool> {
    match &value.value {
        Value::Scalar(Scalar::Text(text)) if text == "disabled" => Some(false),
        Value::Scalar(Scalar::Text(text)) if ["excluded", "n", "no", "0", "false"].contains(&text.as_str()) => {
            Some(true)
        }
        Value::Scalar(Scalar::Int(0) | Scalar::Bool(false)) => Some(true),
        _ => None,
    }
}

fn look(node: &Node, shape: &Shape, path: &str, problems: &mut Vec<Problem>) {
    let mut wrong = |expected: &str| {
        let name = if path.is_empty() { "a kas file" } else { path };
        let what = match &node.value {
            Value::Scalar(Scalar::Null) => "nothing",
            Value::Scalar(Scalar::Bool(_)) => "a truth value",
            Value::Scalar(Scalar::Int(_) | Scalar::Float(_)) => "a number",
            Value::Scalar(Scalar::Time(_)) => "a date",
            Value::Scalar(Scalar::Text(_)) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        };
        let problem = Problem::new(node.place.span.clone(), format!("{name} must be {expected}, and is {what}"));
        problems.push(match &node.value {
            Value::Scalar(Scalar::Null) if expected.starts_with("a mapping") => {
                problem.hint("leave the key out, or write `{}`")
            }
            Value::Scalar(Scalar::Int(_) | Scalar::Float(_) | Scalar::Bool(_) | Scalar::Time(_))
                if expected.starts_with("a text") =>
            {
                problem.hint("put it in quotes")
            }
            _ => problem,
        });
    };
    let is_text = |node: &Node| node.as_text().is_some();
    match shape {
        Any => {}
        Text if !is_text(node) => wrong("a text"),
        TextOrNull if !is_text(node) && !node.is_null() => wrong("a text"),
        Texts => match &node.value {
            Value::List(items) => {
                items.iter().for_each(|item| look(item, &Text, &format!("{path}[]"), problems));
            }
            _ if is_text(node) => {}
            _ => wrong("a text or a list of texts"),
        },
        Number(least, most) => {
            if !matches!(&node.value, Value::Scalar(Scalar::Int(number)) if (least..=most).contains(&number)) {
                wrong(&format!("a number from {least} to {most}"));
            }
        }
        Truth if !matches!(node.value, Value::Scalar(Scalar::Bool(_))) => wrong("true or false"),
        Version => {
            let good = match &node.value {
                Value::Scalar(Scalar::Int(number)) => VERSIONS.contains(number),
                Value::Scalar(Scalar::Text(text)) => text == "0.10",
                _ => false,
            };
            if !good {
                wrong(&format!("a number from {} to {}", VERSIONS.start(), VERSIONS.end()));
            }
        }
        Words(words) => match node.as_text() {
            Some(text) if words.contains(&text) => {}
            text => {
                let near = text.and_then(|text| nearest(text, words.iter().copied()));
                let problem =
                    Problem::new(node.place.span.clone(), format!("{path} must be one of {}", words.join(", ")));
                problems.push(match near {
                    Some(near) => problem.hint(format!("did you mean `{near}`?")),
                    None => problem,
                });
            }
        },
        Includes => match &node.value {
            Value::List(items) => {
                static INCLUDE: Shape = Keys {
                    keys: &[("repo", Text), ("file", Text)],
                    needed: &["repo", "file"],
                    open: false,
                    null: false,
                };
                let others = items.iter().filter(|item| !is_text(item));
                others.for_each(|item| look(item, &INCLUDE, &format!("{path}[]"), problems));
            }
            _ => wrong("a list"),
        },
        Layer => {
            if !node.is_null() && is_disabled(node).is_none() {
                match &node.value {
                    Value::Map(_) => look(node, &LAYER, path, problems),
                    _ => wrong("nothing, `disabled`, or `{prio: NUMBER}`"),
                }
            }
        }
        Each(shape) => match &node.value {
            Value::Map(map) => map.iter().for_each(|(key, node)| look(node, shape, &under(path, key), problems)),
            _ => wrong("a mapping"),
        },
        Keys { null: true, .. } if node.is_null() => {}
        Keys { keys, needed, open, .. } => {
            let Value::Map(map) = &node.value else { return wrong("a mapping") };
            for (key, node) in map {
                match keys.iter().find(|(name, _)| key.is(name)) {
                    Some((_, shape)) => look(node, shape, &under(path, key), problems),
                    None if *open => {}
                    None => {
                        let title = format!("unknown key `{}`", under(path, key));
                        let near = nearest(&key.scalar.to_string(), keys.iter().map(|(name, _)| *name));
                        let problem = Problem::new(key.place.span.clone(), title);
                        problems.push(match near {
                            Some(near) => problem.hint(format!("did you mean `{near}`?")),
                            None => problem,
                        });
                    }
                }
            }
            for name in needed.iter().filter(|name| node.get(name).is_none()) {
                let at = node.place.span.start;
                let title =
                    format!("{}{name} is missing", if path.is_empty() { String::new() } else { format!("{path}.") });
                problems.push(Problem::new(at..at, title));
            }
        }
        Text | TextOrNull | Truth => {}
    }
}

fn under(path: &str, key: &Key) -> String {
    if path.is_empty() { key.scalar.to_string() } else { format!("{path}.{}", key.scalar) }
}
