//! Trust: what a project asks for is shown once, in words that say what could happen, and granted by its user. `smidr trust` and `untrust`.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::Path,
    process::ExitCode,
};

use super::{
    args::{Grant, Trust as TrustArgs, Untrust},
    context::{self, default_wanted},
    output::{self, Document, say, talk},
    report::{Done, Failure, Refused, placed},
    times::day,
};
use crate::{
    engine::{self, Judged},
    image::Reference,
    model::{
        Ask, BuildRequest, Digest, Hint, Kind, Logins, Paths, SystemFacts, UserError, is_ambiguous, without_secrets,
    },
    plan::{Domain, Plan, PlannedSource},
    project::{
        Project,
        trust::{Given, Trust},
    },
    system::{
        files::{FileError, shell},
        paths,
        stop::StopToken,
    },
};

/// Grants everything, for code that the caller has reviewed.
const GRANT_ALL: &str = "SMIDR_TRUST";

/// What the caller grants for one command.
pub(super) fn given(facts: &SystemFacts, grant: &Grant) -> Given {
    let all = facts.variable(GRANT_ALL).is_some_and(|value| value == "1");
    Given { all, digest: grant.trust.clone(), elsewhere: false }
}

/// The plan of a project with what it asks for. Touches nothing and asks nothing.
pub(super) fn judge(
    project: &Project,
    wanted: &BuildRequest,
    facts: &SystemFacts,
    paths: &Paths,
    given: &Given,
) -> Result<Judged, Failure> {
    judge_by(&Trust::read(paths)?, project, wanted, facts, paths, given)
}

fn judge_by(
    trust: &Trust,
    project: &Project,
    wanted: &BuildRequest,
    facts: &SystemFacts,
    paths: &Paths,
    given: &Given,
) -> Result<Judged, Failure> {
    let refused = |plan: &Plan, asks: &[Ask]| {
        trust.refused(&project.file, &plan.project_workspace(), asks, given, &project.settings)
    };
    let judged = engine::judge(project, wanted, facts, paths, refused);
    let mut judged = judged.map_err(|error| placed(error, project, wanted, facts, paths))?;
    judged.plan.logins = trust.logins(&project.file, &judged.plan.project_workspace(), given, &project.settings);
    Ok(judged)
}

/// The plan of a project that may do what it asks for: it was granted before, or the user grants it now.
pub(super) fn settle(
    project: &Project,
    wanted: &BuildRequest,
    facts: &SystemFacts,
    paths: &Paths,
    given: &Given,
    stop: &StopToken,
) -> Result<Judged, Failure> {
    let trust = Trust::open(paths)?;
    let judged = judge_by(&trust, project, wanted, facts, paths, given)?;
    let workspace = judged.plan.project_workspace();
    let trust = match trust.is_earlier(&workspace) {
        false => trust,
        true => {
            let mut granted = judged.granted();
            let addresses = all_addresses(&project.file, project, facts, paths)?;
            granted.extend(addresses.into_iter().map(|below| Ask::Login { below }));
            trust.grant(&project.file, &workspace, &granted)?
        }
    };
    if !judged.stops() {
        return Ok(judged);
    }
    if let Some(digest) = &given.digest {
        let what = format!("--trust says {digest}, and {} asks for something else", project.file.display());
        screen(project, &judged.refused);
        return Err(Refused::new(what, [Hint::new(format!("look at it; then  --trust={}", judged.digest()))]).into());
    }
    screen(project, &judged.refused);
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(NotTrusted { project: project.file.display().to_string(), digest: judged.digest() }.into());
    }
    if !says_yes("Trust it?", stop) {
        return Err(NotTrusted { project: project.file.display().to_string(), digest: judged.digest() }.into());
    }
    let trust = trust.grant(&project.file, &workspace, &judged.asks)?;
    engine::cross(&project.config.cache, &workspace, paths, stop, &|line| talk(line))?;
    judge_by(&trust, project, wanted, facts, paths, given)
}

