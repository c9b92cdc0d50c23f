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
}

/// Something to type or to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A command line for a shell.
    Command(String),
    /// A line for `smidr.yaml` or a rootfs recipe.
    Config(String),
    /// The address of a page.
    Page(String),
}

impl Hint {
    /// A hint that is a command.
    pub fn command(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self { text: text.into(), action: Some(Action::Command(command.into())) }
    }
}

/// Errors word their hints as `text:  action`, see [`super::UserError::hint`].
impl From<String> for Hint {
    fn from(hint: String) -> Self {
        let Some((text, action)) = hint.split_once(":  ") else { return Self { text: hint, action: None } };
        let is_key = |text: &str| {
            let key = text.trim_end_matches('\n').split(": ").next().unwrap_or_default().trim_end_matches(':');
            key.len() < text.len()
                && !key.is_empty()
                && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        let action = match action {
            page if page.starts_with("https://") => Action::Page(page.into()),
            line if is_key(line) => Action::Config(line.into()),
            command => Action::Command(command.into()),
        };
        Self { text: text.into(), action: Some(action) }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            None => f.write_str(&self.text),
            Some(Action::Command(action) | Action::Config(action) | Action::Page(action)) => {
                write!(f, "{}:  {action}", self.text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_errors_become_fields_and_words_again() {
        for (words, action) in [
            ("free some space:  df -h", Some(Action::Command("df -h".into()))),
            ("where commands need one:  network: true", Some(Action::Config("network: true".into()))),
            ("name what is used:  sublayers: {include: [a]}", Some(Action::Config("sublayers: {include: [a]}".into()))),
            ("see:  https://example.com/x", Some(Action::Page("https://example.com/x".into()))),
            ("choose another name", None),
        ] {
            let hint = Hint::from(words.to_owned());
            assert_eq!((&hint.action, hint.to_string().as_str()), (&action, words));
            let json = serde_json::to_string(&hint).expect("JSON");
            assert_eq!(serde_json::from_str::<Hint>(&json).expect(&json), hint);
        }
    }
}
