//! Why a build failed.

use serde::{Deserialize, Serialize};

use super::{Hint, Recovery, TaskName};

/// What was wrong, with what shows it and what to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Its name for programs, such as `missing-header`; `unknown` if no rule knows it.
    pub kind: String,
    /// The recipe, as BitBake's PN names it, if it is one recipe's.
    pub recipe: Option<String>,
    /// Its task, if one failed.
    pub task: Option<String>,
    /// The multiconfig, if it is not the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiconfig: Option<String>,
    /// The line that says it first.
    pub first_error: Option<Quote>,
    /// The place in the source that the line names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourcePlace>,
    /// What is missing, damaged or refused, as the message names it: a header, a library, a recipe, a file, an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The lines that show it, in their order.
    pub evidence: Vec<Quote>,
    /// What went wrong, in one sentence.
    pub cause: String,
    /// What to do.
    pub next: Vec<Hint>,
    /// How much to trust it.
    pub sure: Certainty,
    /// What else it could be.
    #[serde(default)]
    pub could_be: Vec<String>,
    /// Other tasks that failed of the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<TaskName>,
    /// What smidr has found out about it, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<String>,
    /// What smidr may do about it by itself, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
}

impl Diagnosis {
    /// One of which nothing else is known.
    pub fn new(kind: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            recipe: None,
            task: None,
            multiconfig: None,
            first_error: None,
            source: None,
            subject: None,
            evidence: Vec::new(),
            cause: cause.into(),
            next: Vec::new(),
            sure: Certainty::Certain,
            could_be: Vec::new(),
            also: Vec::new(),
            facts: Vec::new(),
            recovery: None,
        }
    }

    /// Whether it is of this task.
    pub fn is_of(&self, name: &TaskName) -> bool {
        let (multiconfig, recipe) = name.parts();
        (self.multiconfig.as_deref(), self.recipe.as_deref()) == (multiconfig, Some(recipe))
            && self.task.as_ref() == Some(&name.task)
    }
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The line, without colours and time stamps.
    pub text: String,
    /// The log, as it was given.
    pub file: Option<String>,
    /// From 1.
    pub line: u64,
}

/// A place in a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePlace {
    /// As the message names it.
    pub file: String,
    /// From 1, if it is named.
    pub line: Option<u64>,
}

/// How much to trust a diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// The message says exactly this.
    Certain,
    /// The message most often means this.
    Likely,
    /// No rule knows the message.
    Unknown,
}
