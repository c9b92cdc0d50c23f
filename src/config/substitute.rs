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
        let (inside, after) = from
            .split_once('}')
            .ok_or_else(|| format!("`${{{from}` has no closing brace; write `$${{` for a literal `${{`"))?;
        out.push_str(&expand(inside, lookup)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
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
        Ok(value.filter(|_| set).unwrap_or_else(|| default.to_owned()))
    } else if let Some(alternative) = operator.strip_prefix(":+") {
        Ok(if set { alternative.to_owned() } else { String::new() })
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
        ] {
            assert_eq!(substitute(text, &lookup).as_deref(), Ok(expected), "{text}");
        }
        for wrong in ["${NONE}", "${A", "${}", "${A?x}"] {
            assert!(substitute(wrong, &lookup).is_err(), "{wrong}");
        }
    }
}
