//! A summary in Markdown, as the page of a run on GitHub shows it. A pure function. Text of others stands in code spans and blocks, or with
//! every sign of punctuation escaped.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    super::output::{bytes, duration},
    told::{End, Failed, Told, line, lines},
};
use crate::model::{Action, Hint};

/// How much is listed; GitHub takes 1 MiB of a step.
const MOST_FAILURES: usize = 20;
const MOST_FILES: usize = 30;
const MOST_WARNINGS: usize = 60;

/// How many recipes are named that warn.
const NAMED: usize = 5;

/// The text.
pub(super) fn of(told: &[Told]) -> String {
    told.iter().map(build).collect()
}

fn build(told: &Told) -> String {
    let state = told.state.map(|state| format!(": {state}")).unwrap_or_default();
    let mut text = format!("## {}{state}\n\n", words(&told.name));
    if told.state.is_some() {
        let failed = told.recipes.iter().filter(|recipe| recipe.end == End::Bad).count();
        let mut tasks = format!("{} run, {} from sstate", told.ran, told.restored);
        if failed > 0 {
            let _ = write!(tasks, "; {failed} recipes failed");
        }
        let rows = [
            ("target", cell(&told.targets.join(" "))),
            ("machine", cell(&told.machine)),
            ("took", duration(told.took_ms)),
            ("tasks", tasks),
        ];
        text.push_str("| | |\n|---|---|\n");
        rows.iter().for_each(|(name, value)| _ = writeln!(text, "| {name} | {value} |"));
        text.push('\n');
    }
    told.failures.iter().take(MOST_FAILURES).for_each(|one| failure(&mut text, one));
    let more = told.failures.len().saturating_sub(MOST_FAILURES);
    if more > 0 {
        let _ = writeln!(text, "{more} more failures.\n");
    }
    warnings(&mut text, told);
    files(&mut text, told);
    text
}

fn warnings(text: &mut String, told: &Told) {
    if told.warnings.is_empty() {
        return;
    }
    text.push_str("| warnings | kind | new | where |\n|---|---|---|---|\n");
    for group in told.warnings.iter().take(MOST_WARNINGS) {
        let names = group.places.iter().filter_map(|place| place.recipe.as_deref());
        let names: BTreeSet<&str> = names.collect();
        let more = if names.len() > NAMED { ", …" } else { "" };
        let names = format!("{}{more}", names.into_iter().take(NAMED).collect::<Vec<_>>().join(", "));
        let _ = writeln!(text, "| {} | {} | {} | {} |", group.count, cell(&group.kind), group.new, cell(&names));
    }
    text.push('\n');
}

fn failure(text: &mut String, failed: &Failed) {
    let _ = writeln!(text, "### {}\n", words(&failed.title()));
    let evidence: Vec<String> = failed.evidence().collect();
    let _ = writeln!(text, "{}\n", words(&failed.why.cause));
    if let Some((file, number)) = &failed.place {
        let _ = writeln!(text, "{}\n", code(&format!("{file}:{number}")));
    }
    if !evidence.is_empty() {
        let _ = writeln!(text, "{}\n", block(&evidence.join("\n")));
    }
    for Hint { text: what, action, file } in &failed.why.next {
        let file = file.as_ref().map(|file| format!(" ({})", code(file))).unwrap_or_default();
        let _ = match action {
            None => writeln!(text, "- {}{file}", words(what)),
            Some(Action::Config(config)) if config.contains('\n') => {
                writeln!(text, "- {}{file}:\n\n{}\n", words(what), block(&lines(config)))
            }
            Some(Action::Command(action) | Action::Config(action) | Action::Page(action)) => {
                writeln!(text, "- {}{file}: {}", words(what), code(action))
            }
        };
    }
    text.push('\n');
}

fn files(text: &mut String, told: &Told) {
    let (count, size) = told.kept;
    if count == 0 {
        return;
    }
    let _ = writeln!(text, "{count} artifacts, {}\n", bytes(size));
    if told.files.is_empty() {
        return;
    }
    text.push_str("| file | size |\n|---|---|\n");
    for (path, size) in told.files.iter().take(MOST_FILES) {
        let _ = writeln!(text, "| {} | {} |", cell(&path.display().to_string()), bytes(*size));
    }
    let more = count.saturating_sub(told.files.len().min(MOST_FILES) as u64);
    if more > 0 {
        let _ = writeln!(text, "| {more} more | |");
    }
    text.push('\n');
}

/// A line of text that is nothing but text: CommonMark takes a backslash before any punctuation of ASCII.
fn words(text: &str) -> String {
    let mut out = String::new();
    for c in line(text).trim_start().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Else GitHub would make links of names and addresses of mail.
            '@' => out.push_str("&#64;"),
            c if c.is_ascii_punctuation() => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// A line of code in a table, where a `|` would end the cell even in code.
fn cell(text: &str) -> String {
    code(text).replace('|', "\\|")
}

/// A line of code.
fn code(text: &str) -> String {
    let text = line(text);
    let fence = "`".repeat(longest_run(&text) + 1);
    match text.trim().is_empty() {
        true => String::new(),
        false => format!("{fence} {text} {fence}"),
    }
}

/// A block of code.
fn block(text: &str) -> String {
    let fence = "`".repeat(longest_run(text).max(2) + 1);
    format!("{fence}text\n{text}\n{fence}")
}

/// The longest run of backticks.
fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or_default()
}
