//! Errors meet the user here, and only here: what failed, why, what to type, and the exit code.

use std::process::ExitCode;

use clap::error::ContextValue;

use super::{
    context,
    output::{complain_block, complain_lines, say_block},
    voice::coloured,
};
use crate::{
    config, engine,
    events::Redactor,
    model::{BuildRequest, ConfigPlace, Hint, Kind, Paths, Shown, SystemFacts, UserError},
    project::Project,
};

/// An error of any module, on its way to the user.
pub(super) type Failure = Box<dyn UserError + Send + Sync>;

/// What a command returns.
pub(super) type Done = Result<ExitCode, Failure>;

impl<E: UserError + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Box::new(error)
    }
}

/// Prints an error with its causes and its hints.
pub(super) fn report(failure: &Failure) -> ExitCode {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let cyan = anstyle::AnsiColor::Cyan.on_default().bold();
    let say = |line: String| complain_lines(redacted(&line));
    match failure.drawn(coloured()) {
        // Each problem is an error of its own.
        Some(drawn) => complain_block(&redacted(&drawn)),
        None => say(format!("{red}error:{red:#} {}", failure)),
    }
    let mut cause = failure.source();
    while let Some(error) = cause {
        say(format!("{red}caused by:{red:#} {}", error));
        cause = error.source();
    }
    for hint in failure.hints() {
        say(format!("{cyan}hint:{cyan:#} {}", hint));
    }
    ExitCode::from(failure.kind().exit_code())
}

/// A text without what sounds like a secret in the caller's environment: a library's error may quote the address of a proxy, password
/// included.
pub(super) fn redacted(text: &str) -> String {
    Redactor::new(&context::secrets(&context::environment())).text(text).into_owned()
}

/// Prints what is wrong with a command line, or the help that was asked for.
pub(super) fn usage(error: &mut clap::Error) {
    // A shell's `*` stands for names of files.
    let shown = |text: &String| String::from(Shown::plain(text));
    let values = error.context().filter_map(|(kind, value)| match value {
        ContextValue::String(text) => Some((kind, ContextValue::String(shown(text)))),
        ContextValue::Strings(texts) => Some((kind, ContextValue::Strings(texts.iter().map(shown).collect()))),
        _ => None,
    });
    for (kind, value) in values.collect::<Vec<_>>() {
        error.insert(kind, value);
    }
    let text = error.render().ansi().to_string();
    if error.use_stderr() { complain_block(text.trim_end()) } else { say_block(text.trim_end()) }
}

/// An error with the line of the config that asked for what failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Placed {
    place: ConfigPlace,
    error: Failure,
}

impl UserError for Placed {
    fn kind(&self) -> Kind {
        self.error.kind()
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        let hints: Vec<String> = self.error.hints().iter().map(ToString::to_string).collect();
        let hint = (!hints.is_empty()).then(|| hints.join("\n"));
        let causes = std::iter::successors(self.error.source(), |cause| cause.source());
        let title = causes.fold(self.error.to_string(), |title, cause| format!("{title}: {cause}"));
        Some(config::drawn_at(&self.place, &title, hint.as_deref(), colour))
    }
}

/// An error with the line of the config that asked for what failed, if one did.
pub(super) fn placed(
    error: impl Into<Failure>,
    project: &Project,
    wanted: &BuildRequest,
    facts: &SystemFacts,
    paths: &Paths,
) -> Failure {
    let error = error.into();
    match engine::place(&*error, project, wanted, facts, paths) {
        Some(place) => Placed { place, error }.into(),
        None => error,
    }
}

/// A request that cannot be served, where no other module has a word for it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(super) struct Refused {
    what: String,
    hints: Vec<Hint>,
}

impl Refused {
    /// Says what is wrong with a request, and what to type instead.
    pub(super) fn new(what: impl Into<String>, hints: impl IntoIterator<Item = Hint>) -> Self {
        Self { what: what.into(), hints: hints.into_iter().collect() }
    }
}

impl UserError for Refused {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        self.hints.clone()
    }
}
