//! `smidr cancel`: stops a build of another smidr process.

use std::{path::Path, process::ExitCode};

use super::{
    args::Cancel,
    context,
    output::talk,
    report::{Done, Refused},
};
use crate::{
    model::Hint,
    project::{is_kas, is_setup},
    service::{BuildService as _, LocalService},
    system::paths,
};

/// Runs the command.
pub(super) fn cancel(config: &Path, args: &Cancel) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let service = LocalService::new(&paths);
    // The newest of all is good enough to look at, and no more.
    if args.id.is_none() && !config.exists() && !is_kas(config) && !is_setup(config) {
        let hint = Hint::command("name the build; those that run", "smidr status");
        return Err(Refused::new("there is no project here, and no build is named", [hint]).into());
    }
    let build = context::named_or_newest(&service, args.id.as_deref(), config, &facts)?;
    let build = if args.id.is_none() { service.or_running(build)? } else { build };
    let build = service.cancel(build.id.as_str(), args.force)?;
    // It may have come to its end while it was being asked.
    talk(format!("{} {}", build.id, build.state));
    Ok(ExitCode::SUCCESS)
}
