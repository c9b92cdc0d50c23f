//! `smidr client`: builds of a daemon, from anywhere.

use std::{collections::BTreeMap, fmt, fs, os::unix::fs::PermissionsExt as _, path::Path, process::ExitCode};

use super::{
    args::{Grant, Wanted},
    attach, build, context,
    daemon_args::{Client, ClientCommand, ClientLogs, Download, List, ReachDaemon, ScheduleCommand, Start, Which},
    daemon_documents as documents, download, explain,
    follow::{End, View, follow},
    hooks, logs,
    output::{Document, bytes, duration, say, talk},
    report::{Done, Failure, Refused},
    status,
    terminal::Terminal,
    times::moment,
    trust,
};
use crate::{
    engine,
    history::{BuildRecord, Filter},
    layers::{self, PackLimits, PackedLayer},
    lock::{Lock, Pins, RepositoryPin},
    model::{Action, BuildId, Hint, Kind, Paths, State, Submission, SystemFacts, UserError},
    plan::{Domain, Plan},
    project::{Project, trust::Given},
    rpc::{
        client::{Login, Remote, kept},
        proto,
    },
    service::BuildService,
    system::{
        files::{FileError, shell, write_atomically},
        paths,
        stop::StopToken,
    },
};

/// What `login` keeps, below SMIDR_HOME.
const LOGIN: &str = "client.json";

/// Which daemon, where that is not said otherwise.
const ADDRESS: &str = "SMIDR_DAEMON";

/// Runs the command.
pub(super) fn client(config: &Path, grant: &Grant, args: &Client) -> Done {
    run(config, grant, args).map_err(|error| OfClient(error).into())
}

/// An error whose hints are commands of `smidr client`: the modules that know what to do do not know where the build is.
#[derive(Debug)]
struct OfClient(Failure);

impl fmt::Display for OfClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for OfClient {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl UserError for OfClient {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn hints(&self) -> Vec<Hint> {
        let hints = self.0.hints().into_iter();
        hints.map(|hint| Hint { action: hint.action.map(of_client), ..hint }).collect()
    }

