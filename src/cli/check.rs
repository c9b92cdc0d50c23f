//! `smidr check`: every problem of the config and of its variants at once, as far as it can be known without the network. Changes nothing.

mod deep;

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    process::ExitCode,
};

use serde::Serialize;

use super::{
    args::{Check, Grant},
    command_context::CommandContext,
    context::{self, default_wanted},
    local,
    output::{Document, complain, complain_block, talk, talk_block, talk_lines},
    report::{self, Done, Failure, report},
    trust,
    voice::coloured,
};
use crate::{
    config::{self, Problem, Problems},
    engine::{self, Judged, Wrong},
    model::{Digest, Kind, Paths, SystemFacts, UserError},
    project::{Project, ProjectError, Sources, trust::Given},
    recipes::RecipeError,
    system::paths,
};

/// Runs the command.
pub(super) fn check(file: &Path, grant: &Grant, args: &Check) -> Done {
    let deep = match args.deep {
        true => {
            let (watch, warnings) = deep::Watch::new();
            Some((CommandContext::watched("check", watch)?, warnings))
        }
        false => None,
    };
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let given = trust::given(&facts, grant);
    let sources = Sources::look(file, &facts)?;
    let variants = sources.texts.variants();
    let told = args.json.then(Told::default);
    let mut checked =
        Checked { given, sources, facts: &facts, paths: &paths, said: HashSet::new(), kinds: Vec::new(), told };
    checked.one(args.variant.clone());
    for variant in variants.into_iter().filter(|_| args.variant.is_none()) {
        checked.one(Some(variant));
    }
    match deep {
        Some((context, warnings)) if checked.kinds.is_empty() => checked.deeply(file, args, context, &warnings),
        Some(_) => checked.say("not parsed with BitBake: a build would not come that far".into()),
        None => {}
    }
    // What is wrong with the request is told before what this machine lacks.
    let kind = checked.kinds.iter().find(|kind| **kind == Kind::Request).or(checked.kinds.first());
    if let Some(told) = &checked.told {
        Document::new().with("good", &kind.is_none())?.with_all(told)?.say();
    }
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
    // What is told to scripts, at the end.
    told: Option<Told>,
}

/// All that there is to say, for scripts.
#[derive(Default, Serialize)]
struct Told {
    problems: Vec<Item>,
    warnings: Vec<Item>,
    asks: Vec<Asked>,
    grants: Vec<Granting>,
    absent: BTreeSet<String>,
    // That the user's own file is in effect.
    local: Option<String>,
    // What was parsed.
    deep: Option<deep::Depth>,
}

/// A problem or a warning.
#[derive(Default, Serialize)]
struct Item {
    title: String,
    // Where the config asks for it, if that is known.
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
    // The overlay of the config, where only that has it.
    variant: Option<String>,
    causes: Vec<String>,
    hints: Vec<String>,
    // As it is shown to people, where it is about a place in another file.
    drawn: Option<String>,
}

/// Something that a project asks for.
#[derive(Serialize)]
struct Asked {
    key: String,
    consequence: String,
    granted: bool,
}

/// What grants everything that has not been granted.
#[derive(Serialize)]
struct Granting {
    variant: Option<String>,
    digest: Digest,
}

