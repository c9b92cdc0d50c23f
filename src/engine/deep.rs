//! What keeps a build from its end and can be known before: BitBake parses in the build's own sandbox, resolves the targets to tasks and reads the
//! recipes that these need, and the disk is looked at. Runs no task, and changes nothing of the project.

use super::{
    EngineError, Prepared, Tools, Use, Wrong, budget::Budget, deep_disk, drive, failure::not_built, keeper, origin,
    prepare,
};
use crate::{
    bitbake::{self, Finding, Looked, Source},
    config::Network,
    lock::HostPin,
    model::{Hint, Kind, UserError},
    plan::{Plan, SandboxSpec},
};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Deep {
    /// What would fail.
    pub wrong: Vec<Wrong>,
    /// What may not be as it is meant.
    pub warnings: Vec<String>,
    /// What was looked at, if BitBake came that far.
    pub looked: Option<Looked>,
}

/// Something that would fail.
#[derive(Debug, thiserror::Error)]
#[error("{title}")]
pub(crate) struct WouldFail {
    title: String,
    kind: Kind,
    hints: Vec<Hint>,
}

impl WouldFail {
    pub(super) fn new(title: impl Into<String>, hints: impl Into<Vec<Hint>>) -> Self {
        Self::of(Kind::Build, title, hints)
    }

    pub(super) fn of(kind: Kind, title: impl Into<String>, hints: impl Into<Vec<Hint>>) -> Self {
        Self { title: title.into(), kind, hints: hints.into() }
    }
}

impl UserError for WouldFail {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn hints(&self) -> Vec<Hint> {
        self.hints.clone()
    }
}

/// Looks, as a build of this plan would. git servers are asked for branches where the plan may use the network while it fetches.
///
/// # Errors
///
/// What keeps BitBake from being started, and [`EngineError::Stopped`].
pub(crate) fn deep(plan: Plan, lock: Option<&HostPin>, tools: Tools<'_>) -> Result<Deep, EngineError> {
    let prepared = prepare(plan, lock, None, Use::Build, tools)?;
    let edits = prepared.begin_edits(&tools.paths)?;
    edits.keep()?;
    let finished = run(&prepared, &edits, tools);
    edits.finish()?.lines().into_iter().for_each(|line| tools.on.warn(line));
    let finished = finished?;
    if finished.stopped {
        return Err(EngineError::Stopped);
    }
    let plan = &prepared.plan;
    let mut deep = Deep::default();
    finished.found.iter().for_each(|finding| deep.take(finding, plan));
    for said in &finished.errors {
        let (span, title) = match said.found(plan) {
            Some((span, title)) => (Some(span), title),
            None => (None, in_short(said.text())),
        };
        deep.wrong.push(wrong(span, WouldFail::new(title, [])));
    }
    if let Some(looked) = &finished.looked {
        deep.say_more(looked);
        deep_disk::look(plan, looked, tools, &mut deep);
    } else if let (true, Some(outcome)) = (deep.wrong.is_empty(), not_built(&finished, Vec::new(), plan)) {
        let kind = outcome.kind.unwrap_or(Kind::Build);
        deep.wrong.push(wrong(None, WouldFail { title: outcome.reasons.join(": "), kind, hints: outcome.hints }));
    }
    deep.looked = finished.looked;
    Ok(deep)
}

fn run(prepared: &Prepared, edits: &super::Edits, tools: Tools<'_>) -> Result<drive::Finished, EngineError> {
    let plan = &prepared.plan;
    // As for a build: what BitBake parses here is in its cache then.
    let server = keeper::hold(prepared, tools).ok().flatten();
    let asks = plan.network != Network::None && !plan.offline;
    let mut extra_env = vec![("BB_SERVER_TIMEOUT", "0"), ("SMIDR_ASK", if asks { "1" } else { "0" })];
    extra_env.extend(server.as_ref().map(|server| ("BB_HASHSERVE", server.address.as_str())));
    let argv = bitbake::deep_command(plan, &prepared.own_folder());
    let own_network = plan.network == Network::None;
    let spec = SandboxSpec { own_network, probe_tasks: true, ..prepared.sandbox(argv, edits, false, &extra_env)? };
    let mut budget = Budget::default();
    drive::drive(spec, plan.limits, plan.timeout, tools, &plan.folders, &mut budget)
}

/// Lines of an error of BitBake that are told. The console of a build has all of it.
const LINES: usize = 6;

