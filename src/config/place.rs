//! Where a config asks for something: from the keys that lead there to a place in its text. Pure, and best effort: what is not
//! found has no place.

use super::{
    node::{Node, Span, Value},
    texts::Texts,
};

/// The place of what `keys` lead to, with the overlay `variant`: as deep as they lead. An entry of a list is meant by its text, its
/// `name`, or its number from 0.
pub fn place(texts: &Texts, variant: Option<&str>, keys: &[String]) -> Option<Span> {
    let root = texts.tree(variant).0?;
    let (mut node, mut found) = (&root, None);
    for key in keys {
        let Some((next, span)) = step(node, key) else { break };
        (node, found) = (next, Some(span));
    }
    found
}

/// The node below, and what to mark of it: a value that fits on a line, or its key.
fn step<'n>(node: &'n Node, key: &str) -> Option<(&'n Node, Span)> {
    match &node.value {
        Value::Map(entries) => {
            let (name, node) = entries.iter().find(|(name, _)| name.text == key)?;
            let is_plain = matches!(&node.value, Value::Scalar(text) if !text.contains('\n'));
            Some((node, if is_plain { node.span.clone() } else { name.span.clone() }))
        }
        Value::List(items) => {
            let by_name = items.iter().find(|item| is_called(item, key));
            let node = by_name.or_else(|| items.get(key.parse::<usize>().ok()?))?;
            let span = ["name", "source"].iter().find_map(|key| node.get(key)).map_or(&node.span, |name| &name.span);
            Some((node, span.clone()))
        }
        // One text counts as a list of one.
        Value::Scalar(text) if text == key || key == "0" => Some((node, node.span.clone())),
        _ => None,
    }
}

fn is_called(item: &Node, key: &str) -> bool {
    let is = |node: &Node| matches!(&node.value, Value::Scalar(text) if text == key);
    is(item) || item.get("name").is_some_and(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_as_far_as_they_can() {
        let text = "\
base: {machine: one}
layers:
  - name: meta-a
    git: https://example.org/a
    patches: [a.patch, b.patch]
  - name: meta-b
    path: ./b
host:
  devices: kvm
  binds: [{source: /x}]
variants:
  v: {base: {machine: two}}
";
        let marked = |variant, keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            place(&text.into(), variant, &keys).and_then(|span| text.get(span))
        };
        for (variant, keys, wanted) in [
            (None, &["base", "machine"][..], Some("one")),
            (Some("v"), &["base", "machine"], Some("two")),
            (None, &["layers", "meta-b", "path"], Some("./b")),
            (None, &["layers", "meta-b", "branch"], Some("meta-b")),
            (None, &["layers", "meta-a", "patches", "b.patch"], Some("b.patch")),
            (None, &["layers", "meta-a", "patches"], Some("patches")),
            (None, &["host", "devices", "kvm"], Some("kvm")),
            (None, &["host", "binds", "0"], Some("/x")),
            (None, &["host", "binds", "1"], Some("binds")),
            (None, &["build", "image"], None),
            (None, &[], None),
        ] {
            assert_eq!(marked(variant, keys), wanted, "{variant:?} {keys:?}");
        }
    }
}
