//! `as_is`: the conf of another tool, word for word, and where its project's repositories stand.

use super::{
    decode::{Decoder, Fields},
    node::{Node, Text, Value},
    problem::Problem,
    schema::AsIs,
};

/// Files of conf that have keys of their own, or are smidr's.
const OWN: [&str; 4] = ["local.conf", "bblayers.conf", "templateconf.cfg", "smidr.conf"];

/// Reads the section `as_is`. Nothing in it is substituted: `${…}` are BitBake's own variables.
pub(super) fn as_is(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Option<AsIs> {
    let node = f.node("as_is")?;
    let mut f = d.fields(node, "as_is");
    let mut whole = |d: &mut Decoder<'_>, key: &'static str| match f.node(key) {
        Some(Node { value: Value::Scalar(text), span }) => Text { span: span.clone(), text: text.clone() },
        found => {
            let span = found.map_or(node.span.start..node.span.start, |found| found.span.clone());
            d.problem(Problem::new(span, format!("as_is.{key} must be a text")));
            Text::default()
        }
    };
    let (work, local_conf, bblayers_conf) = (whole(d, "work"), whole(d, "local_conf"), whole(d, "bblayers_conf"));
    let mut entries = |d: &mut Decoder<'_>, key: &'static str| match f.node(key) {
        Some(Node { value: Value::Map(map), .. }) => map.as_slice(),
        None => &[],
        Some(node) => {
            d.problem(Problem::new(node.span.clone(), format!("as_is.{key} must be a mapping")));
            &[]
        }
    };
    let (env, further) = (entries(d, "env"), entries(d, "further"));
    let mut files = Vec::new();
    for (name, node) in further {
        let is_plain =
            |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/') && !OWN.contains(&name);
        match &node.value {
            Value::Scalar(text) if is_plain(&name.text) => files.push((name.text.clone(), text.clone())),
            _ => {
                let title = format!("as_is.further.{name} must be a text, and its name that of another file of conf");
                d.problem(Problem::new(node.span.clone(), title));
            }
        }
    }
    let env = env.iter().filter_map(|(name, node)| match &node.value {
        Value::Scalar(text) => Some((name.clone(), Some(Text { span: node.span.clone(), text: text.clone() }))),
        Value::Null => Some((name.clone(), None)),
        _ => {
            d.problem(Problem::new(node.span.clone(), format!("as_is.env.{name} must be a text, or nothing")));
            None
        }
    });
    let env = env.collect();
    f.finish(d);
    Some(AsIs { work, local_conf: local_conf.text, bblayers_conf: bblayers_conf.text, further: files, env })
}