/// An error without the environment of the command that failed, which bb.fetch2 puts before it.
fn in_short(text: &str) -> String {
    let mut short = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()).take(LINES) {
        let mut rest = line;
        if !short.is_empty() {
            short.push('\n');
        }
        while let Some((before, behind)) = rest.split_once("export ")
            && let Some((_, behind)) = behind.split_once("\"; ").or_else(|| behind.split_once("; "))
        {
            short.push_str(before);
            rest = behind;
        }
        short.push_str(rest);
    }
    short
}

fn wrong(span: Option<crate::config::Span>, error: WouldFail) -> Wrong {
    Wrong { keys: Vec::new(), span, error: error.into() }
}

impl Deep {
    fn take(&mut self, finding: &Finding, plan: &Plan) {
        let (title, hints) = told(finding);
        let is_warning = match finding {
            Finding::Checksum { strict, .. } => !strict,
            Finding::Append { fatal, .. } => !fatal,
            Finding::Autorev { .. } => true,
            _ => false,
        };
        if is_warning {
            self.warnings.push(title);
            return;
        }
        let span = match finding {
            Finding::Missing { item, .. } => origin::of_item(plan, item),
            _ => None,
        };
        self.wrong.push(wrong(span, WouldFail::new(title, hints)));
    }

    fn say_more(&mut self, looked: &Looked) {
        for (kind, count) in &looked.more {
            self.warnings.push(format!("{count} more of the kind `{kind}` are not listed"));
        }
        if looked.left_out > 0 {
            self.warnings.push(format!("{} recipes were not looked at: they are too many", looked.left_out));
        }
    }
}

/// A finding in words, and what to do.
fn told(finding: &Finding) -> (String, Vec<Hint>) {
    match finding {
        Finding::Missing { .. } => missing(finding),
        Finding::Checksum { source, flag, strict } => {
            let refused = if *strict { ", and BB_STRICT_CHECKSUM refuses that" } else { "" };
            let title = format!("{}: {} has no checksum{refused}", source.recipe, source.url);
            let hint = Hint::config_in(
                "add the file's own",
                format!("SRC_URI[{flag}] = \"…\""),
                source.file.display().to_string(),
            );
            (title, vec![hint])
        }
        Finding::Autorev { source } => (
            format!(
                "{} follows its branch (SRCREV is AUTOREV): builds differ, and parsing needs the server",
                of(source)
            ),
            Vec::new(),
        ),
        Finding::Revision { source } => {
            let hint = Hint::config_in("name the commit", "SRCREV = \"…\"", source.file.display().to_string());
            (format!("{} has no commit (SRCREV)", of(source)), vec![hint])
        }
        Finding::Branch { source, branch } => {
            let hint = Hint::new(format!(
                "which branches there are:  git ls-remote --heads {}; a mirror may still have the commit",
                source.url
            ));
            (format!("{} has no branch `{branch}`, which its server was asked for", of(source)), vec![hint])
        }
        Finding::Licence { recipe, package, licences, needed } => {
            let title = format!(
                "the package `{package}` of {recipe} is left out for its licence ({licences}, in INCOMPATIBLE_LICENSE), and {} needs it",
                needed.join(", ")
            );
            let first = licences.split(' ').next().unwrap_or_default();
            let line = format!("local_conf: |\n  INCOMPATIBLE_LICENSE_EXCEPTIONS:append = \" {package}:{first}\"");
            (title, vec![Hint::config("to allow this one", line)])
        }
        Finding::Append { file, .. } => {
            let hint = Hint::new("remove it, take the version of its layer that fits, or mask it (BBMASK)");
            (format!("{} appends to a recipe that no layer has", file.display()), vec![hint])
        }
        Finding::Unread { recipe, text } => (format!("{recipe} cannot be looked at: {text}"), Vec::new()),
    }
}

fn of(source: &Source) -> String {
    format!("{}: {}", source.recipe, source.url)
}

/// In BitBake's words: "x was skipped: WHY", "y PROVIDES x but was skipped: WHY" (bb.taskdata).
const SKIPPED: [&str; 2] = [" was skipped: ", " but was skipped: "];

