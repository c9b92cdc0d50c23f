//! One finding, and its display: a line of a table, with remedies below the table.

use serde::Serialize;

use crate::{
    cli::output::{say, say_block},
    sandbox::{Obstacle, Remedy},
};

/// The column of a finding's text.
const INDENT: usize = 24;

/// The longest line, except for commands.
const WIDTH: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// Works.
    Good,
    /// Works with restrictions, or may not work.
    Doubtful,
    /// Builds cannot work.
    Broken,
}

/// The result of one check.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub name: &'static str,
    pub verdict: Verdict,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(flatten)]
    diagnosis: Option<Diagnosis>,
}

/// Why a step failed, and what to do.
#[derive(Debug, Serialize)]
struct Diagnosis {
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
    cause: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy_user: Option<Remedy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy_admin: Option<Remedy>,
}

impl Finding {
    pub(super) fn good(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Verdict::Good, text)
    }

    pub(super) fn doubtful(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Verdict::Doubtful, text)
    }

    pub(super) fn broken(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Verdict::Broken, text)
    }

    fn new(name: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self { name, verdict, text: text.into(), hint: None, diagnosis: None }
    }

    /// What to do, in one line; a command stands between two pairs of spaces.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The cause, with the name of the kernel's errno.
    pub(super) fn obstacle(self, errno: Option<String>, obstacle: Obstacle) -> Self {
        let hint = Some(obstacle.hint());
        let Obstacle { cause, remedy_user, remedy_admin } = obstacle;
        Self {
            hint: hint.map(|hint| hint.to_string()),
            diagnosis: Some(Diagnosis { errno, cause, remedy_user, remedy_admin }),
            ..self
        }
    }
}

/// Shows a finding as a line of the table, wrapped where it is long.
pub(super) fn show(finding: &Finding) {
    let word = match finding.verdict {
        Verdict::Good => "good",
        Verdict::Doubtful => "doubtful",
        Verdict::Broken => "BROKEN",
    };
    let head = format!("{:<13} {word:<9} ", finding.name);
    // The remedies of an obstacle include its hint and are shown below the table.
    let below = finding.diagnosis.as_ref().map(|diagnosis| &diagnosis.cause).or(finding.hint.as_ref());
    let lines = wrap(&finding.text).into_iter().chain(below.map(|text| wrap(text)).unwrap_or_default());
    for (number, line) in lines.enumerate() {
        if number == 0 { say(format!("{head}{line}")) } else { say(format!("{:<INDENT$}{line}", "")) }
    }
}

/// Shows the remedies of a finding: commands begin in the first column, so that they can be copied as they are.
pub(super) fn show_remedies(finding: &Finding) {
    let Some(diagnosis) = &finding.diagnosis else { return };
    let user = diagnosis.remedy_user.as_ref().map(|remedy| (format!("You can {}", remedy.how), remedy));
    let admin = diagnosis.remedy_admin.as_ref().map(|remedy| {
        let how = remedy.how.strip_prefix("as administrator").map(str::to_owned);
        (format!("As administrator{}", how.unwrap_or_else(|| format!(", {}", remedy.how))), remedy)
    });
    for (how, Remedy { lines, .. }) in user.into_iter().chain(admin) {
        match lines.is_empty() {
            true => say_block(&format!("\n{how}.")),
            false => say_block(&format!("\n{how}:\n")),
        }
        // A command may have several lines.
        lines.iter().for_each(|line| say_block(line));
    }
}

/// Wraps text behind the indent. A command stands between two pairs of spaces and stays whole.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for (number, part) in text.split("  ").enumerate() {
        // Text, a command, text again.
        let typed = number % 2 == 1;
        let words: Vec<&str> = if typed { vec![part] } else { part.split(' ').collect() };
        for (at, word) in words.into_iter().enumerate() {
            let gap = if at == 0 && number > 0 { "  " } else { " " };
            match lines.last_mut() {
                Some(line) if line.is_empty() => line.push_str(word),
                Some(line) if INDENT + width(line) + gap.len() + width(word) <= WIDTH => {
                    line.push_str(gap);
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
    }
    lines
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_broken_and_commands_are_not() {
        assert_eq!(wrap("short"), ["short"]);
        assert_eq!(wrap("type this:  a b  or  c d"), ["type this:  a b  or  c d"]);
        let command = "x ".repeat(40).trim_end().to_owned();
        let lines = wrap(&format!("{} as administrator:  {command}  and be glad", "word ".repeat(20).trim_end()));
        assert!(lines.iter().all(|line| line.len() <= WIDTH - INDENT || *line == command), "{lines:#?}");
        assert!(lines.contains(&command), "{lines:#?}");
        assert_eq!(lines.join(" ").split_whitespace().count(), 20 + 2 + 40 + 3);
    }

    #[test]
    fn the_keys_of_a_document() {
        let keys = |finding: &Finding| {
            let value = serde_json::to_value(finding).expect("JSON");
            value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&Finding::good("space", "much")), ["name", "text", "verdict"]);
        let obstacle = Obstacle {
            cause: "a sysctl".into(),
            remedy_user: None,
            remedy_admin: Some(Remedy::new("as administrator", ["sysctl -w a=1"])),
        };
        let finding = Finding::broken("sandbox", "the sandbox cannot").obstacle(Some("EPERM".into()), obstacle);
        assert_eq!(keys(&finding), ["cause", "errno", "hint", "name", "remedy_admin", "text", "verdict"]);
        assert_eq!(finding.hint.as_deref(), Some("a sysctl; as administrator:  sysctl -w a=1"));
    }
}
