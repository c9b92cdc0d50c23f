//! Adds lines to the text of a config, where a person would write them, and takes a layer out again. Pure; everything else in it stays as it
//! is, comments too.

use super::{Layer, Text};

/// The entry of a layer at a path, as one item of `layers`.
pub fn layer(name: &str, path: &str) -> String {
    format!("{{name: {}, path: {}}}", word(name), word(path))
}

/// The same with all that another entry says beside its source.
pub fn layer_like(layer: &Layer, path: &str) -> String {
    let list = |texts: &[Text]| texts.iter().map(|text| word(text)).collect::<Vec<_>>().join(", ");
    let lists = [("include", &layer.include), ("exclude", &layer.exclude)];
    let lists = lists.iter().filter(|(_, texts)| !texts.is_empty());
    let lists: Vec<String> = lists.map(|(key, texts)| format!("{key}: [{}]", list(texts))).collect();
    let sublayers = if lists.is_empty() { String::new() } else { format!(", sublayers: {{{}}}", lists.join(", ")) };
    let series = if layer.ignore_series { ", ignore_series: true" } else { "" };
    format!("{{name: {}, path: {}{sublayers}{series}}}", word(&layer.name), word(path))
}

/// A config's text without the layer `name`, and without `layers` where nothing else is in it. None where it is not an item on lines of its own.
pub fn remove_layer(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let head = lines.iter().position(|line| line.trim_end() == "layers:")?;
    let belongs = |line: &&&str| line.trim().is_empty() || line.starts_with([' ', '#', '-']);
    let end = head + 1 + lines.iter().skip(head + 1).take_while(belongs).count();
    let block = lines.get(head + 1..end)?;
    let dash = block.iter().find(|line| line.trim_start().starts_with("- "))?.find('-')?;
    let items: Vec<usize> = (head + 1..end)
        .filter(|at| {
            lines.get(*at).is_some_and(|line| line.find('-') == Some(dash) && line.trim_start().starts_with('-'))
        })
        .collect();
    let is_name = |line: &str| {
        let plain = line.trim_start_matches(['-', ' ', '{']);
        let value = plain.strip_prefix("name:").map(str::trim_start);
        value
            .and_then(|value| value.strip_prefix(word(name).as_str()))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([',', '}', ' ', '\n', '\r']))
    };
    let at = items.iter().position(|at| lines.get(*at).is_some_and(|line| is_name(line)))?;
    let first = *items.get(at)?;
    let next = items.get(at + 1).copied().unwrap_or(end);
    // Comments and empty lines behind it belong to what follows.
    let is_of_item = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let last = first + 1 + lines.get(first + 1..next)?.iter().rposition(is_of_item).map_or(0, |at| at + 1);
    let out = if items.len() == 1 { head..last } else { first..last };
    Some(lines.iter().enumerate().filter(|(at, _)| !out.contains(at)).map(|(_, line)| *line).collect())
}

/// A config's text with further layers (their entries) and further lines of `local_conf`. None where the text is written in a way that has no
/// place for them, such as `layers: [...]`: then it is the user's to edit.
pub fn add(text: &str, layers: &[String], lines: &[String]) -> Option<String> {
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if !layers.is_empty() {
        let items: Vec<String> = layers.iter().map(|entry| format!("- {entry}")).collect();
        text = insert(&text, "layers", "", &items)?;
    }
    if !lines.is_empty() {
        text = insert(&text, "local_conf", "|", lines)?;
    }
    Some(text)
}

