//! Builds at times. In go schedules of the ledger and the clock, out come runs that are due. What is built is text to it: the caller of [`Schedules::run`] makes a build of
//! it. Times are right where clocks change, and each due time is started once, also where the clock is set back or the daemon is killed in between.

pub(crate) mod due;
pub(crate) mod fetched;
mod when;

use std::{
    io, mem,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use jiff::Timestamp;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use serde::{Deserialize, Serialize};

use self::due::{due, of, sleep_until};
pub(crate) use self::{due::Due, when::When};
use super::ledger::{
    Ledger, LedgerError,
    schedules::{self as table, Ran, ScheduleRow},
};
use crate::{
    model::{Hint, Kind, Logins, UserError, folder_of, without_secrets},
    system::stop::StopToken,
};

const LONGEST_NAME: usize = 128;
/// Schedules of one customer.
const MOST: u32 = 100;
/// So many runs are started at once, each in a thread: of all customers, and of one.
const AT_ONCE: usize = 16;
const OF_ONE_CUSTOMER: usize = 2;
/// Bounds of a config in git, in bytes of one text, and in targets.
const LONGEST_TEXT: usize = 2048;
const LONGEST_TARGET: usize = 256;
const MOST_TARGETS: usize = 256;
/// Bytes of a source in a list. Any config in git has fewer, with each character escaped; a submission may have many more.
const LONGEST_LISTED: u32 = 256 << 10;

/// Why there is no such schedule.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScheduleError {
    /// What is no expression.
    #[error("`{cron}` is no time for a schedule: {why}")]
    Cron {
        /// What was written.
        cron: String,
        /// What is wrong with it.
        why: String,
    },
    /// An expression that fits no day.
    #[error("`{cron}` is never due in {time_zone}")]
    Never {
        /// What was written.
        cron: String,
        /// The time zone.
        time_zone: String,
    },
    /// A time zone that is not known.
    #[error("there is no time zone `{0}`")]
    TimeZone(String),
    /// A name that cannot be used.
    #[error("`{0}` is no name for a schedule: it has 1 to {LONGEST_NAME} letters, digits, `.`, `_` or `-`")]
    Name(String),
    /// A reference of git that could be something else.
    #[error("`{value}` cannot be the {what} of a config in git")]
    Git {
        /// What it is.
        what: &'static str,
        /// What was written.
        value: String,
    },
    /// A text that none needs.
    #[error("the {what} of a schedule is longer than {most} bytes")]
    Long {
        /// What it is.
        what: &'static str,
        /// How long it may be.
        most: usize,
    },
    /// More targets than a build is asked for.
    #[error("a schedule builds at most {MOST_TARGETS} targets")]
    Targets,
    /// There are enough.
    #[error("there are {MOST} schedules already")]
    TooMany,
    /// An address that nothing is fetched from.
    #[error("a config is not fetched from {}", without_secrets(url))]
    Unreached {
        /// As it was written.
        url: String,
    },
    /// One of its runs is being started.
    #[error("a build of the schedule `{0}` is just being started")]
    Starting(String),
    /// Pins are compared where a config is fetched.
    #[error("only a config in git can be built only if its pins have changed")]
    Changed,
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The timer, or what wakes it.
    #[error("cannot make the timer of the schedules")]
    Timer(#[from] io::Error),
}

impl UserError for ScheduleError {
    fn kind(&self) -> Kind {
        match self {
            Self::Cron { .. }
            | Self::Never { .. }
            | Self::TimeZone(_)
            | Self::Name(_)
            | Self::Git { .. }
            | Self::Long { .. }
            | Self::Targets
            | Self::TooMany
            | Self::Unreached { .. }
            | Self::Starting(_)
            | Self::Changed => Kind::Request,
            Self::Ledger(error) => error.kind(),
            Self::Timer(_) => Kind::Host,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Cron { .. } => vec![Hint::new("five fields, as crontab(5) has them: `30 2 * * 1-5`, or @daily")],
            Self::TimeZone(_) => vec![Hint::new("name it as the IANA does: Europe/Berlin")],
            Self::Unreached { url } => what_would_reach(url),
            Self::Starting(_) => vec![Hint::command("see what became of it", "smidr client schedule ls")],
            Self::Ledger(error) => error.hints(),
            Self::TooMany => vec![Hint::command("remove one", "smidr client schedule rm NAME")],
            Self::Never { .. }
            | Self::Name(_)
            | Self::Git { .. }
            | Self::Long { .. }
            | Self::Targets
            | Self::Changed
            | Self::Timer(_) => Vec::new(),
        }
    }
}

/// What would let a config be fetched from an address.
fn what_would_reach(url: &str) -> Vec<Hint> {
    let anonymous = Hint::new("https, http and git addresses are reached without a login");
    let shown = without_secrets(url);
    if !Logins::Below(vec![shown.clone()]).reach(url) {
        return vec![anonymous];
    }
    // Layers in the config's own repository are fetched from it too.
    let layers = match folder_of(url) {
        Some(folder) => format!("local-repositories:{}", folder.display()),
        None if Path::new(url).is_absolute() => format!("local-repositories:{shown}"),
        None => format!("ssh-repositories:{shown}"),
    };
    let allow = format!("allow: ['login:{shown}', '{layers}']");
    vec![anonymous, Hint::config("or the daemon's administrator allows it in daemon.yaml", allow)]
}

/// What is built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub(crate) enum Source {
    /// What was submitted with the schedule, as text. Only the caller knows its form.
    Submission {
        /// It.
        template: String,
    },
    /// A config in a git repository.
    Git(GitConfig),
}

