//! The text of `local.conf` and `bblayers.conf`.

use std::{fmt::Write as _, path::PathBuf};

use crate::plan::{BY_ENVIRONMENT, Plan};

/// The first line of the file.
const NOTICE: &str = "# Written by smidr before each build: change smidr.yaml instead (local_conf: takes any line).\n";

/// The text of `local.conf`.
pub(crate) fn local_conf(plan: &Plan) -> String {
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

/// The text of `bblayers.conf`; `further` are assignments behind the list of layers.
pub(crate) fn bblayers_conf(layers: &[PathBuf], further: &[(String, String)]) -> String {
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

/// A value as BitBake reads it back: on one line, between quotes that do not occur in it; bb.parse.parse_py.ConfHandler has no
/// escapes. The config refuses values with both kinds of quotes.
fn quote(value: &str) -> String {
    let line = value.replace("\\\n", " ").replace(['\n', '\r'], " ");
    let mark = if line.contains('"') { '\'' } else { '"' };
    // A backslash at the end would join the next line.
    format!("{mark}{}{mark}", line.trim_end_matches('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_values() {
        insta::assert_snapshot!(bblayers_conf(
            &["/a/meta".into(), "/b/meta-own".into()],
            &[("LAYERSERIES_COMPAT_own:append".into(), " wrynose".into())],
        ));
        assert_eq!(quote("a\nb"), "\"a b\"");
        assert_eq!(quote("x\\"), "\"x\"");
        assert_eq!(quote("-j 2"), "\"-j 2\"");
        assert_eq!(quote("5\" disk"), "'5\" disk'");
    }
}
