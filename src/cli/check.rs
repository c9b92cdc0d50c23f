//! `smidr check`: every problem of the config and of its variants at once.

use std::{collections::HashSet, path::Path, process::ExitCode};

use super::{
    args::Check,
    context::{self, default_wanted},
    output::talk,
    report::{Done, Failure, report},
};
use crate::{
    engine::recipes,
    host::paths,
    layers,
    model::{HostFacts, Paths},
    project::{Project, ProjectError},
};

/// Runs the command.
pub fn check(file: &Path, args: &Check) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let mut checked = Checked { file, facts: &facts, paths: &paths, said: HashSet::new(), code: ExitCode::SUCCESS };
    let variants = checked.one(args.variant.clone());
    for variant in variants.into_iter().filter(|_| args.variant.is_none()) {
        checked.one(Some(variant));
    }
    if checked.code == ExitCode::SUCCESS {
        talk(format!("{} is good", file.display()));
    }
    Ok(checked.code)
}

struct Checked<'a> {
    file: &'a Path,
    facts: &'a HostFacts,
    paths: &'a Paths,
    // Variants have most in common, and nothing is said twice.
    said: HashSet<String>,
    code: ExitCode,
}

impl Checked<'_> {
    // Gives the names of all variants.
    fn one(&mut self, variant: Option<String>) -> Vec<String> {
        let project = match Project::read(self.file, variant.as_deref(), self.facts) {
            Ok(project) => project,
            Err(error) => {
                if let (ProjectError::Config(_), Some(variant)) = (&error, &variant) {
                    talk(format!("with --variant {variant}:"));
                }
                // Two variants may have the same number of problems, which are not the same.
                self.code = report(&error.into());
                return Vec::new();
            }
        };
        let plan = match project.plan(&default_wanted(variant), self.facts, self.paths) {
            Ok(plan) => plan,
            Err(failure) => {
                self.wrong(&failure.into());
                return names(&project);
            }
        };
        for warning in &plan.warnings {
            if self.said.insert(warning.clone()) {
                talk(format!("warning: {warning}"));
            }
        }
        // What only this machine knows. One missing folder does not hide the next.
        for error in layers::missing(&plan) {
            self.wrong(&error.into());
        }
        if plan.host.recipe
            && let Err(error) = recipes::find(&plan.host.name, &plan.project, self.paths)
        {
            self.wrong(&error.into());
        }
        names(&project)
    }

    fn wrong(&mut self, failure: &Failure) {
        if self.said.insert(failure.to_string()) {
            self.code = report(failure);
        }
    }
}

fn names(project: &Project) -> Vec<String> {
    project.config.variants.iter().map(ToString::to_string).collect()
}