/// A config in a git repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GitConfig {
    /// Its address.
    pub url: String,
    /// A branch or a tag.
    pub reference: String,
    /// The config in it.
    pub path: String,
    /// What is built instead of what it says.
    #[serde(default)]
    pub targets: Vec<String>,
    /// An overlay of it.
    #[serde(default)]
    pub variant: Option<String>,
}

/// A schedule that is to be.
#[derive(Clone, Debug)]
pub(crate) struct NewSchedule {
    /// Whose builds it starts; empty: of no customer.
    pub customer: String,
    /// Its name.
    pub name: String,
    /// Five fields, or a word such as @daily.
    pub cron: String,
    /// As the IANA names it; empty: UTC.
    pub time_zone: String,
    /// What is built.
    pub source: Source,
    /// Whether one run is made up for those that were missed.
    pub run_missed: bool,
    /// Whether nothing is built where the pins have not changed.
    pub only_if_changed: bool,
}

/// All schedules of a daemon. Clones are the same.
#[derive(Clone)]
pub(crate) struct Schedules {
    ledger: Ledger,
    // A byte wakes the loop.
    wake: Arc<(UnixStream, UnixStream)>,
}

impl Schedules {
    /// Those of a ledger.
    ///
    /// # Errors
    ///
    /// When the process has no more descriptors.
    pub(crate) fn new(ledger: &Ledger) -> Result<Self, ScheduleError> {
        let (writer, reader) = UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        reader.set_nonblocking(true)?;
        Ok(Self { ledger: ledger.clone(), wake: Arc::new((writer, reader)) })
    }

    /// Adds a schedule, or replaces that of its customer and name.
    ///
    /// # Errors
    ///
    /// When it is wrong, or cannot be written down.
    pub(crate) async fn create(&self, new: NewSchedule, now: Timestamp) -> Result<ScheduleRow, ScheduleError> {
        let row = checked(new, now)?;
        if !self.ledger.write(table::put(row.clone(), MOST)).await? {
            return Err(ScheduleError::TooMany);
        }
        self.wake();
        Ok(row)
    }