/// All servers' addresses that a plan names.
fn addresses(plan: &Plan) -> impl Iterator<Item = String> {
    let of_source = |source: &PlannedSource| match source {
        PlannedSource::Git(git) => {
            std::iter::once(&git.url).chain(&git.mirrors).map(|url| without_secrets(url)).collect()
        }
        PlannedSource::Path(_) => Vec::new(),
    };
    let image = match plan.host.name.parse() {
        Ok(Reference::Registry(reference)) if !plan.host.recipe => Some(reference.name()),
        _ => None,
    };
    plan.sources().flat_map(move |(_, source)| of_source(source)).chain(image)
}

/// Grants asks that the user has caused, where there are any.
pub(super) fn keep(project: &Project, plan: &Plan, asks: &[Ask], paths: &Paths) -> Result<(), Failure> {
    if !asks.is_empty() {
        Trust::open(paths)?.grant(&project.file, &plan.project_workspace(), asks)?;
    }
    Ok(())
}

/// A project that asks for what has not been granted.
#[derive(Debug, thiserror::Error)]
#[error("{project} asks for what you have not granted")]
struct NotTrusted {
    project: String,
    digest: Digest,
}

impl UserError for NotTrusted {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        // Another config than the usual one has to be named.
        let file = Path::new(&self.project);
        let of = match file.file_name().is_some_and(|name| name == "smidr.yaml") {
            true => String::new(),
            false => format!(" -c {}", shell(Path::new(file.file_name().unwrap_or_default()))),
        };
        vec![
            Hint::command("if you trust its code", format!("smidr trust{of}")),
            Hint::command("in CI, for exactly this", format!("smidr build{of} --trust={}", self.digest)),
        ]
    }
}

/// One screen: who asks, for what, and what could happen.
fn screen(project: &Project, asks: &[Ask]) {
    output::complain(format!("{} asks for more than a build in its own folders:", project.file.display()));
    asks.iter().for_each(|ask| output::complain(line(ask)));
    output::complain(
        "Its recipes are programs that run with all of this. Grant it only if you trust their authors with it.",
    );
}

fn line(ask: &Ask) -> String {
    format!("  {:<22} {}", ask.key(), ask.consequence())
}

/// What `plan` and `check` show.
pub(super) fn lines(judged: &Judged) -> Vec<String> {
    judged
        .asks
        .iter()
        .map(|ask| {
            let state = match (judged.refused.contains(ask), ask) {
                (false, _) => "granted",
                // It stops no build.
                (true, Ask::SharedCache { .. }) => "not granted, so builds have caches of their own",
                (true, _) => "not granted",
            };
            format!("{state}: {}: {}", ask.key(), ask.consequence())
        })
        .collect()
}

