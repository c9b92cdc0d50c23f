//! `smidr completions`: a script for a shell, which asks smidr itself at each press of the key. What it is asked then is answered here, in silence
//! whatever is wrong.

use std::{
    env,
    ffi::OsString,
    path::{Component, Path},
    process::ExitCode,
};

use clap::CommandFactory as _;
use clap_complete::{engine, env::Shells};

use super::{
    args::{Cli, Completions},
    candidates,
    output::{print_bytes, say_block},
    report::{Done, Refused},
};
use crate::system::files::shell;

/// Names the shell that asks.
const ASKED_BY: &str = "SMIDR_COMPLETE";

/// For bash, which takes words apart at `:` and `=`: which of its words is to be completed.
const INDEX: &str = "SMIDR_COMPLETE_INDEX";

/// What the library has for bash loses the colon in `RECIPE:TASK`, and expands `*` in names.
const BASH: &str = r#"_smidr() {
    local words=("${COMP_WORDS[@]}")
    [[ ${words[COMP_CWORD]} == [:=]* ]] || words[COMP_CWORD]=$2
    mapfile -t COMPREPLY < <(SMIDR_COMPLETE=bash SMIDR_COMPLETE_INDEX=$COMP_CWORD @SMIDR@ -- "${words[@]}" 2>/dev/null)
    [[ ${COMPREPLY[0]} == *[=/:] ]] && compopt -o nospace
}
complete -o nosort -F _smidr smidr 2>/dev/null || complete -F _smidr smidr"#;

/// Runs the command.
pub(super) fn completions(args: &Completions) -> Done {
    let me = me();
    if args.shell == clap_complete::Shell::Bash {
        say_block(&BASH.replace("@SMIDR@", &shell(Path::new(&me))));
        return Ok(ExitCode::SUCCESS);
    }
    let mut script = Vec::new();
    let asks = Shells::builtins()
        .completer(&args.shell.to_string())
        .is_some_and(|shell| shell.write_registration(ASKED_BY, "smidr", "smidr", &me, &mut script).is_ok());
    if !asks {
        return Err(Refused::new(format!("there are no completions for {}", args.shell), None).into());
    }
    say_block(String::from_utf8_lossy(&script).trim());
    Ok(ExitCode::SUCCESS)
}

/// How the script calls smidr: as it was called, or by its path if it was not found in PATH.
fn me() -> String {
    let called = env::args_os().next().unwrap_or_default();
    let is_name = Path::new(&called).components().filter(|part| !matches!(part, Component::CurDir)).count() == 1
        && !called.as_encoded_bytes().contains(&b'/');
    let path = if is_name { "smidr".into() } else { env::current_exe().unwrap_or_else(|_| called.into()) };
    path.display().to_string()
}

/// Answers a shell, if it is one that asks.
pub(super) fn answer() -> Option<ExitCode> {
    let name = env::var(ASKED_BY).ok().filter(|name| !name.is_empty())?;
    // What stands before `--` is smidr itself.
    let words: Vec<OsString> = env::args_os().skip_while(|word| word != "--").skip(1).collect();
    candidates::remember(&words);
    let mut command = Cli::command();
    command.build();
    let mut answer = Vec::new();
    if name == "bash" {
        answer = for_bash(&mut command, &words).unwrap_or_default();
    } else if let Some(shell) = Shells::builtins().completer(&name) {
        // What was written before an error is no answer.
        let here = env::current_dir().ok();
        if words.is_empty() || shell.write_complete(&mut command, words, here.as_deref(), &mut answer).is_err() {
            answer.clear();
        }
    }
    print_bytes(&answer);
    Some(ExitCode::SUCCESS)
}

fn for_bash(command: &mut clap::Command, words: &[OsString]) -> Option<Vec<u8>> {
    let index = env::var(INDEX).ok()?.parse().ok()?;
    let (words, index, before) = joined(words, index)?;
    let is_empty = words.get(index).is_none_or(|word| word.is_empty());
    let mut candidates = engine::complete(command, words, index, env::current_dir().ok().as_deref()).ok()?;
    // Where nothing is typed yet, options would hide what can stand there.
    let is_option = |one: &engine::CompletionCandidate| one.get_value().as_encoded_bytes().starts_with(b"-");
    if is_empty && !candidates.iter().all(is_option) {
        candidates.retain(|one| !is_option(one));
    }
    let line = |candidate: engine::CompletionCandidate| {
        let text = candidate.get_value().to_str()?.strip_prefix(before.as_str())?.to_owned();
        Some(format!("{}\n", escaped(&text)))
    };
    Some(candidates.into_iter().filter_map(line).collect::<String>().into_bytes())
}

/// The words as they were typed, which of them is to be completed, and what of it bash takes for words before.
fn joined(words: &[OsString], index: usize) -> Option<(Vec<OsString>, usize, String)> {
    let mut all: Vec<OsString> = Vec::new();
    let (mut wanted, mut goes_on) = (None, false);
    for (number, word) in words.iter().enumerate() {
        let is_break = word == ":" || word == "=";
        let before = match all.last_mut().filter(|_| goes_on || is_break) {
            Some(last) => {
                let before = last.clone();
                last.push(word);
                before
            }
            None => {
                all.push(word.clone());
                OsString::new()
            }
        };
        if number == index {
            let before = if is_break { all.last()? } else { &before };
            wanted = Some((all.len() - 1, before.to_str()?.to_owned()));
        }
        goes_on = is_break;
    }
    let (at, before) = wanted?;
    Some((all, at, before))
}

/// As bash reads it.
fn escaped(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,~".contains(c);
    text.chars().flat_map(|c| (!is_plain(c)).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_was_typed() {
        for (line, index, words, at, before) in [
            ("smidr logs --task r", 3, "smidr logs --task r", 3, ""),
            ("smidr logs --task r :", 4, "smidr logs --task r:", 3, "r:"),
            ("smidr logs --task r : do_c", 5, "smidr logs --task r:do_c", 3, "r:"),
            ("smidr logs --task = r : do_c -f", 6, "smidr logs --task=r:do_c -f", 2, "--task=r:"),
            ("smidr logs --task =", 3, "smidr logs --task=", 2, "--task="),
        ] {
            let split = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert_eq!(joined(&split(line), index), Some((split(words), at, before.into())), "{line}");
        }
        assert_eq!(joined(&[], 3), None);
        assert_eq!(escaped("a b$(c)"), r"a\ b\$\(c\)");
    }
}