    fn drawn(&self, colour: bool) -> Option<String> {
        self.0.drawn(colour)
    }
}

fn of_client(action: Action) -> Action {
    let Action::Command(command) = &action else { return action };
    let words: Vec<&str> = command.split(' ').collect();
    let command = match words.as_slice() {
        ["smidr", "status"] => "smidr client list".into(),
        ["smidr", "artifacts", "list", rest @ ..] => [&["smidr", "client", "artifacts"], rest].concat().join(" "),
        ["smidr", "status" | "logs" | "explain" | "attach" | "cancel", ..] => {
            command.replacen("smidr", "smidr client", 1)
        }
        _ => return action,
    };
    Action::Command(command)
}

fn run(config: &Path, grant: &Grant, args: &Client) -> Done {
    match &args.command {
        ClientCommand::Start(start) => return self::start(config, grant, &args.reach, start),
        ClientCommand::Download(wanted) => return download(&args.reach, wanted),
        _ => {}
    }
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    match &args.command {
        ClientCommand::Login { to } => return login(&paths, &args.reach, to, &facts),
        ClientCommand::Logout => return logout(&paths),
        _ => {}
    }
    let remote = reach(&paths, &args.reach, &facts)?;
    let shown = |which: &Which| remote.show(which.id());
    match &args.command {
        ClientCommand::Whoami { json } => whoami(&remote, *json)?,
        ClientCommand::Status(which) => status::of(&remote, &shown(which)?, which.json)?,
        ClientCommand::Logs(wanted) => return print_logs(&remote, wanted),
        ClientCommand::List(wanted) => list(&remote, wanted)?,
        ClientCommand::Cancel { which, force } => {
            let build = remote.show(Some(named(which, "cancel")?))?;
            // Cancelling twice is no error.
            let is_done = build.state == State::Cancelled;
            let build = if is_done { build } else { remote.cancel(build.id.as_str(), *force)? };
            match which.json {
                true => Document::new().with("build", &build)?.say(),
                false => talk(format!("{} {}", build.id, build.state)),
            }
        }
        ClientCommand::Explain { which, all } => {
            let build = shown(which)?;
            let mut diagnoses = remote.diagnoses(&build.id)?;
            for hint in diagnoses.iter_mut().flat_map(|one| &mut one.next) {
                hint.action = hint.action.take().map(of_client);
            }
            explain::tell(Some(&build), &diagnoses, which.json, *all)?;
        }
        ClientCommand::Attach(which) => return attach::attach_to(&remote, &shown(which)?),
        ClientCommand::Lock(which) => {
            let build = shown(which)?;
            match take_pins(&remote, &build.id, config, &facts, &paths)? {
                true => talk(format!("smidr.lock pins what {} was built of", build.id)),
                false => talk(format!(
                    "{} has nothing that is not here: nothing is resolved yet, or its worker has written smidr.lock",
                    build.id
                )),
            }
        }
        ClientCommand::Artifacts(which) => artifacts(&remote, &shown(which)?, which.json)?,
        ClientCommand::Delete(which) => {
            let build = remote.show(Some(named(which, "delete")?))?;
            remote.remove(&build.id)?;
            talk(format!("{} is removed", build.id));
        }
        ClientCommand::Queue { json } => {
            let queue = remote.call(|mut caller| async move { caller.get_queue(proto::GetQueueRequest {}).await })?;
            match json {
                true => queue_document(Document::new().with("paused", &queue.paused)?, &queue)?.say(),
                false => queue_lines(&queue).into_iter().for_each(say),
            }
        }
        ClientCommand::Schedule(command) => {
            hooks::schedule(&remote, command, || scheduled(config, grant, command, &remote, &facts, &paths))?;
        }
        ClientCommand::Webhook(command) => hooks::webhook(&remote, command)?,
        ClientCommand::Login { .. } | ClientCommand::Logout | ClientCommand::Start(_) | ClientCommand::Download(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The id that is given. What cannot be undone needs one: the newest build may be of another project.
fn named<'a>(which: &'a Which, command: &str) -> Result<&'a str, Failure> {
    let hint = || Hint::command("builds", "smidr client list");
    which.id().ok_or_else(|| Refused::new(format!("name the build:  smidr client {command} ID"), [hint()]).into())
}

/// The daemon that is meant.
pub(super) fn reach(paths: &Paths, reach: &ReachDaemon, facts: &SystemFacts) -> Result<Remote, Failure> {
    let address = reach.address.clone().or_else(|| facts.variable(ADDRESS)).filter(|address| !address.is_empty());
    let file = paths.home().join(LOGIN);
    let known = kept(&file)?;
    Ok(match (address, known) {
        (Some(address), known) => {
            // What is kept of that very daemon counts beside what is said.
            let known = known.filter(|known| known.address == address).unwrap_or_default();
            Remote::at(&asked(reach, Login { address, ca_bundle: facts.ca_bundle.clone(), ..known })?, paths)?
        }
        (None, Some(known)) => {
            Remote::at(&asked(reach, Login { ca_bundle: facts.ca_bundle.clone(), ..known })?, paths)?
        }
        (None, None) => Remote::own(paths)?,
    })
}

/// A login with what the command line says of it.
fn asked(reach: &ReachDaemon, known: Login) -> Result<Login, Failure> {
    let token = reach.token_file.as_deref().map(|file| {
        let text = fs::read_to_string(file).map_err(FileError::new("read", file))?;
        if fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
            talk(format!("warning: others can read the token:  chmod 600 {}", shell(file)));
        }
        Ok::<_, FileError>(text.trim().to_owned())
    });
    let absolute = |path: &Path| std::path::absolute(path).map_err(FileError::new("find", path));
    let certificate = match (&reach.certificate, &reach.key) {
        (Some(certificate), Some(key)) => Some((absolute(certificate)?, absolute(key)?)),
        _ => known.certificate,
    };
    Ok(Login {
        pin: reach.pin.clone().or(known.pin),
        token: match &certificate {
            // What the command line names counts.
            Some(_) if reach.certificate.is_some() => token.transpose()?,
            _ => token.transpose()?.or(known.token),
        },
        certificate,
        ca_bundle: known.ca_bundle,
        insecure: reach.insecure || known.insecure,
        address: known.address,
    })
}

fn login(paths: &Paths, reach: &ReachDaemon, to: &str, facts: &SystemFacts) -> Done {
    paths::open(paths)?;
    let login = asked(reach, Login { address: to.into(), ca_bundle: facts.ca_bundle.clone(), ..Login::default() })?;
    let remote = Remote::at(&login, paths)?;
    // A login that is not good is not kept.
    let me = who(&remote)?;
    let text = serde_json::to_vec(&login).map_err(|error| FileError::new("write", paths.home())(error.into()))?;
    write_atomically(&paths.home().join(LOGIN), &text, 0o600)?;
    talk(format!("{to} knows this client as {} ({})", me.name, me.how));
    Ok(ExitCode::SUCCESS)
}

fn logout(paths: &Paths) -> Done {
    let file = paths.home().join(LOGIN);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::new("remove", &file)(error).into())
        }
        Err(_) => {
            talk("there is no login");
            Ok(ExitCode::SUCCESS)
        }
        Ok(()) => {
            talk("the login is forgotten");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn who(remote: &Remote) -> Result<proto::WhoAmIResponse, Failure> {
    Ok(remote.call(|mut caller| async move { caller.who_am_i(proto::WhoAmIRequest {}).await })?)
}

fn whoami(remote: &Remote, json: bool) -> Result<(), Failure> {
    let me = who(remote)?;
    let scopes = documents::scope_names(me.scopes());
    if json {
        let document =
            Document::new().with("address", &remote.address)?.with("name", &me.name)?.with("how", &me.how)?;
        document.with("scopes", &scopes)?.with("customer", &me.customer)?.say();
        return Ok(());
    }
    let customer = if me.customer.is_empty() { "all customers" } else { &me.customer };
    say(format!("{} ({}) at {}: {} for {customer}", me.name, me.how, remote.address, scopes.join(", ")));
    Ok(())
}

fn start(config: &Path, grant: &Grant, at: &ReachDaemon, args: &Start) -> Done {
    // Before any thread: threads inherit what is blocked.
    let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    let remote = reach(&paths, at, &facts)?;
    let given = Given { elsewhere: !remote.is_own, ..trust::given(&facts, grant) };
    let (mut submission, plan) =
        build::one_submission(config, given, &args.wanted, args.variant.clone(), &facts, &paths, &stop)?;
    submission.customer.clone_from(&args.about.customer);
    submission.labels = labels(&args.about.labels)?;
    submission.priority = args.about.priority;
    submission.retry_interrupted = args.about.retry_interrupted;
    if args.dry_run {
        return would_send(&submission, &layers::pack(&plan, &facts.home, &paths.tmp(), PackLimits::default())?);
    }
    let submission = with_layers(&remote, submission, &plan, &facts, &paths)?;
    let id = remote.submit(&submission)?;
    match args.json {
        true => Document::new().with("build", &id)?.say(),
        false => say(format!("Build ID: {id}")),
    }
    if !(args.wait || args.follow) {
        return Ok(ExitCode::SUCCESS);
    }
    let view = if args.follow { View::Live(args.events) } else { View::Errors };
    let done = until_its_end(&remote, &id, view, &stop);
    if !args.wanted.locked {
        take_pins(&remote, &id, config, &facts, &paths)?;
    }
    done
}

/// Writes what a build of this project was pinned to into smidr.lock, as a build here does: of what the config names, and nothing else.
pub(super) fn take_pins(
    remote: &Remote,
    id: &BuildId,
    config: &Path,
    facts: &SystemFacts,
    paths: &Paths,
) -> Result<bool, Failure> {
    // Of a project that the daemon reads in its folder, the worker has done that.
    let Some(text) = (if remote.is_own { None } else { remote.lock(id)? }) else { return Ok(false) };
    let build = remote.show(Some(id.as_str()))?;
    let project = Project::read(config, build.variant.as_deref(), facts)?;
    if *project.config.name != *build.name {
        let what = format!("{id} is a build of `{}`, and this is `{}`", build.name, project.config.name);
        return Err(Refused::new(what, [Hint::new("go to that project's folder")]).into());
    }
    let wanted = context::default_wanted(build.variant);
    let plan = project.plan(&wanted, facts, paths, &Domain::Own)?;
    let lock = Lock::parse(&text)?;
    let is_named = |pin: &&RepositoryPin| plan.sources().any(|(name, _)| name == pin.name);
    let pins = Pins {
        hosts: lock.host(&plan.host.name).cloned().into_iter().collect(),
        repositories: lock.repositories().iter().filter(is_named).cloned().collect(),
    };
    project.pin(pins, paths, false)?;
    Ok(true)
}

/// What a schedule stores of the project in this folder.
fn scheduled(
    config: &Path,
    grant: &Grant,
    command: &ScheduleCommand,
    remote: &Remote,
    facts: &SystemFacts,
    paths: &Paths,
) -> Result<Submission, Failure> {
    let ScheduleCommand::Create(new) = command else { return Err(Refused::new("nothing is to be built", None).into()) };
    let wanted = Wanted { targets: new.targets.clone(), ..Wanted::default() };
    paths::open(paths)?;
    let stop = StopToken::default();
    let given = Given { elsewhere: !remote.is_own, ..trust::given(facts, grant) };
    let (submission, plan) = build::one_submission(config, given, &wanted, new.variant.clone(), facts, paths, &stop)?;
    with_layers(remote, submission, &plan, facts, paths)
}

/// A submission whose path layers the daemon has. One on this machine reads their folders.
pub(super) fn with_layers(
    remote: &Remote,
    submission: Submission,
    plan: &Plan,
    facts: &SystemFacts,
    paths: &Paths,
) -> Result<Submission, Failure> {
    if remote.is_own {
        return Ok(submission);
    }
    let mut packed = layers::pack(plan, &facts.home, &paths.tmp(), PackLimits::default())?;
    remote.send(&mut packed, |layer| talk(format!("sending    {}, {}", layer.name, bytes(layer.size))))?;
    Ok(engine::for_elsewhere(submission, plan, packed.into_iter().map(|packed| packed.layer).collect()))
}

/// Lists what would be sent: files that git does not know may hold secrets.
fn would_send(submission: &Submission, packed: &[PackedLayer]) -> Done {
    let own = |name: &str, size: usize| say(format!("{:>10}  {name}", bytes(size as u64)));
    own(&submission.config_path().file_name().unwrap_or_default().to_string_lossy(), submission.config.len());
    submission.lock.iter().for_each(|lock| own("smidr.lock", lock.len()));
    submission.local.iter().for_each(|local| own("smidr.local.yaml", local.config.len()));
    submission.files.iter().for_each(|file| own(&file.path.display().to_string(), file.content.len()));
    for PackedLayer { layer, folder, files, .. } in packed {
        let commit = layer.commit.as_ref().map_or("in no repository".into(), |commit| commit.short());
        let state = if layer.dirty { ", changed" } else { "" };
        say(format!("{:>10}  {}: {commit}{state}, {} files", bytes(layer.size), folder.display(), files.len()));
        for file in files {
            let size = file.size.map_or("link".into(), bytes);
            let is_new = if file.is_new { "  (not in git)" } else { "" };
            say(format!("{size:>10}    {}{is_new}", file.path.display()));
        }
    }
    let (count, new) =
        (packed.iter().map(|one| one.files.len()).sum::<usize>(), packed.iter().flat_map(|one| &one.files));
    let (new, size) = (new.filter(|file| file.is_new).count(), packed.iter().map(|one| one.layer.size).sum());
    say(format!("{:>10}  {count} files of path layers, {new} of them not in git", bytes(size)));
    submission.variables.keys().for_each(|name| say(format!("  variable  {name}, with its value")));
    Ok(ExitCode::SUCCESS)
}

/// Follows a build, and ends as a local build would.
pub(super) fn until_its_end(remote: &Remote, id: &BuildId, view: View, stop: &StopToken) -> Done {
    let end = follow(remote, id, view, stop);
    if end.as_ref().is_err_and(|error| error.kind() == Kind::Outside) {
        talk(format!("{id} goes on; watch it with:  smidr client attach {id}"));
    }
    match end? {
        End::Over(outcome) => {
            if matches!(view, View::Errors) {
                talk(format!("{id} {}", outcome.state));
            }
            Ok(ExitCode::from(outcome.exit_code()))
        }
        End::Left => {
            talk(format!("{id} goes on; watch it with:  smidr client attach {id}"));
            Ok(ExitCode::from(130))
        }
    }
}

/// Labels as they are written.
pub(super) fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let one = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => {
            Err(Refused::new(format!("`{text}` is no label"), [Hint::new("KEY=VALUE, as in --label branch=main")])
                .into())
        }
    };
    texts.iter().map(one).collect()
}

