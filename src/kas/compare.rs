//! Two configurations beside each other.

use super::yaml::{Key, Node, Scalar, Value};

/// A key with those around it, and its values before and after.
pub(super) type Difference = (String, Option<Node>, Option<Node>);

/// What differs, in the order of the first, then of the second.
pub fn differences(before: &Node, after: &Node) -> Vec<Difference> {
    let mut all = Vec::new();
    compare("", Some(before), Some(after), &mut all);
    all
}

fn compare(path: &str, before: Option<&Node>, after: Option<&Node>, all: &mut Vec<Difference>) {
    let (old, new) = (before.map(Node::entries).unwrap_or_default(), after.map(Node::entries).unwrap_or_default());
    if before == after {
        return;
    }
    if old.is_empty() || new.is_empty() {
        all.push((path.to_owned(), before.cloned(), after.cloned()));
        return;
    }
    let added = new.iter().filter(|(key, _)| old.iter().all(|(known, _)| known != key));
    let value = |entries: &[(Key, Node)], key: &Key| {
        entries.iter().find(|(known, _)| known == key).map(|(_, node)| node.clone())
    };
    for (key, _) in old.iter().chain(added) {
        let path = if path.is_empty() { key.scalar.to_string() } else { format!("{path}.{}", key.scalar) };
        compare(&path, value(old, key).as_ref(), value(new, key).as_ref(), all);
    }
}

/// Differences as a document.
pub fn as_node(differences: &[Difference]) -> Node {
    let null = || Node::made(Value::Scalar(Scalar::Null));
    let entries = differences.iter().map(|(path, old, new)| {
        let pair = vec![
            (Key::made("old"), old.clone().unwrap_or_else(null)),
            (Key::made("new"), new.clone().unwrap_or_else(null)),
        ];
        (Key::made(path), Node::made(Value::Map(pair)))
    });
    Node::made(Value::Map(entries.collect()))
}

/// A value on one line.
pub fn in_short(node: &Node) -> String {
    match &node.value {
        Value::Scalar(Scalar::Null) => "nothing".into(),
        Value::Scalar(scalar) => scalar.to_string().replace('\n', "\\n"),
        Value::List(items) => format!("[{}]", items.iter().map(in_short).collect::<Vec<_>>().join(", ")),
        Value::Map(map) => {
            let entries = map.iter().map(|(key, node)| format!("{}: {}", key.scalar, in_short(node)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}
