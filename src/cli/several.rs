//! Several builds at once: a worker each, one view with a line for each, one exit code.

use std::{process::Child, sync::mpsc, thread};

use super::{
    args::{Build, EventForm},
    output::{Bar, talk},
    report::{Done, Failure, report},
    terminal::{JsonLines, Terminal},
    voice::watched,
};
use crate::{
    events::EventSink as _,
    history::journal::Entry,
    model::{BuildId, Event, Kind, Outcome, State, Submission},
    service::{BuildService, ServiceError},
    system::stop::{StopRequest, StopToken},
};

/// What a follower says of its build.
enum Said {
    Entry(Entry),
    End(Result<bool, ServiceError>),
}

/// Runs all of them. Without `--keep-going` the first that fails stops the rest.
pub(super) fn build(
    service: &(dyn BuildService + Sync),
    submissions: &[Submission],
    args: &Build,
    mut start: impl FnMut(&Submission) -> Result<(BuildId, Option<Child>), Failure>,
    stop: &StopToken,
) -> Done {
    let (mut workers, mut started): (Vec<Child>, Vec<Submission>) = Default::default();
    let mut first_failed = None;
    for submission in submissions {
        match start(submission) {
            Ok((id, worker)) => {
                workers.extend(worker);
                started.push(Submission { id, ..submission.clone() });
            }
            Err(error) => {
                first_failed = first_failed.or(Some(error.kind().exit_code()));
                report(&error);
                if !args.keep_going {
                    let reason = format!("{} could not be started", submission.id);
                    stop_all(service, &started, StopRequest::Graceful, Some(&reason));
                    break;
                }
            }
        }
    }
    let submissions = started.as_slice();
    // Each request goes to all of them; a build that is over has no use for it.
    let (requests, asked) = mpsc::channel();
    let listening = stop.listen(move |request| {
        let _ = requests.send(request);
    });
    let bars = watched().then(|| Bar::several(submissions.len()));
    let mut bars = bars.into_iter().flatten();
    let mut views: Vec<Terminal> =
        submissions.iter().map(|one| Terminal::labelled(label(one, submissions), bars.next())).collect();
    let mut outcomes: Vec<Option<Outcome>> = vec![None; submissions.len()];
    let (sender, said) = mpsc::sync_channel(1024);
    thread::scope(|scope| -> Result<(), Failure> {
        for (number, submission) in submissions.iter().enumerate() {
            let sender = sender.clone();
            scope.spawn(move || {
                let ever = StopToken::default();
                let mut take = |entry| sender.send((number, Said::Entry(entry))).is_ok();
                let end = service.watch(&submission.id, 0, Some(&ever), &mut take);
                let _ = sender.send((number, Said::End(end)));
            });
        }
        drop(sender);
        scope.spawn(move || {
            while let Ok(request) = asked.recv() {
                stop_all(service, submissions, request, None);
            }
        });
        for (number, said) in said {
            let record = match said {
                Said::Entry(Entry::Record(record)) => record,
                Said::Entry(_) => continue,
                Said::End(end) => {
                    // The others go on, and so does that one: it is only not shown any more.
                    if let Err(error) = end {
                        report(&error.into());
                    }
                    continue;
                }
            };
            if let Some(view) = views.get_mut(number) {
                view.accept(&record);
            }
            if let Some(EventForm::Json) = args.events {
                JsonLines.accept(&record);
            }
            if let Event::Finished { outcome } = record.event {
                if outcome.kind.is_some() && first_failed.is_none() {
                    first_failed = Some(outcome.exit_code());
                    if !args.keep_going && !stop.is_requested() {
                        let reason = format!("{} did not complete", record.build);
                        stop_all(service, submissions, StopRequest::Graceful, Some(&reason));
                    }
                }
                if let Some(place) = outcomes.get_mut(number) {
                    *place = Some(outcome);
                }
            }
        }
        // With it, the thread that passes requests on.
        drop(listening);
        Ok(())
    })?;
    drop(views);
    for worker in &mut workers {
        // Its build is over; so is it, in a moment.
        let _ = worker.wait();
    }
    // Of those whose end was not seen, the record tells.
    let outcome_of = |submission: &Submission| service.show(Some(submission.id.as_str())).ok()?.outcome;
    let ends: Vec<Outcome> = submissions
        .iter()
        .zip(outcomes)
        .map(|(one, seen)| seen.or_else(|| outcome_of(one)).unwrap_or_else(|| Outcome::new(State::Interrupted)))
        .collect();
    summary(submissions, &ends);
    let failed = ends.iter().map(Outcome::exit_code).find(|code| *code != 0);
    let code = match stop.is_requested() {
        true => Kind::Cancelled.exit_code(),
        false => first_failed.or(failed).unwrap_or_default(),
    };
    Ok(code.into())
}

fn stop_all(
    service: &(dyn BuildService + Sync),
    submissions: &[Submission],
    request: StopRequest,
    reason: Option<&str>,
) {
    for submission in submissions {
        // One that is over needs no stop.
        let _ = service.stop(&submission.id, request == StopRequest::Kill, reason);
    }
}

/// Tells a build apart: its variant, and its project where there are several.
fn label(one: &Submission, all: &[Submission]) -> String {
    let one_project = all.iter().all(|other| other.config_path() == one.config_path());
    let variant = one.request.variant.as_deref();
    match (one_project, variant) {
        (true, Some(variant)) => format!("{variant:<12} "),
        (_, None) if all.iter().any(|other| other.id.name() == one.id.name() && other.id != one.id) => {
            format!("{:<12} ", one.config_path().file_name().unwrap_or_default().display())
        }
        (_, None) => format!("{:<12} ", one.id.name()),
        (false, Some(variant)) => format!("{:<12} ", format!("{}/{variant}", one.id.name())),
    }
}

fn summary(submissions: &[Submission], ends: &[Outcome]) {
    for (submission, Outcome { state, .. }) in submissions.iter().zip(ends) {
        talk(format!("{:<40} {} {state}", submission.id, label(submission, submissions)));
    }
}
