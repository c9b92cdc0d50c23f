//! `smidr check --deep`: what only BitBake knows. It parses in the build's own sandbox, with image and layers brought as for a build; no task runs.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use super::{
    super::{
        args::Check,
        command_context::CommandContext,
        output::talk,
        report::{Failure, placed},
        terminal::Terminal,
        trust,
    },
    Checked,
};
use crate::{
    bitbake::Looked,
    engine::{self, Deep},
    events::EventSink,
    model::{BuildRequest, Event, Level, Record},
    project::Project,
};

/// Why branches were not asked for, as `smidr_deep.py` names it, and in words.
const UNASKED: [(&str, &str); 8] = [
    ("network", "without a network"),
    ("credentials", "whose servers want a login"),
    ("protocol", "by other protocols"),
    ("private", "at addresses that are not public"),
    ("unknown", "whose servers' names are not known here"),
    ("silent", "whose servers did not answer within 5 s"),
    ("time", "for want of time"),
    ("many", "beyond the first 40"),
];

/// What was looked at, for scripts.
#[derive(Serialize)]
pub(super) struct Depth {
    recipes: u64,
    tasks: u64,
    sources: u64,
    branches: Branches,
}

/// Of git sources.
#[derive(Serialize)]
struct Branches {
    total: u64,
    downloaded: u64,
    asked: u64,
    unasked: Vec<Unasked>,
}

/// Branches that no server was asked for.
#[derive(Serialize)]
struct Unasked {
    reason: String,
    count: u64,
}

/// With these BitBake's parsers end once one of them has failed (bb.parse.ast, bb.data).
const BROKEN_OFF: [&str; 2] = ["Error during finalise of ", "Exception during build_dependencies for "];

/// Shows how it goes, and keeps what BitBake warns of: its errors are told at the end, with all that is wrong.
pub(super) struct Watch {
    terminal: Terminal,
    warnings: Warnings,
}

/// What BitBake has warned of.
pub(super) type Warnings = Arc<Mutex<Vec<String>>>;

/// Warnings of BitBake that are kept.
const MOST_WARNINGS: usize = 100;

impl Watch {
    /// With the warnings that it will keep.
    pub(super) fn new() -> (Self, Warnings) {
        let warnings = Warnings::default();
        (Self { terminal: Terminal::new(), warnings: warnings.clone() }, warnings)
    }
}

impl EventSink for Watch {
    fn accept(&mut self, record: &Record) {
        match &record.event {
            Event::Warning { text } | Event::Message { level: Level::Warning, text, .. } => {
                let mut kept = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < MOST_WARNINGS {
                    kept.push(text.clone());
                }
            }
            Event::Message { .. } | Event::NoProvider { .. } | Event::Console { .. } | Event::Parsed { .. } => {}
            _ => self.terminal.accept(record),
        }
    }
}

impl Checked<'_> {
    /// Looks with BitBake. Whatever keeps it from that is a problem as others are.
    pub(super) fn deeply(&mut self, file: &Path, args: &Check, context: CommandContext, warnings: &Warnings) {
        let wanted = BuildRequest {
            targets: args.targets.clone(),
            variant: args.variant.clone(),
            offline: args.offline,
            ..BuildRequest::default()
        };
        let found = Project::read(file, args.variant.as_deref(), self.facts)
            .map_err(Failure::from)
            .and_then(|project| Ok((self.parsed(&project, &wanted, &context)?, project)));
        // What is drawn steps aside before anything is printed.
        drop(context);
        let (Deep { wrong, warnings: own, looked }, project) = match found {
            Ok(found) => found,
            Err(failure) => return self.report(&failure),
        };
        let mut warned = std::mem::take(&mut *warnings.lock().unwrap_or_else(PoisonError::into_inner));
        // What breaks off because something else went wrong.
        warned.retain(|text| wrong.is_empty() || !BROKEN_OFF.iter().any(|start| text.starts_with(start)));
        let variant = args.variant.as_deref();
        self.warn(&project, warned.iter().chain(&own), variant);
        self.tell(wrong, variant);
        if let Some(looked) = looked {
            self.tell_looked(&looked);
        }
    }

    fn parsed(&self, project: &Project, wanted: &BuildRequest, context: &CommandContext) -> Result<Deep, Failure> {
        let (facts, paths) = (&context.facts, &context.paths);
        let plan = trust::settle(project, wanted, facts, paths, &self.given, &context.stop)?.plan;
        context.on.hide(&engine::inputs::secrets(&plan));
        let host = project.host_lock(&plan).cloned();
        engine::deep(plan, host.as_ref(), context.tools()).map_err(|error| placed(error, project, wanted, facts, paths))
    }

    fn tell_looked(&mut self, looked: &Looked) {
        let Looked { recipes, tasks, sources, branches, here, asked, unasked, .. } = looked;
        let unasked = || {
            UNASKED.iter().filter_map(|(name, words)| Some((*words, *unasked.get(*name).filter(|count| **count > 0)?)))
        };
        if let Some(told) = &mut self.told {
            let unasked = unasked().map(|(reason, count)| Unasked { reason: reason.into(), count }).collect();
            let branches = Branches { total: *branches, downloaded: *here, asked: *asked, unasked };
            told.deep = Some(Depth { recipes: *recipes, tasks: *tasks, sources: *sources, branches });
            return;
        }
        talk(format!("looked at {recipes} recipes ({tasks} tasks, {sources} sources)"));
        if *branches > 0 {
            let rest: String = unasked().map(|(words, count)| format!("; not {count} {words}")).collect();
            talk(format!(
                "branches of git sources: {branches}, of which {here} are downloaded, and servers were asked for {asked}{rest}"
            ));
        }
    }
}
