//! `smidr attach`: a build that runs, as if it had been started in this terminal.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::signal::{SigSet, Signal};

use super::{
    args::Attach,
    context,
    output::{self, talk},
    pace,
    report::Done,
    terminal::Terminal,
};
use crate::{
    events::EventSink as _,
    history::{BuildRecord, journal::Entry},
    model::{Event, Outcome, State},
    rpc::client::Remote,
    service::{BuildService, LocalService, ServiceError},
    system::{files::FileError, paths, stop::StopToken},
};

/// Runs the command.
pub(super) fn attach(config: &Path, args: &Attach) -> Done {
    let signals = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let facts = context::gather();
    let paths = paths::find(&facts.environment)?;
    let service = LocalService::new(&paths);
    let build = context::named_or_newest(&service, args.id.as_deref(), config, &facts)?;
    let build = if args.id.is_none() { service.or_running(build)? } else { build };
    follow(&service, &build, "smidr attach", Terminal::new(), &signals)
}

/// The same for a build of a daemon.
pub(super) fn attach_to(remote: &Remote, build: &BuildRecord) -> Done {
    let signals = StopToken::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    follow(remote, build, "smidr client attach", Terminal::new().of_daemon(remote.is_own), &signals)
}

/// `again` is what watches it once more.
fn follow(service: &dyn BuildService, build: &BuildRecord, again: &str, view: Terminal, signals: &StopToken) -> Done {
    let mut view = view.knowing(None, pace::beside(service, build));
    let (mut after, mut outcome, mut cancelling) = (0, None, false);
    // Each signal ends one watch.
    let current = Arc::new(Mutex::new(StopToken::default()));
    let watched = current.clone();
    let _listening = signals.listen(move |_| watched.lock().unwrap_or_else(PoisonError::into_inner).escalate());
    loop {
        let stop = StopToken::default();
        *current.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        let over = service.watch(&build.id, after, Some(&stop), &mut |entry| {
            if let Entry::Record(record) = entry {
                after = record.seq().unwrap_or(after);
                view.accept(&record);
                if let Event::Finished { outcome: end } = record.event {
                    outcome = Some(end);
                }
            }
            true
        })?;
        if over {
            // A journal without an end is that of a build that was interrupted.
            let outcome = outcome.unwrap_or_else(|| Outcome::new(State::Interrupted));
            return Ok(ExitCode::from(outcome.exit_code()));
        }
        view.pause();
        let cancel = cancelling || signals.signal() == Signal::SIGINT && wants_cancel();
        if !cancel {
            talk(format!("{} goes on; watch it again:  {again} {}", build.id, build.id));
            return Ok(ExitCode::SUCCESS);
        }
        // As in the terminal that started it: the second time kills.
        match service.stop(&build.id, cancelling, None) {
            Ok(()) | Err(ServiceError::Over { .. }) => cancelling = true,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the build is to be cancelled, rather than left alone. Without a terminal it is left alone; a signal while it is asked ends this
/// process, as it ends any that reads from its terminal.
fn wants_cancel() -> bool {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return false;
    }
    talk("");
    output::ask("Detach, and let the build go on (Ctrl-C again does so, too), or cancel it? [D/c]");
    let deaf = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    let _ = deaf.thread_unblock();
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    let _ = deaf.thread_block();
    read.is_ok() && ["c", "cancel"].contains(&answer.trim().to_ascii_lowercase().as_str())
}
