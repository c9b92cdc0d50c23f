//! What of a configuration of bitbake-setup is not chosen yet: asked on a terminal. Without one, the command fails and says what there is.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::{Path, PathBuf},
};

use super::{context, output, report::Failure};
use crate::{
    bitbake_setup::Question,
    project::{SetupFiles, SetupRead, is_setup},
};

/// Of targets, the first that names a configuration, with the choice behind it, as a path.
pub(super) fn take_out(targets: &mut Vec<String>) -> Option<PathBuf> {
    let named = |at: usize| {
        let words = targets.get(at..).unwrap_or_default();
        let whole = PathBuf::from(words.join(":"));
        (is_setup(&whole) && words.first().is_some_and(|first| !first.ends_with(".yaml"))).then_some((at, whole))
    };
    let (at, whole) = (0..targets.len()).find_map(named)?;
    targets.truncate(at);
    Some(whole)
}

/// Asks for what is open.
pub(super) fn choose(mut config: PathBuf) -> Result<PathBuf, Failure> {
    let asks = io::stdin().is_terminal() && io::stderr().is_terminal();
    // A smidr.yaml says itself what is chosen.
    let is_own = config.extension().is_some_and(|ending| ending == "yaml");
    if !asks || is_own || !is_setup(&config) {
        return Ok(config);
    }
    let facts = context::gather();
    while let SetupRead::Open(question) = SetupFiles::of(&config)?.read(&facts)? {
        let Some(answer) = ask(&question) else { break };
        config = with_answer(&config, &question, &answer);
    }
    Ok(config)
}

/// The configuration comes first.
fn with_answer(config: &Path, question: &Question, answer: &str) -> PathBuf {
    let mut text = config.display().to_string();
    // A single configuration needs no name until something follows it.
    let has_name = text.split(':').nth(1).is_some();
    if let (false, Some(name)) = (has_name, &question.before.configuration) {
        text = format!("{text}:{name}");
    }
    format!("{text}:{answer}").into()
}

fn ask(question: &Question) -> Option<String> {
    output::talk(format!("{}:", question.what));
    for (at, (name, about)) in question.answers.iter().enumerate() {
        output::talk(format!("  {}  {name}  {about}", at + 1));
    }
    loop {
        output::ask("number or name:");
        let mut answer = String::new();
        if io::stdin().lock().read_line(&mut answer).ok()? == 0 {
            return None;
        }
        let answer = answer.trim();
        let at = answer.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        let by_number = at.and_then(|at| question.answers.get(at));
        let found = by_number.or_else(|| question.answers.iter().find(|(name, _)| name == answer));
        if let Some((name, _)) = found {
            return Some(name.clone());
        }
    }
}
