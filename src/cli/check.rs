//! `smidr check`: every problem of the config and of its variants at once.

use std::{collections::HashSet, path::Path, process::ExitCode};

use super::{
    args::{Check, Grant},
    context::{self, default_wanted},
    output::{talk, talk_block, talk_lines, watched},
    report::{Done, Failure, report},
    trust,
};
use crate::{
    layers,
    model::{Paths, SystemFacts},
    project::{Project, ProjectError, trust::Given},
    recipes,
    system::paths,
};

/// Runs the command.
pub(super) fn check(file: &Path, grant: &Grant, args: &Check) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let given = trust::given(&facts, grant);
    let mut checked =
        Checked { given, file, facts: &facts, paths: &paths, said: HashSet::new(), code: ExitCode::SUCCESS };
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
    given: Given,
    facts: &'a SystemFacts,
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
        let judged = match trust::judge(&project, &default_wanted(variant), self.facts, self.paths, &self.given) {
            Ok(judged) => judged,
            Err(failure) => {
                self.wrong(&failure);
                return names(&project);
            }
        };
        let plan = &judged.plan;
        for ask in trust::lines(&judged) {
            if self.said.insert(ask.clone()) {
                talk(format!("asks: {ask}"));
            }
        }
        if !judged.refused.is_empty() && self.said.insert(judged.digest().to_string()) {
            talk(format!("to grant them:  smidr trust    in CI, for exactly these:  --trust={}", judged.digest()));
        }
        if let Some(drawn) = project.drawn_warnings(watched()).filter(|drawn| self.said.insert(drawn.clone())) {
            talk_block(&drawn);
        }
        for warning in plan.warnings.iter().filter(|warning| !project.draws(warning)) {
            if self.said.insert(warning.clone()) {
                talk_lines(format!("warning: {warning}"));
            }
        }
        // What only this machine knows. One missing folder does not hide the next.
        for error in layers::missing(plan) {
            self.wrong(&error.into());
        }
        if plan.host.recipe
            && let Err(error) = recipes::planned(plan, self.paths)
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
