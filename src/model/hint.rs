//! What to do about a failure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A hint as fields, so that a client far away can offer it as well as a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// When to do it, or what for.
    pub text: String,
    /// What to do, if it is as short as that.
    #[serde(flatten)]
    pub action: Option<Action>,
    /// The file that lines of a config belong in, if it is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Something to type or to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A command line for a shell.
    Command(String),
    /// Lines for `smidr.yaml` or a rootfs recipe.
    Config(String),
    /// The address of a page.
    Page(String),
}

impl Hint {
    /// What to do, in words.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), action: None, file: None }
    }

    /// A command, and when or what for.
    pub fn command(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self { text: text.into(), action: Some(Action::Command(command.into())), file: None }
    }

    /// Lines of a config, and when or what for.
    pub fn config(text: impl Into<String>, lines: impl Into<String>) -> Self {
        Self { text: text.into(), action: Some(Action::Config(lines.into())), file: None }
    }

    /// Lines of a file, and when or what for.
    pub fn config_in(text: impl Into<String>, lines: impl Into<String>, file: impl Into<String>) -> Self {
        Self { file: Some(file.into()), ..Self::config(text, lines) }
    }

    /// A page, and what it tells.
    pub fn page(text: impl Into<String>, address: impl Into<String>) -> Self {
        Self { text: text.into(), action: Some(Action::Page(address.into())), file: None }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(file) = &self.file {
            write!(f, " ({file})")?;
        }
        match &self.action {
            None => Ok(()),
            Some(Action::Config(lines)) if lines.contains('\n') => write!(f, ":\n{lines}"),
            Some(Action::Command(action) | Action::Config(action) | Action::Page(action)) => write!(f, ":  {action}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_survives_a_document_and_reads_well() {
        for (hint, words) in [
            (Hint::command("free some space", "df -h"), "free some space:  df -h"),
            (Hint::config("where commands need one", "network: true"), "where commands need one:  network: true"),
            (Hint::config("add a layer", "layers:\n- name: a"), "add a layer:\nlayers:\n- name: a"),
            (Hint::config_in("add", "A = \"b\"", "local.conf"), "add (local.conf):  A = \"b\""),
            (Hint::page("see", "https://example.com/x"), "see:  https://example.com/x"),
            (Hint::new("choose another name"), "choose another name"),
        ] {
            assert_eq!(hint.to_string(), words);
            let json = serde_json::to_string(&hint).expect("JSON");
            assert_eq!(serde_json::from_str::<Hint>(&json).expect(&json), hint);
        }
    }
}
