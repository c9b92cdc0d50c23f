//! `smidr check`: every problem of the config and of its variants at once, as far as it can be known without the network. Changes nothing.

use std::{collections::HashSet, path::Path, process::ExitCode};

use super::{
    args::{Check, Grant},
    context::{self, default_wanted},
    local,
    output::{complain, complain_block, talk, talk_block, talk_lines},
    report::{self, Done, Failure, report},
    trust,
    voice::coloured,
};
use crate::{
    config::{self, Problem},
    engine::{self, Wrong},
    model::{Kind, Paths, SystemFacts, UserError},
    project::{Project, ProjectError, Sources, trust::Given},
    recipes::RecipeError,
    system::paths,
};

/// Runs the command.
pub(super) fn check(file: &Path, grant: &Grant, args: &Check) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let given = trust::given(&facts, grant);
    let sources = Sources::look(file)?;
    let variants = sources.texts.variants();
    let mut checked = Checked { given, sources, facts: &facts, paths: &paths, said: HashSet::new(), kinds: Vec::new() };
    checked.one(args.variant.clone());
    for variant in variants.into_iter().filter(|_| args.variant.is_none()) {
        checked.one(Some(variant));
    }
    // What is wrong with the request is told before what this machine lacks.
    let kind = checked.kinds.iter().find(|kind| **kind == Kind::Request).or(checked.kinds.first());
    Ok(match kind {
        Some(kind) => ExitCode::from(kind.exit_code()),
        None => {
            talk(format!("{} is good", file.display()));
            ExitCode::SUCCESS
        }
    })
}

struct Checked<'a> {
    sources: Sources,
    given: Given,
    facts: &'a SystemFacts,
    paths: &'a Paths,
    // Variants have most in common, and nothing is said twice.
    said: HashSet<String>,
    kinds: Vec<Kind>,
}

impl Checked<'_> {
    fn one(&mut self, variant: Option<String>) {
        let examined = Project::examine(self.sources.clone(), variant.as_deref(), self.facts);
        let (project, wrong) = match examined {
            Ok(examined) => examined,
            Err(error) => return self.wrong(error),
        };
        let mut drawn = Vec::new();
        // A link may lead to what is no config, and errors about its values would quote them.
        let is_read = wrong.is_empty() || !self.sources.is_link;
        for error in wrong {
            match error {
                ProjectError::Config(problems) => {
                    drawn.extend(problems.list.into_iter().map(|problem| (problem, Kind::Request)))
                }
                error => self.wrong(error),
            }
        }
        if let Some(mut project) = project.filter(|_| is_read) {
            for wrong in self.look(&mut project, variant.clone()) {
                match self.problem(&wrong, variant.as_deref()) {
                    Some(problem) => drawn.push(problem),
                    None => self.wrong(wrong.error),
                }
            }
        }
        self.draw(drawn, variant.as_deref());
    }

    /// What is wrong beyond the text itself. Also says what the project asks for, and warns.
    fn look(&mut self, project: &mut Project, variant: Option<String>) -> Vec<Wrong> {
        let wanted = default_wanted(variant);
        let all_layers = project.config.layers.len();
        let mut wrong = match engine::settle(project, &wanted, self.facts, self.paths) {
            Ok(wrong) => wrong,
            Err(error) => {
                self.wrong(error);
                return Vec::new();
            }
        };
        let judged = match trust::judge(project, &wanted, self.facts, self.paths, &self.given) {
            Ok(judged) => judged,
            Err(failure) => {
                self.report(&failure);
                return wrong;
            }
        };
        let (own, warning) = local::lines(project, &self.facts.home);
        own.into_iter().chain(warning.map(|warning| format!("warning: {warning}"))).for_each(|line| self.say(line));
        for ask in trust::lines(&judged) {
            self.say(format!("asks: {ask}"));
        }
        if !judged.refused.is_empty() {
            let digest = judged.digest();
            self.say(format!("to grant them:  smidr trust    in CI, for exactly these:  --trust={digest}"));
        }
        let is_whole = project.config.whole && project.config.layers.len() == all_layers;
        let seen = engine::look(project, &judged.plan, is_whole, self.facts, self.paths);
        if let Some(drawn) = project.drawn_warnings(coloured()).filter(|drawn| self.said.insert(drawn.clone())) {
            talk_block(&drawn);
        }
        let plain = judged.plan.warnings.iter().filter(|warning| !project.draws(warning));
        for warning in plain.chain(&seen.warnings) {
            self.say(format!("warning: {warning}"));
        }
        if !seen.absent.is_empty() {
            self.say(format!("not here yet, so not looked at: {}; to bring them:  smidr lock", seen.absent.join(", ")));
        }
        wrong.extend(seen.wrong);
        wrong
    }

    fn say(&mut self, line: String) {
        if self.said.insert(line.clone()) {
            talk_lines(line);
        }
    }

    /// The place in the config that asks for what is wrong.
    fn problem(&self, wrong: &Wrong, variant: Option<&str>) -> Option<(Problem, Kind)> {
        // A recipe is drawn itself.
        if matches!(&wrong.error, engine::EngineError::Recipe(RecipeError::Wrong(_))) {
            return None;
        }
        let by_keys = || config::place(&self.sources.texts, variant, &wrong.keys);
        let span = wrong.span.clone().or_else(by_keys)?;
        let mut title = wrong.error.to_string();
        let mut cause = std::error::Error::source(&wrong.error);
        while let Some(error) = cause {
            title += &format!(": {error}");
            cause = error.source();
        }
        let hints: Vec<String> = wrong.error.hints().iter().map(ToString::to_string).collect();
        let hint = (!hints.is_empty()).then(|| hints.join("\n"));
        Some((Problem { span, title, hint }, wrong.error.kind()))
    }

    fn draw(&mut self, mut list: Vec<(Problem, Kind)>, variant: Option<&str>) {
        list.retain(|(problem, _)| self.said.insert(format!("{problem:?}")));
        if list.is_empty() {
            return;
        }
        self.kinds.extend(list.iter().map(|(_, kind)| *kind));
        if let Some(variant) = variant {
            complain(format!("with --variant {variant}:"));
        }
        let problems = self.sources.problems(list.into_iter().map(|(problem, _)| problem).collect());
        complain_block(&report::redacted(&problems.render(coloured())));
    }

    fn wrong(&mut self, error: impl UserError + Send + Sync + 'static) {
        self.report(&error.into());
    }

    fn report(&mut self, failure: &Failure) {
        if self.said.insert(format!("{failure}\n{:?}", failure.hints())) {
            self.kinds.push(failure.kind());
            report(failure);
        }
    }
}
