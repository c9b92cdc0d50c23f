//! What every error of smidr can say about itself.

use serde::{Deserialize, Serialize};

use super::Hint;

/// Who has to act on an error. Decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The build itself failed (exit code 1).
    Build,
    /// The build has warnings that the request does not allow (1).
    Warning,
    /// The request is wrong: usage, config, a name that does not exist (2).
    Request,
    /// This host cannot: kernel, permissions, disk (3).
    Host,
    /// Something outside failed: network, registry, mirror (4).
    Outside,
    /// It was stopped on request (130).
    Cancelled,
}

impl Kind {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Build | Self::Warning => 1,
            Self::Request => 2,
            Self::Host => 3,
            Self::Outside => 4,
            Self::Cancelled => 130,
        }
    }

    /// The kind that another smidr has ended with.
    pub fn of_exit_code(code: i32) -> Option<Self> {
        let all = [Self::Build, Self::Request, Self::Host, Self::Outside, Self::Cancelled];
        all.into_iter().find(|kind| i32::from(kind.exit_code()) == code)
    }

    /// An I/O error is the host's fault: a full disk, a missing permission. This is the one place that says so.
    pub fn of_io(_: &std::io::Error) -> Self {
        Self::Host
    }
}

/// An error that knows who must act, and what to type.
pub trait UserError: std::error::Error {
    /// Decides the exit code.
    fn kind(&self) -> Kind;

    /// What to do next.
    fn hints(&self) -> Vec<Hint> {
        Vec::new()
    }

    /// It and its causes, on one line.
    fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    /// All hints as text.
    #[cfg(test)]
    fn hint(&self) -> Option<String> {
        let lines: Vec<String> = self.hints().iter().map(Hint::to_string).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// The lines of a document that are wrong, with carets; shown above the error. `colour` for terminals.
    fn drawn(&self, _colour: bool) -> Option<String> {
        None
    }
}