/// Adds lines at the end of a key's block; `style` is what stands behind the colon of a new one.
fn insert(text: &str, key: &str, style: &str, new: &[String]) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let head = format!("{key}:");
    let Some(at) = lines.iter().position(|line| line.starts_with(&head)) else {
        lines.push(format!("{head} {style}").trim_end().to_owned());
        lines.extend(new.iter().map(|line| format!("  {line}")));
        return Some(joined(&lines));
    };
    let behind = lines.get(at)?.strip_prefix(&head)?.split(" #").next()?.trim();
    let is_block = if style.is_empty() { behind.is_empty() } else { behind.starts_with(style) };
    if !is_block {
        return None;
    }
    let belongs = |line: &String| {
        line.trim().is_empty()
            || line.starts_with(' ')
            || style.is_empty() && (line.starts_with("- ") || line.starts_with('#'))
    };
    let block = lines.iter().skip(at + 1).take_while(|line| belongs(line)).collect::<Vec<_>>();
    let is_content =
        |line: &&String| !(line.trim().is_empty() || style.is_empty() && line.trim_start().starts_with('#'));
    let first = block.iter().copied().find(is_content)?;
    let indentation = first.get(..first.len() - first.trim_start().len())?.to_owned();
    let last = block.iter().copied().rposition(|line| is_content(&line))?;
    let place = at + 2 + last;
    lines.splice(place..place, new.iter().map(|line| format!("{indentation}{line}")));
    Some(joined(&lines))
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A text as YAML reads it back, as one word of a flow mapping.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let is_plain =
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '.') && text.chars().all(plain);
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_stands_at_the_end_of_its_block() {
        let layer = [layer("meta-x", "./layers/meta-x")];
        let lines = ["A = \"1\"".to_owned(), "B = \"2\"".to_owned()];
        for (text, expected) in [
            (
                "name: x\n",
                "name: x\nlayers:\n  - {name: meta-x, path: ./layers/meta-x}\nlocal_conf: |\n  A = \"1\"\n  B = \"2\"\n",
            ),
            (
                "layers:\n  - name: a   # one\n    path: ./a\n\n# behind\nlocal_conf: |\n    C = \"3\"\n\nbuild: {image: i}\n",
                "layers:\n  - name: a   # one\n    path: ./a\n  - {name: meta-x, path: ./layers/meta-x}\n\n# behind\nlocal_conf: |\n    C = \"3\"\n    A = \"1\"\n    B = \"2\"\n\nbuild: {image: i}\n",
            ),
            (
                "layers:\n- name: a\n  path: ./a\nlocal_conf: |-\n C = \"3\"",
                "layers:\n- name: a\n  path: ./a\n- {name: meta-x, path: ./layers/meta-x}\nlocal_conf: |-\n C = \"3\"\n A = \"1\"\n B = \"2\"\n",
            ),
        ] {
            assert_eq!(add(text, &layer, &lines).expect(text), expected);
        }
        for text in ["layers: []\n", "layers:\nname: x\n", "layers: *a\n"] {
            assert_eq!(add(text, &layer, &[]), None, "{text}");
        }
        assert_eq!(add("local_conf: C = 3\n", &[], &lines), None);
        assert_eq!(word("it's"), "'it''s'");
    }

    #[test]
    fn what_was_added_goes_again() {
        let entry = [layer("it's x", "./layers/x")];
        for text in [
            "# mine\n",
            "host: {cpus: 2}\n",
            "layers:\n  - name: a   # one\n    path: ./a\n\n# behind\nhost: {cpus: 2}\n",
            "layers:\n- name: a\n  path: ./a\n",
        ] {
            let added = add(text, &entry, &[]).expect(text);
            assert_eq!(remove_layer(&added, "it's x").as_deref(), Some(text));
            assert_eq!(remove_layer(&added, "it"), None);
        }
        let block = "layers:\n  - name: a\n    path: ./a\n    # why\n    ignore_series: true\n  # of b\n  - {name: b, path: ./b}\nx: 1\n";
        assert_eq!(remove_layer(block, "a").as_deref(), Some("layers:\n  # of b\n  - {name: b, path: ./b}\nx: 1\n"));
        for other in ["layers: [{name: a, path: ./a}]\n", "layers:\n  - path: ./a\n    name: a\n", "x: 1\n"] {
            assert_eq!(remove_layer(other, "a"), None, "{other}");
        }
    }
}