    /// Removes a schedule, and says whether there was one. A run that is being started goes on.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) async fn delete(&self, customer: &str, name: &str) -> Result<bool, ScheduleError> {
        let was_there = self.ledger.write(table::delete(customer.into(), name.into())).await?;
        self.wake();
        Ok(was_there)
    }

    /// All of them, by customer and name. A large submission is not read: the source is empty then.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<ScheduleRow>, ScheduleError> {
        Ok(self.ledger.read(table::all(LONGEST_LISTED))?)
    }

    /// Has the loop look at the schedules and at the stop again.
    pub(crate) fn wake(&self) {
        // A full pipe wakes it as well.
        let _ = rustix::io::write(&self.wake.0, b"x");
    }

    /// When they are due, without what is built.
    fn times(&self) -> Result<Vec<ScheduleRow>, ScheduleError> {
        Ok(self.ledger.read(table::all(0))?)
    }

    /// Starts what is due, each run in a thread, until a stop is requested and those threads have ended. Runs that were begun when the daemon was killed are begun again, with the same request id.
    ///
    /// # Errors
    ///
    /// When the ledger or the timer fails.
    pub(crate) fn run(
        &self,
        stop: &StopToken,
        start: impl Fn(&Due, &Source) -> Ran + Sync,
    ) -> Result<(), ScheduleError> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK);
        let timer = timer.map_err(io::Error::from)?;
        let woken = self.clone();
        let _listening = stop.listen(move |_| woken.wake());
        self.ledger.write_now(table::count_anew)?;
        let (busy, mut waiting) = (Busy::default(), Vec::new());
        for schedule in self.times()? {
            match (schedule.pending, due::readable(&schedule)) {
                (Some(at), Some(_)) => waiting.push(of(&schedule, at)),
                (None, None) => {
                    tracing::warn!(name = schedule.name, cron = schedule.cron, "a schedule that cannot be read");
                }
                _ => {}
            }
        }
        thread::scope(|scope| {
            while !stop.is_requested() {
                let now = Timestamp::now();
                for due in due(&idle(self.times()?), now) {
                    if due.missed > 0 {
                        let Due { customer, name, missed, runs, .. } = &due;
                        tracing::warn!(customer, name, missed, runs, "runs of a schedule were missed");
                    }
                    let starts = due.runs.then_some(due.at);
                    let (customer, name) = (due.customer.clone(), due.name.clone());
                    self.ledger.write_now(table::handle(customer, name, now, starts, due.missed))?;
                    if due.runs {
                        waiting.push(due);
                    }
                }
                for due in mem::take(&mut waiting) {
                    if !busy.take(&due.customer) {
                        waiting.push(due);
                        continue;
                    }
                    let (one, start, busy) = (due.clone(), &start, &busy);
                    let begun = thread::Builder::new().name("schedule".into()).spawn_scoped(scope, move || {
                        let ran = self.start(&one, start);
                        busy.give_back(&one.customer);
                        self.end(&one, ran);
                    });
                    if let Err(error) = begun {
                        busy.give_back(&due.customer);
                        self.end(&due, Ran::Failed(format!("there can be no more threads: {error}")));
                    }
                }
                self.sleep(&timer, sleep_until(&idle(self.times()?), now))?;
            }
            Ok(())
        })
    }

    fn start(&self, due: &Due, start: &(impl Fn(&Due, &Source) -> Ran + Sync)) -> Ran {
        match self.source(due) {
            Ok(Some(source)) => match serde_json::from_str(&source) {
                Ok(source) => start(due, &source),
                Err(error) => Ran::Failed(format!("what it builds cannot be read: {error}")),
            },
            // It was replaced, or is gone.
            Ok(None) => Ran::Unchanged,
            Err(error) => Ran::Failed(error.to_string()),
        }
    }

    /// What a run that is begun builds, as text; none: its schedule was replaced, or is gone.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn source(&self, due: &Due) -> Result<Option<String>, LedgerError> {
        self.ledger.read(|db| table::source(db, &due.customer, &due.name, due.at))
    }

    fn end(&self, due: &Due, ran: Ran) {
        if let Ran::Failed(why) = &ran {
            tracing::warn!(customer = due.customer, name = due.name, why, "a schedule started no build");
        }
        self.finish(due, ran);
    }

    /// Begins a run that is not due. `at` names it: the same one may be begun again. Given back is what [`Schedules::finish`] has to have; none: there is no such
    /// schedule. If the daemon is killed in between, it is begun again at the next start.
    ///
    /// # Errors
    ///
    /// When another run is being started, or the ledger cannot be written.
    pub(crate) fn begin(&self, customer: &str, name: &str, at: Timestamp) -> Result<Option<Due>, ScheduleError> {
        // As the ledger keeps it.
        let at = Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at);
        let is_it = |row: &ScheduleRow| row.customer == customer && row.name == name;
        let Some(row) = self.list()?.into_iter().find(is_it) else { return Ok(None) };
        match self.ledger.write_now(table::begin(customer.into(), name.into(), at, Timestamp::now()))? {
            true => Ok(Some(of(&row, at))),
            false => Err(ScheduleError::Starting(name.into())),
        }
    }

    /// Notes how a run has ended.
    pub(crate) fn finish(&self, due: &Due, ran: Ran) {
        let finished = table::finish(due.customer.clone(), due.name.clone(), due.at, ran);
        if let Err(error) = self.ledger.write_now(finished) {
            // It is begun again at the next start, and is the same build then.
            tracing::error!(customer = due.customer, name = due.name, %error, "cannot note the run of a schedule");
        }
        self.wake();
    }

    /// Sleeps until a time, until it is woken, or until the clock is set.
    fn sleep(&self, timer: &TimerFd, until: Option<Timestamp>) -> io::Result<()> {
        if let Some(until) = until {
            // A timer at zero would be none.
            let at = TimeSpec::new(until.as_second().max(1), 0);
            // timerfd_create(2): poll returns when the clock is changed, so that what is due then is seen at once.
            let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
            timer.set(Expiration::OneShot(at), flags)?;
        } else {
            timer.unset()?;
        }
        let reader = &self.wake.1;
        let mut either =
            [PollFd::new(timer.as_fd(), PollFlags::POLLIN), PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        match poll(&mut either, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut seen = [0; 64];
        while rustix::io::read(reader, &mut seen).is_ok_and(|count| count > 0) {}
        Ok(())
    }
}

/// The customers of the runs that are being started.
#[derive(Default)]
struct Busy(Mutex<Vec<String>>);

impl Busy {
    /// Takes a place, where there is one.
    fn take(&self, customer: &str) -> bool {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = busy.iter().filter(|one| *one == customer).count();
        let has_room = busy.len() < AT_ONCE && own < OF_ONE_CUSTOMER;
        if has_room {
            busy.push(customer.into());
        }
        has_room
    }

    fn give_back(&self, customer: &str) {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = busy.iter().position(|one| one == customer) {
            busy.swap_remove(at);
        }
    }
}

/// Those that are not being started.
fn idle(schedules: Vec<ScheduleRow>) -> Vec<ScheduleRow> {
    schedules.into_iter().filter(|schedule| schedule.pending.is_none()).collect()
}

/// What is kept of a new schedule. Its first due time comes after `now`.
fn checked(new: NewSchedule, now: Timestamp) -> Result<ScheduleRow, ScheduleError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if new.name.is_empty() || new.name.len() > LONGEST_NAME || !new.name.chars().all(is_plain) {
        return Err(ScheduleError::Name(new.name));
    }
    When::new(&new.cron, &new.time_zone)?;
    match &new.source {
        Source::Git(git) => check_git(git)?,
        Source::Submission { .. } if new.only_if_changed => return Err(ScheduleError::Changed),
        Source::Submission { .. } => {}
    }
    Ok(ScheduleRow {
        customer: new.customer,
        name: new.name,
        cron: new.cron,
        time_zone: if new.time_zone.is_empty() { "UTC".into() } else { new.time_zone },
        source: serde_json::to_string(&new.source).expect("each field has a text"),
        run_missed: new.run_missed,
        only_if_changed: new.only_if_changed,
        handled: now,
        pending: None,
        last: None,
        last_build: None,
        last_error: None,
        missed: 0,
        pins: None,
    })
}

