//! `smidr check`: every problem of the config at once.

use std::{path::Path, process::ExitCode};

use super::{
    args::Check,
    context::{self, Project, default_wanted},
    output::talk,
    report::{Done, report},
};
use crate::{engine::recipes, host::paths, layers};

/// Runs the command.
pub fn check(file: &Path, args: &Check) -> Done {
    let facts = context::gather();
    let project = match Project::read(file, args.variant.as_deref(), &facts) {
        Ok(project) => project,
        Err(no_project) => return no_project.report(),
    };
    let shared = paths::find(&facts.environment)?;
    let plan = project.plan(&default_wanted(args.variant.clone()), &facts, &shared)?;
    for warning in &plan.warnings {
        talk(format!("warning: {warning}"));
    }
    // What only this machine knows. One missing folder does not hide the next.
    let mut code = ExitCode::SUCCESS;
    for error in layers::missing(&plan) {
        code = report(&error.into());
    }
    if plan.host.recipe
        && let Err(error) = recipes::find(&plan.host.name, &plan.project, &shared)
    {
        code = report(&error.into());
    }
    if code == ExitCode::SUCCESS {
        talk(format!("{} is good", file.display()));
    }
    Ok(code)
}