/// Asks a question, before anything has begun: a request to stop ends the process, which would wait for an answer.
pub(super) fn says_yes(question: &str, stop: &StopToken) -> bool {
    let _listening = stop.listen(|_| std::process::exit(i32::from(Kind::Cancelled.exit_code())));
    output::ask(&format!("{question} [y/N]"));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

/// Runs `smidr trust`.
pub(super) fn trust(file: &Path, args: &TrustArgs) -> Done {
    let facts = context::gather();
    if args.list {
        return list(&paths::find(&facts.environment)?, args.json);
    }
    let paths = context::open_paths(&facts)?;
    if !args.login.is_empty() {
        return lend(file, &args.login, &facts, &paths);
    }
    let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let (project, workspace, asks) = trust_all(file, &facts, &paths)?;
    say(format!("{} is trusted with:", project.file.display()));
    asks.iter().for_each(|ask| say(line(ask)));
    let crossed = engine::cross(&project.config.cache, &workspace, &paths, &stop, &|line| talk(line))?;
    if let Some(crossed) = crossed {
        talk(format!(
            "taken over from its own caches: downloads {}, repositories {}; BitBake checks the content of downloads when it uses them",
            crossed.files, crossed.repositories
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lends a project the user's logins at some addresses, and grants it nothing else.
fn lend(file: &Path, addresses: &[String], facts: &SystemFacts, paths: &Paths) -> Done {
    let project = Project::read(file, None, facts)?;
    let trust = Trust::open(paths)?;
    let judged = judge_by(&trust, &project, &default_wanted(None), facts, paths, &Given::default())?;
    let named = all_addresses(file, &project, facts, paths)?;
    let mut asks = Vec::new();
    for address in addresses {
        let below = without_secrets(address);
        let host = below.split_once("://").map_or(below.as_str(), |(_, rest)| rest);
        if host.trim_matches('/').is_empty() || is_ambiguous(address) {
            let hint = Hint::command("for example", "smidr trust --login https://git.example.com/team");
            return Err(Refused::new(format!("`{address}` names no server"), [hint]).into());
        }
        let logins = Logins::Below(vec![below.clone()]);
        if !named.iter().any(|address| logins.reach(address)) {
            talk(format!(
                "warning: no layer and no image of the project has an address that begins with {below}; submodules may"
            ));
        }
        asks.push(Ask::Login { below });
    }
    trust.grant(&project.file, &judged.plan.project_workspace(), &asks)?;
    say(format!("{} may use:", project.file.display()));
    asks.iter().for_each(|ask| say(line(ask)));
    Ok(ExitCode::SUCCESS)
}

/// All servers' addresses that a project and its variants name.
fn all_addresses(file: &Path, project: &Project, facts: &SystemFacts, paths: &Paths) -> Result<Vec<String>, Failure> {
    let variants = project.config.variants.iter().map(|name| Some(name.text.clone()));
    let mut all = Vec::new();
    for variant in std::iter::once(None).chain(variants) {
        let project = Project::read(file, variant.as_deref(), facts)?;
        all.extend(addresses(&project.plan(&default_wanted(variant), facts, paths, &Domain::Own)?));
    }
    Ok(all)
}

/// Grants a project everything that it and its variants ask for now.
pub(super) fn trust_all(
    file: &Path,
    facts: &SystemFacts,
    paths: &Paths,
) -> Result<(Project, String, Vec<Ask>), Failure> {
    let project = Project::read(file, None, facts)?;
    let trust = Trust::open(paths)?;
    let variants = project.config.variants.iter().map(|name| Some(name.text.clone()));
    let mut asks = Vec::new();
    let mut workspace = String::new();
    for variant in std::iter::once(None).chain(variants) {
        let project = Project::read(file, variant.as_deref(), facts)?;
        let judged = judge_by(&trust, &project, &default_wanted(variant), facts, paths, &Given::default())?;
        asks.extend(judged.asks);
        workspace = judged.plan.project_workspace();
    }
    asks.sort();
    asks.dedup();
    trust.grant(&project.file, &workspace, &asks)?;
    Ok((project, workspace, asks))
}

/// Runs `smidr untrust`.
pub(super) fn untrust(file: &Path, _: &Untrust) -> Done {
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    // A config that is wrong or gone can still be taken trust from.
    let gone = || {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(std::fs::canonicalize(folder)?.join(file.file_name().unwrap_or_default()))
    };
    let config = std::fs::canonicalize(file).or_else(|_: io::Error| gone());
    let config = config.or_else(|_: io::Error| std::path::absolute(file)).unwrap_or_else(|_| file.into());
    if Trust::open(&paths)?.revoke(&config)? {
        talk(format!("{} is not trusted any more", config.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let hint = Hint::command("those that are", "smidr trust --list");
    Err(Refused::new(format!("{} was not trusted", config.display()), [hint]).into())
}

fn list(paths: &Paths, json: bool) -> Done {
    let trust = Trust::read(paths)?;
    if json {
        Document::new().with("projects", trust.list())?.say();
        return Ok(ExitCode::SUCCESS);
    }
    for known in trust.list() {
        say(format!("{}  since {}", shell(&known.config), day(known.at)));
        known.asks.iter().for_each(|ask| say(line(ask)));
    }
    if trust.list().is_empty() {
        talk("no project is trusted");
    }
    Ok(ExitCode::SUCCESS)
}
