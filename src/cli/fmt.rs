//! `smidr fmt`: one style for a config; comments stay.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::ExitCode};

use pretty_yaml::{
    config::{FormatOptions, Quotes},
    format_text,
};

use super::{
    exchange_args::Fmt,
    output::talk,
    report::{Done, Failure, Refused},
};
use crate::{
    config::{Problems, node::Node},
    model::Hint,
    project::ProjectError,
    system::files::{FileError, read_text, shell, write_atomically},
};

/// Runs the command.
pub(super) fn fmt(file: &Path, args: &Fmt) -> Done {
    let files = if args.files.is_empty() { vec![file.to_path_buf()] } else { args.files.clone() };
    let mut differ = Vec::new();
    for file in &files {
        let text = read_text(file)?;
        let styled = styled(file, &text)?;
        if styled == text {
            continue;
        }
        if !args.check {
            let real = std::fs::canonicalize(file).map_err(FileError::new("find", file))?;
            let mode = std::fs::metadata(&real).map_or(0o644, |meta| meta.permissions().mode() & 0o777);
            write_atomically(&real, styled.as_bytes(), mode)?;
            talk(format!("formatted  {}", file.display()));
        }
        differ.push(file);
    }
    match differ.first().filter(|_| args.check) {
        None => Ok(ExitCode::SUCCESS),
        Some(first) => {
            let what = format!("{} of {} files are written in another style", differ.len(), files.len());
            Err(Refused::new(what, [Hint::command("such as", format!("smidr fmt {}", shell(first)))]).into())
        }
    }
}

/// A text in our style. What it says is the same, and each comment belongs to what it belonged to.
fn styled(file: &Path, text: &str) -> Result<String, Failure> {
    let read = |text: &str| {
        let problems = |problem| Problems {
            file: file.display().to_string(),
            text: text.into(),
            further: None,
            list: vec![problem],
        };
        Node::parse(text).map_err(|problem| ProjectError::from(Box::new(problems(problem))))
    };
    let before = read(text)?;
    let mut options = FormatOptions::default();
    options.layout.print_width = 120;
    options.language.brace_spacing = false;
    options.language.quotes = Quotes::PreferDouble;
    let styled = format_text(text, &options);
    let styled = styled.map_err(|error| Refused::new(format!("{}: {error}", file.display()), None))?;
    let refused = |why: String, hint: &str| Refused::new(format!("{}: {why}", file.display()), [Hint::new(hint)]);
    if !before.says_the_same(&read(&styled)?) {
        let blanks = text.lines().position(|line| line.ends_with([' ', '\t'])).map(|at| at + 1);
        let why = match blanks {
            Some(line) => format!("line {line} ends with blanks, which a formatter would take away"),
            None => "it cannot be formatted without changing what it says".into(),
        };
        return Err(refused(why, "write the text in quotes, or without blanks at the ends of lines").into());
    }
    // The formatter puts a comment at the end of a mapping behind it.
    if let Some(line) = moved_comment(text, &styled) {
        let why = format!("the comment in line {line} would leave the mapping that it stands in");
        return Err(refused(why, "put it above a key of that mapping").into());
    }
    Ok(styled)
}

/// The line of the first comment on a line of its own that was indented, and is no more.
fn moved_comment(before: &str, after: &str) -> Option<usize> {
    let comments = |text: &str| -> Vec<(usize, bool)> {
        let lines = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with('#'));
        lines.map(|(at, line)| (at + 1, line.starts_with([' ', '\t']))).collect()
    };
    let after = comments(after);
    let moved = comments(before).into_iter().zip(after).find(|((_, was), (_, is))| *was && !is);
    moved.map(|((line, _), _)| line)
}