/// These become arguments of a command, and a path in a checkout.
fn check_git(git: &GitConfig) -> Result<(), ScheduleError> {
    let texts = [("address", &git.url), ("branch or tag", &git.reference), ("path", &git.path)];
    if let Some((what, _)) = texts.iter().find(|(_, text)| text.len() > LONGEST_TEXT) {
        return Err(ScheduleError::Long { what, most: LONGEST_TEXT });
    }
    if git.targets.len() > MOST_TARGETS {
        return Err(ScheduleError::Targets);
    }
    let wrong = |what, value: &str| Err(ScheduleError::Git { what, value: value.into() });
    let is_odd = |text: &str| text.is_empty() || text.starts_with('-') || text.chars().any(char::is_control);
    if is_odd(&git.url) {
        return wrong("address", &without_secrets(&git.url));
    }
    if is_odd(&git.reference) {
        return wrong("branch or tag", &git.reference);
    }
    let is_below = Path::new(&git.path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if is_odd(&git.path) || !is_below {
        return wrong("path", &git.path);
    }
    for (what, text) in
        git.targets.iter().map(|text| ("target", text)).chain(git.variant.iter().map(|text| ("variant", text)))
    {
        if text.len() > LONGEST_TARGET {
            return Err(ScheduleError::Long { what, most: LONGEST_TARGET });
        }
        if text.chars().any(char::is_control) {
            return wrong(what, text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
