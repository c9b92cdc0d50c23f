//! Errors meet the user here, and only here: what failed, why, what to type, and the exit code.

use std::process::ExitCode;

use super::{
    context,
    output::{quoted, talk, watched},
};
use crate::{events::Redactor, model::Explain};

/// An error of any module, on its way to the user.
pub type Failure = Box<dyn Explain + Send + Sync>;

/// What a command returns.
pub type Done = Result<ExitCode, Failure>;

impl<E: Explain + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Box::new(error)
    }
}

/// Prints an error with its causes and its hint.
pub fn report(failure: &Failure) -> ExitCode {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let cyan = anstyle::AnsiColor::Cyan.on_default().bold();
    // A library's error may quote the address of a proxy, password included.
    let redactor = Redactor::new(&context::secrets(&context::environment()));
    let talk = |line: String| talk(redactor.text(&line));
    if let Some(drawn) = failure.drawn(watched()) {
        talk(drawn);
    }
    talk(format!("{red}error:{red:#} {}", quoted(failure)));
    let mut cause = failure.source();
    while let Some(error) = cause {
        talk(format!("{red}caused by:{red:#} {}", quoted(error)));
        cause = error.source();
    }
    if let Some(hint) = failure.hint() {
        talk(format!("{cyan}hint:{cyan:#} {}", quoted(hint)));
    }
    ExitCode::from(failure.kind().exit_code())
}

/// A request that cannot be served, where no other module has a word for it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Refused {
    what: String,
    hint: Option<String>,
}

impl Refused {
    /// Says what is wrong with a request, and what to type instead.
    pub fn new(what: impl Into<String>, hint: Option<String>) -> Self {
        Self { what: what.into(), hint }
    }
}

impl Explain for Refused {
    fn kind(&self) -> crate::model::Kind {
        crate::model::Kind::Request
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
