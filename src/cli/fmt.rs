//! `smidr fmt`: one style for a config; comments stay.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::ExitCode};

use pretty_yaml::{
    config::{FormatOptions, Quotes},
    format_text,
};

use super::{
    exchange_args::Fmt,
    output::talk,
    report::{Done, Refused},
};
use crate::{
    model::Hint,
    system::files::{FileError, read_text, shell, write_atomically},
};

/// Runs the command.
pub(super) fn fmt(file: &Path, args: &Fmt) -> Done {
    let files = if args.files.is_empty() { vec![file.to_path_buf()] } else { args.files.clone() };
    let mut differ = Vec::new();
    for file in &files {
        let text = read_text(file)?;
        let styled = styled(&text).map_err(|why| Refused::new(format!("{}: {why}", file.display()), None))?;
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

/// A text in our style. What it says is the same.
fn styled(text: &str) -> Result<String, String> {
    let mut options = FormatOptions::default();
    options.layout.print_width = 120;
    options.language.brace_spacing = false;
    options.language.quotes = Quotes::PreferDouble;
    let styled = format_text(text, &options).map_err(|error| error.to_string())?;
    // A formatter that changes a value would change a build.
    let read = |text: &str| crate::config::node::Node::parse(text).map_err(|problem| problem.title);
    let same = read(text)?.says_the_same(&read(&styled)?);
    if same { Ok(styled) } else { Err("it cannot be formatted without changing what it says".into()) }
}
