//! Adds lines to the text of a config, where a person would write them. Pure; everything else in it stays as it is, comments too.

/// A config's text with further layers (names and paths) and further lines of `local_conf`. None where the text is written in a way that has no
/// place for them, such as `layers: [...]`: then it is the user's to edit.
pub fn add(text: &str, layers: &[(String, String)], lines: &[String]) -> Option<String> {
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if !layers.is_empty() {
        let items: Vec<String> =
            layers.iter().map(|(name, path)| format!("- {{name: {}, path: {}}}", word(name), word(path))).collect();
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
        let layer = [("meta-x".to_owned(), "./layers/meta-x".to_owned())];
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
}
