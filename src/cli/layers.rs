//! `smidr layers`: the repositories that layers come from.

use std::path::Path;

use super::{args::Layers, report::Done};

/// Runs the command.
pub fn layers(file: &Path, command: &Layers) -> Done {
    let _ = (file, command);
    Ok(std::process::ExitCode::SUCCESS)
}
