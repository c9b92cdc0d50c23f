//! `smidr completions`: for the shells that people use.

use std::process::ExitCode;

use clap::CommandFactory as _;

use super::{
    args::{Cli, Completions},
    output::say_block,
    report::Done,
};

/// Runs the command.
pub(super) fn completions(args: &Completions) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "smidr", &mut script);
    say_block(String::from_utf8_lossy(&script).trim_end());
    Ok(ExitCode::SUCCESS)
}