impl Item {
    /// Those of a config.
    fn of(problems: &Problems, variant: Option<&str>) -> Vec<Self> {
        let item = |problem: &Problem| {
            let (file, line, column) = problems.position(problem);
            Self {
                title: report::redacted(&problem.title),
                file: Some(file.to_owned()),
                line: Some(line),
                column: Some(column),
                variant: variant.map(str::to_owned),
                hints: problem.hint.iter().map(|hint| report::redacted(hint)).collect(),
                ..Self::default()
            }
        };
        problems.list.iter().map(item).collect()
    }
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
            let wrong = self.look(&mut project, variant.as_deref());
            drawn.extend(self.problems(wrong, variant.as_deref()));
        }
        self.draw(drawn, variant.as_deref());
    }

    /// Those that have a place; the others are told.
    fn problems(&mut self, wrong: Vec<Wrong>, variant: Option<&str>) -> Vec<(Problem, Kind)> {
        let mut drawn = Vec::new();
        for wrong in wrong {
            match self.problem(&wrong, variant) {
                Some(problem) => drawn.push(problem),
                None => self.wrong(wrong.error),
            }
        }
        drawn
    }

    fn tell(&mut self, wrong: Vec<Wrong>, variant: Option<&str>) {
        let drawn = self.problems(wrong, variant);
        self.draw(drawn, variant);
    }

    /// What is wrong beyond the text itself. Also says what the project asks for, and warns.
    fn look(&mut self, project: &mut Project, variant: Option<&str>) -> Vec<Wrong> {
        let wanted = default_wanted(variant.map(str::to_owned));
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
        self.tell_own(own, warning);
        self.tell_asks(&judged, variant);
        let is_whole = project.config.whole && project.config.layers.len() == all_layers;
        let seen = engine::look(project, &judged.plan, is_whole, self.facts, self.paths);
        self.warn(project, judged.plan.warnings.iter().chain(&seen.warnings), variant);
        match &mut self.told {
            Some(told) => told.absent.extend(seen.absent),
            None if seen.absent.is_empty() => {}
            None => {
                let absent = seen.absent.join(", ");
                self.say(format!("not here yet, so not looked at: {absent}; to bring them:  smidr lock"));
            }
        }
        wrong.extend(seen.wrong);
        wrong
    }

    /// What is in effect beside the config, and what is doubtful about that.
    fn tell_own(&mut self, own: Option<String>, warning: Option<String>) {
        let Some(told) = &mut self.told else {
            own.into_iter().chain(warning.map(|warning| format!("warning: {warning}"))).for_each(|line| self.say(line));
            return;
        };
        told.local = own.or(told.local.take());
        for title in warning.into_iter().filter(|title| self.said.insert(title.clone())) {
            told.warnings.push(Item { title, ..Item::default() });
        }
    }

    fn tell_asks(&mut self, judged: &Judged, variant: Option<&str>) {
        let digest = (!judged.refused.is_empty()).then(|| judged.digest());
        if let Some(told) = &mut self.told {
            let variant = variant.map(str::to_owned);
            told.grants.extend(digest.map(|digest| Granting { variant, digest }));
            let asked = judged.asks.iter().map(|ask| Asked {
                key: ask.key().to_string(),
                consequence: ask.consequence().to_string(),
                granted: !judged.refused.contains(ask),
            });
            for one in asked {
                if self.said.insert(format!("{} {}", one.key, one.consequence)) {
                    told.asks.push(one);
                }
            }
            return;
        }
        for ask in trust::lines(judged) {
            self.say(format!("asks: {ask}"));
        }
        if let Some(digest) = digest {
            self.say(format!("to grant them:  smidr trust    in CI, for exactly these:  --trust={digest}"));
        }
    }

    fn warn<'w>(&mut self, project: &Project, plain: impl Iterator<Item = &'w String>, variant: Option<&str>) {
        let plain = plain.filter(|warning| !project.draws(warning));
        let Some(told) = &mut self.told else {
            if let Some(drawn) = project.drawn_warnings(coloured()).filter(|drawn| self.said.insert(drawn.clone())) {
                talk_block(&drawn);
            }
            plain.for_each(|warning| self.say(format!("warning: {warning}")));
            return;
        };
        let list = project.config.warnings.iter().filter(|problem| self.said.insert(format!("{problem:?}")));
        let drawn = self.sources.problems(list.cloned().collect());
        told.warnings.extend(Item::of(&drawn, variant));
        for title in plain.map(|warning| report::redacted(warning)).filter(|title| self.said.insert(title.clone())) {
            told.warnings.push(Item { title, ..Item::default() });
        }
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
        causes(&wrong.error).iter().for_each(|cause| title += &format!(": {cause}"));
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
        let problems = self.sources.problems(list.into_iter().map(|(problem, _)| problem).collect());
        if let Some(told) = &mut self.told {
            told.problems.extend(Item::of(&problems, variant));
            return;
        }
        if let Some(variant) = variant {
            complain(format!("with --variant {variant}:"));
        }
        complain_block(&report::redacted(&problems.render(coloured())));
    }

    fn wrong(&mut self, error: impl UserError + Send + Sync + 'static) {
        self.report(&error.into());
    }

    fn report(&mut self, failure: &Failure) {
        if self.said.insert(format!("{failure}\n{:?}", failure.hints())) {
            self.kinds.push(failure.kind());
            let Some(told) = &mut self.told else {
                report(failure);
                return;
            };
            told.problems.push(Item {
                title: report::redacted(&failure.to_string()),
                causes: causes(&**failure).iter().map(|cause| report::redacted(cause)).collect(),
                hints: failure.hints().iter().map(|hint| report::redacted(&hint.to_string())).collect(),
                drawn: failure.drawn(false).map(|drawn| report::redacted(&drawn)),
                ..Item::default()
            });
        }
    }
}

fn causes(error: &dyn UserError) -> Vec<String> {
    std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string).collect()
}
