//! `smidr cancel`: stops a build of another smidr process.

use std::process::ExitCode;

use super::{args::Cancel, context, output::talk, report::Done};
use crate::{service::LocalService, system::paths};

/// Runs the command.
pub(super) fn cancel(args: &Cancel) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let build = LocalService::new(&paths).cancel(&args.id, args.force)?;
    // It may have come to its end while it was being asked.
    talk(format!("{} {}", build.id, build.state));
    Ok(ExitCode::SUCCESS)
}
