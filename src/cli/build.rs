//! `smidr build`: one build in this process, or workers for several, or for those that outlive the terminal.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    args::{Build, EventForm, Grant, Wanted},
    client, context,
    daemon_args::ReachDaemon,
    follow::View,
    local,
    output::{say, talk},
    pace,
    report::{Done, Failure, Refused, placed, report},
    reports, several,
    terminal::{JsonLines, Terminal},
    trust,
};
use crate::{
    engine::{self, Services},
    events::EventSink,
    executors::Life,
    history::BuildRecord,
    image::ImageStore,
    model::{BuildId, BuildRequest, Group, Hint, Kind, Outcome, Paths, Submission, SystemFacts},
    plan::{Domain, Plan},
    project::{Project, ProjectError, trust::Given},
    rpc::client::Remote,
    service::{BuildService, LocalService, random},
    settings::Settings,
    system::{files::FileError, process::Spawner, stop::StopToken},
};

/// Runs the command.
pub(super) fn build(files: &[PathBuf], grant: &Grant, args: &Build) -> Done {
    // Before any thread: threads inherit what is blocked.
    let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let spawner = start_spawner()?;
    let facts = context::gather();
    let mut reports = args.reports.settle(&facts, !args.detach)?;
    let done = run(files, grant, args, (&facts, &spawner), &stop, &mut reports);
    reports.end(done, files.first().map_or(Path::new("smidr.yaml"), PathBuf::as_path))
}

