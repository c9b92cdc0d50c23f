//! The text of `local.conf` and `bblayers.conf`.

use std::{fmt::Write as _, path::PathBuf};

use crate::plan::{BY_ENVIRONMENT, Plan};

/// The first line of the file.
const NOTICE: &str = "# Written by smidr before each build: change smidr.yaml instead (local_conf: takes any line).\n";

/// The text of `local.conf`.
pub(crate) fn local_conf(plan: &Plan) -> String {
    if let Some(as_is) = &plan.as_is {
        return as_is.local_conf.clone();
    }
    let mut text = String::from(NOTICE);
    for (name, value) in &plan.conf {
        // Where the environment has the last word; for MACHINE in `smidr shell`, as usual with OpenEmbedded.
        let is_weak = BY_ENVIRONMENT.contains(&name.as_str()) || name == "MACHINE";
        let operator = if is_weak { "?=" } else { "=" };
        let _ = writeln!(text, "{name} {operator} {}", quote(value));
    }
    // What BitBake parses does not depend on it.
    let _ = writeln!(text, "BB_HASHCONFIG_IGNORE_VARS:append = \" {}\"", BY_ENVIRONMENT.join(" "));
    for (name, value) in &plan.exports {
        let _ = writeln!(text, "export {name} = {}", quote(value));
    }
    if !plan.conf_tail.is_empty() {
        let _ = write!(text, "\n# local_conf of smidr.yaml\n{}\n", plan.conf_tail);
    }
    text
}

/// The text of `bblayers.conf`; `further` are assignments behind the list of layers. Where it is another tool's, `layers` are added to it.
pub(crate) fn bblayers_conf(plan: &Plan, layers: &[PathBuf], further: &[(String, String)]) -> String {
    match &plan.as_is {
        Some(as_is) => layers.iter().fold(as_is.bblayers_conf.clone(), |mut text, layer| {
            let _ = writeln!(text, "BBLAYERS += \"{}\"", layer.display());
            text
        }),
        None => own_bblayers_conf(layers, further),
    }
}

fn own_bblayers_conf(layers: &[PathBuf], further: &[(String, String)]) -> String {
    let mut text = format!("{NOTICE}BBPATH = \"${{TOPDIR}}\"\nBBFILES ?= \"\"\nBBLAYERS = \" \\\n");
    for layer in layers {
        let _ = writeln!(text, "  {} \\", layer.display());
    }
    text.push_str("\"\n");
    for (name, value) in further {
        let _ = writeln!(text, "{name} = {}", quote(value));
    }
    text
}

/// A line that sets a variable.
pub(crate) fn assignment(name: &str, value: &str) -> String {
    format!("{name} = {}\n", quote(value))
}

/// A value as BitBake reads it back. bb.parse.parse_py.ConfHandler reads lines, joins those that end with a backslash, and has no escapes
/// within quotes: what cannot stand there is written as inline Python, which BitBake evaluates where it expands variables.
fn quote(value: &str) -> String {
    let fits = !value.contains(['\n', '\r']) && !value.ends_with('\\');
    match (value.contains('"'), value.contains('\'')) {
        (false, _) if fits => format!("\"{value}\""),
        (true, false) if fits => format!("'{value}'"),
        _ => format!("\"${{@'{}'}}\"", value.chars().map(in_python).collect::<String>()),
    }
}

/// A character in a string of inline Python, which neither quotes nor braces may end.
fn in_python(c: char) -> String {
    match c {
        '\n' | '\r' | '\\' | '"' | '\'' | '{' | '}' => format!("\\x{:02x}", u32::from(c)),
        c => c.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_values() {
        insta::assert_snapshot!(own_bblayers_conf(
            &["/a/meta".into(), "/b/meta-own".into()],
            &[("LAYERSERIES_COMPAT_own:append".into(), " wrynose".into())],
        ));
        assert_eq!(quote("-j 2"), "\"-j 2\"");
        assert_eq!(quote("5\" disk"), "'5\" disk'");
        assert_eq!(quote("a\nb"), r#""${@'a\x0ab'}""#);
        assert_eq!(quote("x\\"), r#""${@'x\x5c'}""#);
        assert_eq!(quote("'\"${A}"), r#""${@'\x27\x22$\x7bA\x7d'}""#);
    }
}