fn list(remote: &Remote, wanted: &List) -> Result<(), Failure> {
    let filter = Filter {
        customer: wanted.customer.clone(),
        name: wanted.project.clone(),
        states: wanted.states.clone(),
        labels: labels(&wanted.labels)?,
    };
    let (mut builds, mut from) = (Vec::new(), None::<String>);
    while builds.len() < wanted.limit as usize {
        let left = wanted.limit - u32::try_from(builds.len()).unwrap_or(u32::MAX);
        let (more, next) = remote.page(&filter, from.as_deref(), left)?;
        builds.extend(more);
        from = next;
        if from.is_none() {
            break;
        }
    }
    if wanted.json {
        Document::new().with("builds", &builds)?.say();
        return Ok(());
    }
    for (number, build) in builds.iter().enumerate() {
        if number > 0 {
            say("");
        }
        entry(build);
    }
    if builds.is_empty() {
        talk("there are no such builds");
    }
    Ok(())
}

/// A build in the list. Scripts read the first line.
fn entry(build: &BuildRecord) {
    let line = |subject: &str, text: &str| say(format!("  {subject:<9} {text}"));
    say(format!("Build ID: {}", build.id));
    line("state", &build.state.to_string());
    line("project", &build.name);
    let variant = build.variant.iter().map(|variant| format!(", variant {variant}")).collect::<String>();
    line("target", &format!("{} for {}{variant}", build.targets.join(" "), build.machine));
    if let Some(customer) = &build.customer {
        line("customer", customer);
    }
    for (key, value) in &build.labels {
        line("label", &format!("{key}={value}"));
    }
    line("begun", &moment(build.started));
    if let Some(ended) = build.ended {
        let took = build.outcome.as_ref().map(|outcome| format!(", after {}", duration(outcome.duration_ms)));
        line("ended", &format!("{}{}", moment(ended), took.unwrap_or_default()));
    }
}