fn run(
    files: &[PathBuf],
    grant: &Grant,
    args: &Build,
    (facts, spawner): (&SystemFacts, &Spawner),
    stop: &StopToken,
    reports: &mut reports::Wanted,
) -> Done {
    let paths = context::open_paths(facts)?;
    let remote = match &args.daemon {
        Some(address) => {
            if let Some(target) =
                args.wanted.targets.iter().find(|target| address.is_empty() && looks_like_address(target))
            {
                let hint = Hint::command("the daemon at that address", format!("smidr build --daemon={target}"));
                return Err(Refused::new(format!("{target} is no target"), [hint]).into());
            }
            let reach = ReachDaemon { address: Some(address.clone()), ..ReachDaemon::default() };
            Some(client::reach(&paths, &reach, facts)?)
        }
        None => None,
    };
    let elsewhere = remote.as_ref().is_some_and(|remote| !remote.is_own);
    let mut asked = Asked {
        facts,
        paths: &paths,
        given: Given { elsewhere, ..trust::given(facts, grant) },
        stop,
        all: Vec::new(),
        plans: Vec::new(),
    };
    for file in files {
        for variant in variants(file, args, facts)? {
            asked.add(file, variant, &args.wanted, args.wait || args.daemon.is_some())?;
        }
    }
    if let Some(remote) = remote {
        return on_daemon(&remote, &asked, args, stop, reports);
    }
    let Asked { all: mut submissions, plans, .. } = asked;
    share(&mut submissions, args.jobs, Settings::read(&paths, &facts.home)?, facts.cpus);
    let service = LocalService::new(&paths);
    if args.detach {
        for submission in &submissions {
            service.start(submission, spawner, Life::OfItsOwn)?;
            say(submission.id.as_str());
        }
        if io::stderr().is_terminal() {
            let id = if let [one] = submissions.as_slice() { one.id.as_str() } else { "ID" };
            talk(format!("watch:  smidr attach {id}"));
            talk(format!("stop:   smidr cancel {id}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let [submission] = submissions.as_slice() else {
        let start = |submission: &Submission| match service.start(submission, spawner, Life::WithParent) {
            Ok(worker) => Ok((submission.id.clone(), Some(worker))),
            Err(error) => {
                let error = error.into();
                reports.take_refused(submission.config_path(), &error);
                Err(error)
            }
        };
        let done = several::build(&service, &submissions, args, start, stop);
        submissions.iter().for_each(|submission| tell(reports, &service, &submission.id));
        return done;
    };
    let mut view = Terminal::new();
    if let [plan] = plans.as_slice() {
        view = view.knowing(Some(plan.folders.tmp.clone()), pace::before(&service, plan));
    }
    let mut sinks: Vec<Box<dyn EventSink>> = vec![Box::new(view)];
    if let Some(EventForm::Json) = args.events {
        sinks.push(Box::new(JsonLines));
    }
    let store = ImageStore::open(&paths)?;
    let services =
        Services { paths: paths.clone(), facts: facts.clone(), store, spawner: spawner.clone(), outlives: false };
    let outcome = service.run(submission.clone(), services, stop, sinks)?;
    let code = ExitCode::from(outcome.exit_code());
    match plans.first() {
        Some(plan) if outcome.kind == Some(Kind::Request) && service.show(Some(submission.id.as_str())).is_err() => {
            reports.take_unrecorded(&unrecorded(submission, plan, outcome));
        }
        _ => tell(reports, &service, &submission.id),
    }
    Ok(code)
}

/// Lets reports tell of a build that is over. What cannot be told does not change how it ended.
fn tell(reports: &mut reports::Wanted, service: &dyn BuildService, id: &BuildId) {
    if !reports.any() {
        return;
    }
    let mut told = || -> Result<(), Failure> {
        let build = service.show(Some(id.as_str()))?;
        reports.take(service, &build, None)
    };
    if let Err(error) = told() {
        report(&error);
    }
}

/// What would be the record of a build that was refused before anything ran.
fn unrecorded(submission: &Submission, plan: &Plan, outcome: Outcome) -> BuildRecord {
    let now = jiff::Timestamp::now();
    BuildRecord {
        id: submission.id.clone(),
        name: submission.name(),
        config: Some(submission.config_path().clone()),
        machine: plan.machine.clone(),
        targets: plan.targets.clone(),
        variant: submission.request.variant.clone(),
        customer: None,
        labels: submission.labels.clone(),
        waits: false,
        queued: None,
        state: outcome.state,
        started: now,
        ended: Some(now),
        outcome: Some(outcome),
    }
}

/// Whether a target is a host and a port: `--daemon` takes its address behind `=`.
fn looks_like_address(target: &str) -> bool {
    target.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Builds on a daemon, as if it were here.
fn on_daemon(
    remote: &Remote,
    asked: &Asked<'_>,
    args: &Build,
    stop: &StopToken,
    reports: &mut reports::Wanted,
) -> Done {
    let (mut plans, mut builds) = (asked.plans.iter(), Vec::new());
    let mut start = |submission: &Submission| {
        let plan = plans.next();
        let submission = match plan {
            Some(plan) => client::with_layers(remote, submission.clone(), plan, asked.facts, asked.paths)?,
            None => submission.clone(),
        };
        let id = remote.submit(&submission)?;
        // First of all: the build goes on whatever happens to this terminal.
        talk(format!("build      {id}  on {}", remote.address));
        builds.push((id.clone(), submission.config_path().clone()));
        Ok((id, None))
    };
    let done = match asked.all.as_slice() {
        [submission] => {
            let (id, _) = start(submission)?;
            client::until_its_end(remote, &id, View::Live(args.events), stop)
        }
        all => several::build(remote, all, args, start, stop),
    };
    builds.iter().for_each(|(id, _)| tell(reports, remote, id));
    for (id, config) in builds.iter().filter(|_| !args.wanted.locked) {
        client::take_pins(remote, id, config, asked.facts, asked.paths)?;
    }
    done
}

/// What one command submits of one project.
pub(super) fn one_submission(
    file: &Path,
    given: Given,
    wanted: &Wanted,
    variant: Option<String>,
    facts: &SystemFacts,
    paths: &Paths,
    stop: &StopToken,
) -> Result<(Submission, Plan), Failure> {
    let mut asked = Asked { facts, paths, given, stop, all: Vec::new(), plans: Vec::new() };
    // It waits in the daemon's queue.
    asked.add(file, variant, wanted, true)?;
    let nothing = || Refused::new("nothing is to be built", None).into();
    asked.all.pop().zip(asked.plans.pop()).ok_or_else(nothing)
}

/// Starts what starts processes.
pub(super) fn start_spawner() -> Result<Spawner, Failure> {
    Ok(Spawner::start().map_err(FileError::new("start", Path::new("/proc/self/exe")))?)
}

/// The variants of a config that are built; none is the config without an overlay.
fn variants(file: &Path, args: &Build, facts: &SystemFacts) -> Result<Vec<Option<String>>, Failure> {
    if args.all_variants {
        let project = Project::read(file, None, facts)?;
        let all: Vec<_> = project.config.variants.iter().map(|name| Some(name.text.clone())).collect();
        if all.is_empty() {
            let what = format!("{} has no variants", project.file.display());
            return Err(Refused::new(what, [Hint::new("leave --all-variants out")]).into());
        }
        return Ok(all);
    }
    if args.variants.is_empty() {
        return Ok(vec![None]);
    }
    Ok(args.variants.iter().map(|name| Some(name.clone())).collect())
}

/// What is submitted by one command.
struct Asked<'a> {
    facts: &'a SystemFacts,
    paths: &'a Paths,
    given: Given,
    stop: &'a StopToken,
    all: Vec<Submission>,
    plans: Vec<Plan>,
}

impl Asked<'_> {
    fn add(&mut self, file: &Path, variant: Option<String>, wanted: &Wanted, wait: bool) -> Result<(), Failure> {
        let project = Project::read(file, variant.as_deref(), self.facts)?;
        let request = BuildRequest { variant, ..wanted.into() };
        if project.sources.names_no_target && request.targets.is_empty() {
            return Err(ProjectError::NoTarget(project.file).into());
        }
        project.sources.warnings.iter().for_each(|warning| talk(format!("warning: {warning}")));
        let judged = trust::settle(&project, &request, self.facts, self.paths, &self.given, self.stop)?;
        let same =
            |known: &Submission| *known.config_path() == project.file && known.request.variant == request.variant;
        if self.all.iter().any(same) {
            return Ok(());
        }
        if judged.plan.domain == Domain::Private && !self.given.elsewhere {
            talk("caches     this project's own: nothing is shared with others; to share yours:  smidr trust");
        }
        // Once for all variants.
        if !self.all.iter().any(|known| *known.config_path() == project.file) {
            let (own, warning) = local::lines(&project, &self.facts.home);
            own.into_iter().chain(warning.map(|warning| format!("warning: {warning}"))).for_each(talk);
        }
        if wanted.locked && project.is_newer_than_lock() {
            talk("warning: smidr.yaml has changed since smidr.lock was written:  smidr lock");
        }
        if !wait {
            engine::check_free(&judged.plan, self.paths)?;
        }
        let submission = engine::submission(&project, &judged, request.clone(), self.facts, self.paths, random());
        let mut submission = submission.map_err(|error| placed(error, &project, &request, self.facts, self.paths))?;
        submission.wait = wait;
        self.all.push(submission);
        self.plans.push(judged.plan);
        Ok(())
    }
}

/// Divides the machine among builds that are started together.
fn share(submissions: &mut [Submission], jobs: Option<u32>, settings: Settings, cpus: u32) {
    let count = u32::try_from(submissions.len()).unwrap_or(u32::MAX);
    let at_once = count.min(jobs.unwrap_or(count)).min(settings.limits.builds(cpus));
    let share = settings.limits.share(at_once, cpus);
    let name = submissions.first().map(|first| first.id.clone());
    for submission in submissions {
        submission.share = share;
        submission.group =
            name.clone().filter(|_| jobs.is_some() && count > 1).map(|name| Group { name, places: at_once });
    }
}
