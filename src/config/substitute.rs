//! `${VAR}`, `${VAR:-default}` and `${VAR:+alternative}` in values; `$${` stands for `${` itself.

/// Replaces variables in a value.
///
/// # Errors
///
/// A sentence fragment, when a variable is unset and has no default, or a brace is not closed.
pub(super) fn substitute(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, from)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = from;
            continue;
        }
        out.push_str(before);
        let (inside, after) = up_to_brace(from)
            .ok_or_else(|| format!("`${{{from}` has no closing brace; write `$${{` for a literal `${{`"))?;
        out.push_str(&expand(inside, lookup)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// How deep defaults may be nested.
const DEPTH: usize = 16;

/// What stands before the brace that closes, and behind it: a default may hold variables of its own.
fn up_to_brace(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' && depth < DEPTH => depth += 1,
            '{' if before == '$' => return None,
            '}' if depth == 0 => return Some((text.get(..at)?, text.get(at + 1..)?)),
            '}' => depth -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

fn expand(inside: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let name_end = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
    let (name, operator) = inside.split_at(name_end);
    if name.is_empty() {
        return Err(format!("`${{{inside}}}` names no variable; write `$${{` for a literal `${{`"));
    }
    // As in the shell, the forms with a colon treat an empty variable as unset.
    let value = lookup(name);
    let set = value.as_ref().is_some_and(|value| !value.is_empty());
    if let Some(default) = operator.strip_prefix(":-") {
        value.filter(|_| set).map_or_else(|| substitute(default, lookup), Ok)
    } else if let Some(alternative) = operator.strip_prefix(":+") {
        if set { substitute(alternative, lookup) } else { Ok(String::new()) }
    } else if operator.is_empty() {
        value.ok_or_else(|| {
            format!("the environment variable {name} is not set; write `${{{name}:-default}}` to go on without it")
        })
    } else {
        Err(format!("`${{{inside}}}` is not one of ${{VAR}}, ${{VAR:-default}}, ${{VAR:+alternative}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let lookup = |name: &str| match name {
            "A" => Some("x".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("plain $HOME", "plain $HOME"),
            ("${A}", "x"),
            ("-${A}-${A}-", "-x-x-"),
            ("${EMPTY}", ""),
            ("${NONE:-d e}", "d e"),
            ("${EMPTY:-d}", "d"),
            ("${A:-d}", "x"),
            ("${A:+yes}", "yes"),
            ("${NONE:+yes}", ""),
            ("$${A}", "${A}"),
            ("${NONE:-${A}}", "x"),
            ("${NONE:-${EMPTY:-${NONE:-d}}}/e", "d/e"),
            ("${A:-${NONE}}", "x"),
            ("${A:+{${A}}}", "{x}"),
            ("${NONE:-$${A}}", "${A}"),
        ] {
            assert_eq!(substitute(text, &lookup).as_deref(), Ok(expected), "{text}");
        }
        for wrong in ["${NONE}", "${A", "${}", "${A?x}", "${NONE:-${NONE}}", "${NONE:-${A}"] {
            assert!(substitute(wrong, &lookup).is_err(), "{wrong}");
        }
    }
}