fn print_logs(remote: &Remote, wanted: &ClientLogs) -> Done {
    let build = remote.show(wanted.which.id())?;
    if let Some(task) = wanted.task.as_ref().filter(|_| build.state.is_final()) {
        logs::check_ran(task, &build.id, &remote.tasks(&build.id)?)?;
    }
    let is_plain = wanted.grep.is_none() && wanted.task.is_none() && wanted.tail == 0;
    if is_plain || wanted.which.json {
        let view = Terminal::log().of_daemon(remote.is_own);
        return logs::print(remote, &build, view, wanted.from_seq, wanted.follow, wanted.which.json);
    }
    remote.lines(
        proto::StreamLogsRequest {
            build_id: build.id.to_string(),
            after_seq: wanted.from_seq,
            follow: wanted.follow,
            grep: wanted.grep.clone().unwrap_or_default(),
            task: wanted.task.clone().unwrap_or_default(),
            tail: wanted.tail,
        },
        |line| say(line),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn artifacts(remote: &Remote, build: &BuildRecord, json: bool) -> Result<(), Failure> {
    let artifacts = remote.artifacts(&build.id)?;
    if json {
        Document::new().with("build", &build.id)?.with("artifacts", &artifacts)?.say();
        return Ok(());
    }
    if artifacts.is_empty() {
        talk(format!("{} ({}) left nothing behind", build.id, build.state));
    }
    for artifact in &artifacts {
        let size = artifact.link.as_ref().map_or_else(|| bytes(artifact.size), |link| format!("-> {}", link.display()));
        let digest = artifact.sha256.as_ref().map(|digest| digest.hex()).unwrap_or_default();
        say(format!("{digest:<64}  {size:>10}  {}", artifact.path.display()));
    }
    Ok(())
}

fn download(at: &ReachDaemon, wanted: &Download) -> Done {
    // Before any thread: threads inherit what is blocked.
    let stop = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let facts = context::gather();
    let remote = reach(&paths::find(&facts.environment)?, at, &facts)?;
    let named = |id: &Path| id.to_str().map(String::from);
    let (id, dest) = match (wanted.words.as_slice(), &wanted.build_id, &wanted.tar) {
        ([id], None, None) if named(id).is_some_and(|id| id.parse::<BuildId>().is_ok()) => {
            let id = id.display();
            let hint = Hint::command("for example", format!("smidr client download {id} out"));
            return Err(Refused::new(format!("{id} is a build: name the folder to copy to"), [hint]).into());
        }
        ([], Some(id), None) => {
            let hint = Hint::command("for example", format!("smidr client download --build-id {id} out"));
            return Err(Refused::new("name the folder to copy to", [hint]).into());
        }
        ([dest], id, None) => (id.clone(), Some(dest)),
        ([id, dest], None, None) => (named(id), Some(dest)),
        ([], id, Some(_)) => (id.clone(), None),
        ([id], None, Some(_)) => (named(id), None),
        (_, _, None) => return Err(Refused::new("name the build once, and the folder to copy to", None).into()),
        (_, _, Some(_)) => return Err(Refused::new("name the build once, and no folder", None).into()),
    };
    let build = remote.show(id.as_deref())?;
    let Download { patterns, force, .. } = wanted;
    let what = download::Wanted { remote: &remote, build: &build, patterns, force: *force, stop: &stop };
    match (dest, &wanted.tar) {
        (Some(dest), _) => download::download(&what, dest),
        (None, tar) => download::archive(&what, tar.as_deref().unwrap_or(Path::new("-"))),
    }
}

/// The queue, for people.
pub(super) fn queue_lines(queue: &proto::Queue) -> Vec<String> {
    let mut lines = Vec::new();
    if queue.paused {
        lines.push("paused     no more builds are started; again with:  smidr daemon resume".into());
    }
    let count = |seen: usize, in_all: u32, most: &str| {
        let others = (in_all as usize).saturating_sub(seen);
        let of_others = if others > 0 { format!(", {others} of them of other customers") } else { String::new() };
        format!("{}{most}{of_others}", seen + others)
    };
    let most = format!(" of at most {}", queue.max_builds);
    lines.push(format!("running    {}", count(queue.running.len(), queue.running_in_all, &most)));
    lines.extend(queue.running.iter().map(|one| format!("  {}", one.build_id)));
    lines.push(format!("waiting    {}", count(queue.waiting.len(), queue.waiting_in_all, "")));
    lines.extend(queue.waiting.iter().map(|one| format!("  {:>3}. {}  {}", one.position, one.build_id, one.reason)));
    lines
}

/// The queue, for scripts.
pub(super) fn queue_document(document: Document, queue: &proto::Queue) -> Result<Document, Failure> {
    let document = document.with("running_in_all", &queue.running_in_all)?;
    let document = document.with("waiting_in_all", &queue.waiting_in_all)?;
    let document = document.with("running", &documents::all::<_, documents::Running<'_>>(&queue.running))?;
    Ok(document.with("waiting", &documents::all::<_, documents::Waiting<'_>>(&queue.waiting))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_the_room_is_counted_whose_ever_it_is() {
        let waits = proto::QueueEntry { build_id: "a-1".into(), position: 2, ..Default::default() };
        let queue = proto::Queue { max_builds: 1, running_in_all: 1, waiting_in_all: 2, ..Default::default() };
        let queue = proto::Queue { waiting: vec![waits], ..queue };
        let lines = queue_lines(&queue);
        assert_eq!(lines[0], "running    1 of at most 1, 1 of them of other customers");
        assert_eq!(lines[1], "waiting    2, 1 of them of other customers");
        // An older daemon counts nothing.
        let queue = proto::Queue { running_in_all: 0, waiting_in_all: 0, ..queue };
        assert_eq!(queue_lines(&queue)[..2], ["running    0 of at most 1", "waiting    1"]);
    }
}