fn missing(finding: &Finding) -> (String, Vec<Hint>) {
    let Finding::Missing { item, runtime, dependees, more, reasons, close } = finding else {
        return Default::default();
    };
    let why = reasons.iter().find_map(|reason| SKIPPED.iter().find_map(|words| reason.split_once(words)));
    let what = if *runtime { "the package `" } else { "`" };
    let mut title = match why {
        Some((by, why)) if by == item => format!("{item} is skipped: {why}"),
        Some((by, why)) => {
            let by = by.split(' ').next().unwrap_or_default();
            format!("nothing provides {what}{item}`: {by} would, and is skipped: {why}")
        }
        None => format!("nothing provides {what}{item}`"),
    };
    if !dependees.is_empty() {
        let more = if *more > 0 { format!(" and {more} more") } else { String::new() };
        title = format!("{}; needed by {}{more}", title.trim_end_matches('.'), dependees.join(", "));
    }
    let mut hints: Vec<Hint> = why.and_then(|(_, why)| of_skipped(why)).into_iter().collect();
    if !close.is_empty() && why.is_none() {
        hints.push(Hint::new(format!("did you mean {}?", close.join(", "))));
    }
    (title, hints)
}

/// What to do about a recipe that is skipped, by the words of OpenEmbedded-Core (base.bbclass, features_check.bbclass).
fn of_skipped(why: &str) -> Option<Hint> {
    let quoted = || why.split('\'').nth(1).filter(|word| !word.is_empty() && word.len() < 100);
    if why.contains("LICENSE_FLAGS_ACCEPTED") {
        return Some(Hint::config("if you accept its terms", format!("advanced: {{license_flags: [{}]}}", quoted()?)));
    }
    if why.contains("(not in DISTRO_FEATURES)") {
        return Some(Hint::config(
            "to have it",
            format!("local_conf: |\n  DISTRO_FEATURES:append = \" {}\"", quoted()?),
        ));
    }
    if why.contains("in DISTRO_FEATURES)") {
        return Some(Hint::config(
            "to be without it",
            format!("local_conf: |\n  DISTRO_FEATURES:remove = \"{}\"", quoted()?),
        ));
    }
    if why.starts_with("PREFERRED_PROVIDER_") {
        let name = why.split(' ').next()?;
        return Some(Hint::new(format!("another recipe is preferred: {name} says which")));
    }
    (why.contains("COMPATIBLE_MACHINE") || why.contains("COMPATIBLE_HOST"))
        .then(|| Hint::new("leave it out, or build for a machine that it is made for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(reasons: &[&str], close: &[&str]) -> String {
        let owned = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
        let finding = Finding::Missing {
            item: "x".into(),
            runtime: false,
            dependees: vec!["a".into(), "b".into()],
            more: 2,
            reasons: owned(reasons),
            close: owned(close),
        };
        let (title, hints) = told(&finding);
        let hints: Vec<String> = hints.iter().map(ToString::to_string).collect();
        format!("{title} | {}", hints.join(" | "))
    }

    #[test]
    fn errors_are_told_without_the_environment_of_commands() {
        let text =
            "E: command export A=1; export PATH=\"/a;/b\"; git ls-remote x  failed\n\n  fatal: no\n1\n2\n3\n4\n5";
        assert_eq!(in_short(text), "E: command git ls-remote x  failed\nfatal: no\n1\n2\n3\n4");
        assert_eq!(in_short("export of x"), "export of x");
    }

    #[test]
    fn what_is_missing_says_why_and_what_to_do() {
        assert_eq!(lacking(&[], &["y", "z"]), "nothing provides `x`; needed by a, b and 2 more | did you mean y, z?");
        assert_eq!(
            lacking(&["x was skipped: incompatible with machine m (not in COMPATIBLE_MACHINE)"], &[]),
            "x is skipped: incompatible with machine m (not in COMPATIBLE_MACHINE); needed by a, b and 2 more | \
             leave it out, or build for a machine that it is made for"
        );
        assert_eq!(
            lacking(
                &[
                    "y PROVIDES x but was skipped: Has a restricted license 'commercial' which is not listed in your LICENSE_FLAGS_ACCEPTED."
                ],
                &[],
            ),
            "nothing provides `x`: y would, and is skipped: Has a restricted license 'commercial' which is not listed in your \
             LICENSE_FLAGS_ACCEPTED; needed by a, b and 2 more | if you accept its terms:  advanced: {license_flags: [commercial]}"
        );
        assert_eq!(
            lacking(&["x was skipped: missing required distro feature 'x11' (not in DISTRO_FEATURES)"], &["y"]),
            "x is skipped: missing required distro feature 'x11' (not in DISTRO_FEATURES); needed by a, b and 2 more | \
             to have it:\nlocal_conf: |\n  DISTRO_FEATURES:append = \" x11\""
        );
    }
}
