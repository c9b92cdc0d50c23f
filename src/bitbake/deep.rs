//! What `ui/smidr_deep.py` finds before a build, as its lines say it. Claims of a project's own code, as all that comes from BitBake.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

/// Something that would fail, or may not be as it is meant.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Finding {
    /// Nothing provides what a target or a recipe needs; skipped recipes are among the reasons.
    Missing {
        /// What is needed.
        item: String,
        /// Whether it is a package, and not what a recipe provides.
        #[serde(default)]
        runtime: bool,
        /// Recipes that need it, and how many more.
        #[serde(default)]
        dependees: Vec<String>,
        /// How many of them are not named.
        #[serde(default)]
        more: u64,
        /// Recipes that would provide it, with why they are skipped.
        #[serde(default)]
        reasons: Vec<String>,
        /// Names that look alike.
        #[serde(default)]
        close: Vec<String>,
    },
    /// A download whose content nothing says.
    Checksum {
        /// The recipe, and its source.
        #[serde(flatten)]
        source: Source,
        /// The flag of SRC_URI that is missing.
        flag: String,
        /// Whether BitBake refuses that.
        strict: bool,
    },
    /// A source that follows its branch.
    Autorev {
        /// The recipe, and its source.
        #[serde(flatten)]
        source: Source,
    },
    /// A source without a commit.
    Revision {
        /// The recipe, and its source.
        #[serde(flatten)]
        source: Source,
    },
    /// A source whose server has no such branch.
    Branch {
        /// The recipe, and its source.
        #[serde(flatten)]
        source: Source,
        /// The branch.
        branch: String,
    },
    /// A package that INCOMPATIBLE_LICENSE leaves out, and that something needs.
    Licence {
        /// Its recipe.
        recipe: String,
        /// The package.
        package: String,
        /// Its licences.
        licences: String,
        /// What needs it.
        #[serde(default)]
        needed: Vec<String>,
    },
    /// A bbappend without a recipe.
    Append {
        /// The file.
        file: PathBuf,
        /// Whether BitBake refuses that.
        fatal: bool,
    },
    /// A recipe that could not be looked at.
    Unread {
        /// Which.
        recipe: String,
        /// Why.
        text: String,
    },
}

/// Where something is fetched from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Source {
    /// The recipe.
    pub recipe: String,
    /// Its file.
    pub file: PathBuf,
    /// The address, without parameters.
    pub url: String,
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Looked {
    /// Recipes that the targets need.
    pub recipes: u64,
    /// Recipes beyond the limit.
    #[serde(default)]
    pub left_out: u64,
    /// Tasks that the targets consist of.
    pub tasks: u64,
    /// Sources of the recipes.
    pub sources: u64,
    /// Whether recipes remove their work folders.
    #[serde(default)]
    pub rm_work: bool,
    /// Branches of git sources, those whose commit is here, and those that a server was asked for.
    #[serde(default)]
    pub branches: u64,
    /// Whose commit was downloaded before.
    #[serde(default)]
    pub here: u64,
    /// That a server has answered for.
    #[serde(default)]
    pub asked: u64,
    /// Why the others were not, and how many.
    #[serde(default)]
    pub unasked: BTreeMap<String, u64>,
    /// Findings beyond the limit, by kind.
    #[serde(default)]
    pub more: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitbake::{UiMessage, parse_line};

    #[test]
    fn lines_become_findings() {
        let missing = r#"{"e":"found","kind":"missing","item":"x","runtime":false,"more":3,"dependees":["a"],"reasons":[],"close":["y"]}"#;
        match parse_line(missing) {
            UiMessage::Found(Finding::Missing { item, dependees, more: 3, close, .. }) => {
                assert_eq!((item.as_str(), dependees.concat(), close.concat()), ("x", "a".into(), "y".into()));
            }
            other => panic!("{other:?}"),
        }
        let checksum = r#"{"e":"found","kind":"checksum","recipe":"a","file":"/l/a_1.bb","url":"https://h/a.tar","flag":"sha256sum","strict":true}"#;
        match parse_line(checksum) {
            UiMessage::Found(Finding::Checksum { source, strict: true, .. }) => {
                assert_eq!(source.url, "https://h/a.tar")
            }
            other => panic!("{other:?}"),
        }
        let looked = r#"{"e":"looked","recipes":2,"tasks":30,"sources":1,"unasked":{"network":1}}"#;
        match parse_line(looked) {
            UiMessage::Looked(looked) => assert_eq!((looked.tasks, looked.unasked.get("network")), (30, Some(&1))),
            other => panic!("{other:?}"),
        }
        for strange in [r#"{"e":"found","kind":"from_the_future"}"#, r#"{"e":"found"}"#, r#"{"e":"looked"}"#] {
            assert_eq!(parse_line(strange), UiMessage::Nothing, "{strange}");
        }
    }
}
