//! A build of a daemon, shown as if it ran here: Ctrl-C cancels it, a hangup leaves it alone.

use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::Signal;

use super::{
    args::EventForm,
    output::talk,
    report::Failure,
    terminal::{JsonLines, Terminal},
};
use crate::{
    events::EventSink,
    history::journal::Entry,
    model::{BuildId, Event, Outcome, State},
    rpc::client::Remote,
    service::{BuildService as _, ServiceError},
    system::stop::StopToken,
};

/// How a build that was followed went on.
pub(super) enum End {
    /// It is over.
    Over(Box<Outcome>),
    /// It goes on without this terminal.
    Left,
}

/// What is shown of a build.
#[derive(Clone, Copy)]
pub(super) enum View {
    /// As a build of this terminal.
    Live(Option<EventForm>),
    /// What is wrong, when it is over.
    Errors,
}

/// Follows a build to its end. The first Ctrl-C stops it, the second kills what runs; a hangup leaves it alone.
pub(super) fn follow(service: &Remote, id: &BuildId, view: View, signals: &StopToken) -> Result<End, Failure> {
    let shown = if matches!(view, View::Errors) { Terminal::errors() } else { Terminal::new() };
    let mut sinks: Vec<Box<dyn EventSink>> = vec![Box::new(shown.of_daemon(service.is_own))];
    if let View::Live(Some(EventForm::Json)) = view {
        sinks.push(Box::new(JsonLines));
    }
    let (mut after, mut outcome, mut asked) = (0, None, 0_u32);
    // Each signal ends one watch.
    let current = Arc::new(Mutex::new(StopToken::default()));
    let watched = current.clone();
    let _listening = signals.listen(move |_| watched.lock().unwrap_or_else(PoisonError::into_inner).escalate());
    loop {
        let stop = StopToken::default();
        *current.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        let over = service.watch(id, after, Some(&stop), &mut |entry| {
            if let Entry::Record(record) = entry {
                after = record.seq().unwrap_or(after);
                sinks.iter_mut().for_each(|sink| sink.accept(&record));
                if let Event::Finished { outcome: end } = record.event {
                    outcome = Some(end);
                }
            }
            true
        })?;
        if over {
            // A journal without an end is that of a build that was interrupted, or of one that never began.
            let shown = || service.show(Some(id.as_str())).ok().and_then(|build| build.outcome);
            let outcome = outcome.or_else(shown).unwrap_or_else(|| Outcome::new(State::Interrupted));
            return Ok(End::Over(Box::new(outcome)));
        }
        if signals.signal() == Signal::SIGHUP {
            return Ok(End::Left);
        }
        asked += 1;
        match service.stop(id, asked > 1, None) {
            Ok(()) | Err(ServiceError::Over { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if asked > 2 {
            talk(format!("{id} was asked to stop; watch it with:  smidr client attach {id}"));
            return Ok(End::Left);
        }
    }
}
