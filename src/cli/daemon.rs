//! `smidr daemon`: serves builds, and looks after the daemon that does.

use std::{
    fs,
    io::{self, BufReader},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use super::{
    build::start_spawner,
    client::queue_lines,
    context,
    daemon_args::{Daemon as DaemonArgs, DaemonCommand, Purge, TokenCommand},
    daemon_documents as documents, daemon_log, daemon_ops, hooks,
    output::{Document, bytes, print_bytes, say, say_block, talk},
    report::{Done, Failure, Refused},
    times::moment,
};
use crate::{
    config::{Age, Size},
    daemon::{
        Daemon,
        access::Scope,
        config::{self, DaemonConfig},
    },
    executors,
    model::{Hint, Paths},
    rpc::{
        authority::Authority,
        client::Remote,
        handover, proto,
        run::{self, Hangups},
        sockets::{Address, Held, prepare},
    },
    system::{
        files::{FileError, write_atomically},
        paths,
        stop::StopToken,
    },
};

/// Its log, where it has no terminal, below SMIDR_HOME/daemon.
const LOG: &str = "daemon.log";

/// The log before it, and how long a log may be when a daemon starts, in bytes.
const OLD_LOG: &str = "daemon.log.1";
const LONGEST_LOG: u64 = 10 << 20;

/// How long a daemon whose place is taken may need to end.
const ENDING: Duration = Duration::from_secs(30);

/// Runs the command.
pub(super) fn daemon(args: &DaemonArgs) -> Done {
    match &args.command {
        None if args.background => background(args),
        None => serve(args),
        Some(_) if !args.address.is_empty() || args.replace || args.background => {
            let hint = [Hint::new("leave the command out to start one, or the options to ask the one that runs")];
            Err(Refused::new("--address, --replace and --background are for a daemon that is started", hint).into())
        }
        Some(command) => ask(command),
    }
}

fn serve(args: &DaemonArgs) -> Done {
    if args.of_background {
        let _ = rustix::process::setsid();
    }
    let hangups = Hangups::default();
    let hangup = hangups.clone();
    let stop = StopToken::on_signals_and(move |_| hangup.tell());
    let stop = stop.map_err(FileError::new("take over signals", Path::new("smidr")))?;
    daemon_log::begin()?;
    // Before any other process is started, which would inherit them.
    let held = Held::of_systemd()?;
    let spawner = start_spawner()?;
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    let home = paths.home().to_owned();
    let user_home = facts.home.clone();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), home = %home.display(), "start");
    // While another daemon still serves.
    Daemon::check(&paths, &facts)?;
    let before = if args.replace { handover::ask(&paths.daemon())? } else { None };
    let (before, held) = before.map_or((None, held), |(before, held)| (Some(before), held));
    let config = config::read(&paths)?;
    let prepared = prepare(&addresses(args, &config, &held), held)?;
    let tls = if prepared.has_tls() { Some(run::Tls::load(&paths.daemon(), &config.tls)?) } else { None };
    // The ledger and its lock are one daemon's alone: from here on there is no way back.
    let patience = match before {
        Some(before) => {
            tracing::info!(version = before.version, "takes the place of another");
            before.go()?;
            ENDING
        }
        // One that could not be asked may be about to end.
        None if args.replace => handover::PATIENCE,
        None => Duration::ZERO,
    };
    let ready = run::listen(Daemon::start(paths, facts, spawner, patience)?, prepared, tls)?;
    let lines = greeting(&ready, &home, &user_home);
    let is_of_background = args.of_background;
    ready.serve(&stop, &hangups, move || {
        if is_of_background {
            // The one that has started it reads until here, if it is still there.
            print_bytes(format!("{}\n", lines.join("\n")).as_bytes());
            let _ = executors::ready(io::stdout());
        } else {
            lines.into_iter().for_each(say);
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Where TCP is listened on: as the command line says, or that of the daemon before did; or what systemd holds, or as `daemon.yaml` says.
fn addresses(args: &DaemonArgs, config: &DaemonConfig, held: &Held) -> Vec<Address> {
    let named = |text: &String| Address { text: text.clone(), insecure: args.insecure, named: true };
    if !args.address.is_empty() {
        return args.address.iter().map(named).collect();
    }
    let kept = held.named();
    if !kept.is_empty() {
        return kept;
    }
    let address = config.address.filter(|_| !held.is_of_systemd() || !held.has_tcp());
    let listed = |address: SocketAddr| Address { text: address.to_string(), insecure: false, named: false };
    address.map(listed).into_iter().collect()
}

/// A path as users write it.
fn tilde(path: &Path, home: &Path) -> String {
    path.strip_prefix(home).map_or_else(|_| path.display().to_string(), |rest| format!("~/{}", rest.display()))
}

fn greeting(ready: &run::Ready, home: &Path, user_home: &Path) -> Vec<String> {
    let on = |kind: &str, what: &str, how: &str| format!("listening on  {kind:<5} {what:<45} {how}");
    let mut lines = vec![
        format!("smidr daemon  {}  home {}", env!("CARGO_PKG_VERSION"), tilde(home, user_home)),
        on("unix", &tilde(ready.socket(), user_home), "this user, no token"),
    ];
    let mut port = None;
    for (address, insecure) in &ready.addresses {
        let how = if *insecure { "no TLS, token" } else { "TLS, token or client certificate" };
        lines.push(on("tcp", &address.to_string(), how));
        port = port.or((!insecure).then_some(address.port()));
    }
    lines.extend(ready.missing().iter().map(|error| format!("not there     {error}; the log says why")));
    if let Some(port) = port {
        lines.push(format!("join another machine with:  {}", login(port, ready.pin())));
    }
    if !ready.addresses.is_empty() {
        lines.push(
            "tokens:  smidr daemon token create NAME --scope read,submit,cancel [--customer NAME] [--expires 90d]"
                .into(),
        );
    }
    lines
}

/// How another machine joins.
fn login(port: u16, pin: Option<&str>) -> String {
    let pin = pin.map(|pin| format!(" --pin {pin}")).unwrap_or_default();
    format!("smidr client login HOST:{port}{pin} --token-file FILE")
}

/// Starts a process of its own that serves, and returns once it does.
fn background(args: &DaemonArgs) -> Done {
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    crate::system::files::make_private_dir(&paths.daemon())?;
    let log = paths.daemon().join(LOG);
    if fs::metadata(&log).is_ok_and(|found| found.len() > LONGEST_LOG) {
        let old = paths.daemon().join(OLD_LOG);
        fs::rename(&log, &old).map_err(FileError::new("make", &old))?;
    }
    let stderr = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
    let stderr = stderr.map_err(FileError::new("make", &log))?;
    let begun = stderr.metadata().map_or(0, |found| found.len());
    let own = std::env::current_exe().map_err(FileError::new("find", Path::new("/proc/self/exe")))?;
    let mut command = Command::new(own);
    command.args(["daemon", "--of-background"]).current_dir("/");
    args.address.iter().for_each(|address| _ = command.args(["--address", address]));
    command.args(args.insecure.then_some("--insecure")).args(args.replace.then_some("--replace"));
    command.env("SMIDR_HOME", paths.home());
    let failed = || FileError::new("start", Path::new("smidr daemon"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn();
    let mut child = child.map_err(failed())?;
    let mut is_ready = false;
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(io::BufRead::lines) {
        let line = line.map_err(failed())?;
        is_ready = line == executors::READY;
        if !is_ready {
            say(line);
        }
    }
    if is_ready {
        return Ok(ExitCode::SUCCESS);
    }
    let ended = child.wait().map_err(failed())?;
    let said = fs::read(&log).unwrap_or_default();
    let said = String::from_utf8_lossy(said.get(usize::try_from(begun).unwrap_or_default()..).unwrap_or_default());
    // What is there as JSON stays there.
    said.lines().filter(|line| !line.starts_with('{')).for_each(super::output::complain_block);
    Ok(ended.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn ask(command: &DaemonCommand) -> Done {
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    match command {
        DaemonCommand::Check => return check(&paths),
        DaemonCommand::Ca => {
            say_block(Authority::open(&paths.daemon())?.pem.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        DaemonCommand::Certificate { subject, out } => return certificate(&paths, subject, out),
        DaemonCommand::Units { system, address, write } => {
            return daemon_ops::units(&paths, &facts.home, *system, address.as_deref(), *write);
        }
        _ => {}
    }
    let remote = Remote::own(&paths)?;
    match command {
        DaemonCommand::Status { json } => status(&remote, *json)?,
        DaemonCommand::Stop { cancel, drain, .. } => daemon_ops::stop(remote, *cancel, *drain, &paths)?,
        DaemonCommand::Reload => daemon_ops::reload(&remote, &paths)?,
        DaemonCommand::Pause => {
            remote.call(|mut caller| async move { caller.pause_queue(proto::PauseQueueRequest {}).await })?;
            talk("no more builds are started; again with:  smidr daemon resume");
        }
        DaemonCommand::Resume => {
            remote.call(|mut caller| async move { caller.resume_queue(proto::ResumeQueueRequest {}).await })?;
            talk("builds are started again");
        }
        DaemonCommand::Token(command) => token(&remote, command)?,
        DaemonCommand::Purge(wanted) => purge(&remote, wanted)?,
        DaemonCommand::Check | DaemonCommand::Ca | DaemonCommand::Certificate { .. } | DaemonCommand::Units { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn check(paths: &Paths) -> Done {
    let file = paths.home().join(config::FILE);
    run::check(&config::read(paths)?.tls)?;
    match file.exists() {
        true => talk(format!("{} is good", file.display())),
        false => talk(format!("there is no {}: the defaults count", file.display())),
    }
    Ok(ExitCode::SUCCESS)
}

fn certificate(paths: &Paths, subject: &str, out: &Path) -> Done {
    if !crate::model::BuildId::is_valid_name(subject) {
        return Err(crate::model::InvalidName(subject.into()).into());
    }
    let issued = Authority::open(&paths.daemon())?.client(subject)?;
    let file = |end: &str| -> PathBuf { out.join(format!("{subject}.{end}")) };
    write_atomically(&file("key"), issued.key.as_bytes(), 0o600)?;
    write_atomically(&file("pem"), issued.certificate.as_bytes(), 0o644)?;
    say(format!("{} and {}", file("pem").display(), file("key").display()));
    let entry = format!("certificates: [{{subject: {subject}, customer: NAME, scopes: [read, submit, cancel]}}]");
    talk(format!("what it may do, in {}:  {entry}", paths.home().join(config::FILE).display()));
    talk("without customer: the builds of all");
    Ok(ExitCode::SUCCESS)
}

fn status(remote: &Remote, json: bool) -> Result<(), Failure> {
    let info = remote.info()?;
    let queue = remote.call(|mut caller| async move { caller.get_queue(proto::GetQueueRequest {}).await })?;
    if json {
        let document = Document::new().with("daemon_version", &info.version)?.with("pid", &info.pid)?;
        let document = document.with("home", &info.home)?.with("addresses", &info.addresses)?;
        let document =
            document.with("pin", &Some(&info.pin).filter(|pin| !pin.is_empty()))?.with("draining", &info.draining)?;
        let document = document.with("paused", &queue.paused)?.with("max_builds", &queue.max_builds)?;
        super::client::queue_document(document, &queue)?.say();
        return Ok(());
    }
    let line = |subject: &str, text: &str| say(format!("{subject:<10} {text}"));
    line("daemon", &format!("{}, process {}", info.version, info.pid));
    line("home", &info.home);
    info.addresses.iter().for_each(|address| line("address", address));
    if let Some(started) = crate::rpc::time_of(info.started) {
        line("started", &moment(started));
    }
    let port = info.addresses.iter().find_map(|address| Some(address.parse::<SocketAddr>().ok()?.port()));
    if let Some(port) = port.filter(|_| !info.pin.is_empty()) {
        line("join", &login(port, Some(&info.pin)));
    }
    match (info.draining, queue.running.len()) {
        (false, _) => {}
        (true, 0) => line("ends", "now"),
        (true, running) => line("ends", &format!("with the last of {running} builds; no more are started")),
    }
    queue_lines(&queue).into_iter().for_each(say);
    Ok(())
}

fn token(remote: &Remote, command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { name, scope, customer, expires, json } => {
            let lifetime_s = match expires {
                None => 0,
                // Zero would be for ever.
                Some(text) => match text.parse::<Age>() {
                    Ok(age) if !age.0.is_zero() => age.0.as_secs(),
                    _ => return Err(wrong_age(text).into()),
                },
            };
            let scopes = scope.iter().map(|scope| number_of(*scope)).collect();
            let request = proto::CreateTokenRequest {
                name: name.clone(),
                scopes,
                customer: customer.clone().unwrap_or_default(),
                lifetime_s,
            };
            let made = remote.ask(&request, async |mut caller, request| caller.create_token(request).await)?;
            if *json {
                let token = made.token.as_ref().map(documents::Token::from);
                Document::new().with("token", &token)?.with("secret", &made.secret)?.say();
                return Ok(());
            }
            say(&made.secret);
            talk("it is shown only now: keep it in a file that only its user can read");
        }
        TokenCommand::Ls { json } => {
            let answer =
                remote.call(|mut caller| async move { caller.list_tokens(proto::ListTokensRequest {}).await })?;
            if *json {
                Document::new().with("tokens", &documents::all::<_, documents::Token<'_>>(&answer.tokens))?.say();
                return Ok(());
            }
            let row = |one: &proto::Token| {
                let customer = if one.customer.is_empty() { "all" } else { &one.customer };
                let expires = crate::rpc::time_of(one.expires).map_or("never".into(), moment);
                vec![one.name.clone(), documents::scope_names(one.scopes()).join(","), customer.into(), expires]
            };
            let rows: Vec<Vec<String>> = answer.tokens.iter().map(row).collect();
            hooks::list(&["NAME", "SCOPES", "CUSTOMER", "EXPIRES"], &rows);
        }
        TokenCommand::Rm { name } => {
            let request = proto::DeleteTokenRequest { name: name.clone() };
            remote.ask(&request, async |mut caller, request| caller.delete_token(request).await)?;
            talk(format!("{name} is revoked"));
        }
    }
    Ok(())
}

fn purge(remote: &Remote, wanted: &Purge) -> Result<(), Failure> {
    let age = |text: &String| text.parse::<Age>().map(|age| age.0.as_secs()).map_err(|()| wrong_age(text));
    let size = |text: &String| {
        let wrong = || Refused::new(format!("`{text}` is not a size"), [Hint::new("such as 200G or 500M")]);
        text.parse::<Size>().map(|size| size.0).map_err(|_| wrong())
    };
    let request = proto::PurgeBuildsRequest {
        keep: wanted.keep,
        older_than_s: wanted.older_than.as_ref().map(age).transpose()?,
        max_bytes: wanted.max_size.as_ref().map(size).transpose()?,
        customer: wanted.customer.clone().unwrap_or_default(),
        artifacts_only: wanted.artifacts_only,
        dry_run: wanted.dry_run,
    };
    let gone = remote.ask(&request, async |mut caller, request| caller.purge_builds(request).await)?;
    if wanted.json {
        let document = Document::new().with("dry_run", &wanted.dry_run)?.with("bytes", &gone.bytes)?;
        document.with("builds", &gone.build_ids)?.say();
        return Ok(());
    }
    gone.build_ids.iter().for_each(say);
    let verb = if wanted.dry_run { "would remove" } else { "removed" };
    let what = match wanted.artifacts_only {
        true => format!("what {} builds left behind", gone.build_ids.len()),
        false => format!("{} builds with all that is known of them", gone.build_ids.len()),
    };
    talk(format!("{verb} {what}, {}", bytes(gone.bytes)));
    Ok(())
}

fn wrong_age(text: &str) -> Refused {
    Refused::new(format!("`{text}` is not a time"), [Hint::new("in hours, days or weeks, such as 12h, 90d or 8w")])
}

fn number_of(scope: Scope) -> i32 {
    match scope {
        Scope::Read => proto::Scope::Read,
        Scope::Submit => proto::Scope::Submit,
        Scope::Cancel => proto::Scope::Cancel,
        Scope::Admin => proto::Scope::Admin,
    }
    .into()
}
