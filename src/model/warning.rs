//! Warnings of a build, by kind.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// Warnings of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarningGroup {
    /// Its name for programs, such as `qa-ldflags`; `other` if no rule knows it.
    pub kind: String,
    /// How many there are.
    pub count: u64,
    /// How many of them the last good build of the project and variant did not have.
    #[serde(default, skip_serializing_if = "is_none")]
    pub new: u64,
    /// Where they were said. Of a great many recipes only the first are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<WarnedPlace>,
    /// Some of the messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

/// A recipe that warns, or what is no recipe's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarnedPlace {
    /// The recipe, if it is one's; with its multiconfig, as tasks are named.
    pub recipe: Option<String>,
    /// The layer that it, or the file that the message names, is in, if that is known.
    pub layer: Option<String>,
    /// How many there are.
    pub count: u64,
    /// How many of them are new.
    #[serde(default, skip_serializing_if = "is_none")]
    pub new: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// How many layers are named.
const LAYERS: usize = 3;

impl fmt::Display for WarningGroup {
    /// `12 qa-ldflags in 3 recipes (meta-x), 2 new`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recipes: BTreeSet<&String> = self.places.iter().filter_map(|place| place.recipe.as_ref()).collect();
        let layers: BTreeSet<&str> = self.places.iter().filter_map(|place| place.layer.as_deref()).collect();
        write!(f, "{} {}", self.count, self.kind)?;
        match (recipes.len(), recipes.first()) {
            (1, Some(recipe)) => write!(f, " in {recipe}")?,
            (0, _) => {}
            (count, _) => write!(f, " in {count} recipes")?,
        }
        let more = if layers.len() > LAYERS { ", …" } else { "" };
        let layers: Vec<&str> = layers.into_iter().take(LAYERS).collect();
        if !layers.is_empty() {
            write!(f, " ({}{more})", layers.join(", "))?;
        }
        match self.new {
            0 => Ok(()),
            new => write!(f, ", {new} new"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_told_in_one_line() {
        let place = |recipe: &str, layer: &str| WarnedPlace {
            recipe: Some(recipe.into()).filter(|text: &String| !text.is_empty()),
            layer: Some(layer.into()).filter(|text: &String| !text.is_empty()),
            count: 1,
            new: 0,
        };
        let group = |new, places| WarningGroup { kind: "cve".into(), count: 12, new, places, examples: Vec::new() };
        for (group, words) in [
            (group(0, vec![]), "12 cve"),
            (group(2, vec![place("a", "meta-x")]), "12 cve in a (meta-x), 2 new"),
            (
                group(0, vec![place("a", "meta-x"), place("b", "meta-y"), place("b", "")]),
                "12 cve in 2 recipes (meta-x, meta-y)",
            ),
            (group(1, ["1", "2", "3", "4"].map(|layer| place("", layer)).into()), "12 cve (1, 2, 3, …), 1 new"),
        ] {
            assert_eq!(group.to_string(), words);
            let json = serde_json::to_string(&group).expect("JSON");
            assert_eq!(serde_json::from_str::<WarningGroup>(&json).expect(&json), group);
        }
    }
}
