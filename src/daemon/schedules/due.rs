//! Which schedules are due, and how many of their runs were missed. Pure: schedules and the time go in.

use jiff::{SignedDuration, Timestamp};

use super::{When, table::ScheduleRow};

/// A run that begins later than this was missed.
const ON_TIME: SignedDuration = SignedDuration::from_mins(1);
/// A clock that is set back further than this was wrong before.
const WRONG_CLOCK: SignedDuration = SignedDuration::from_hours(24);

/// A schedule whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Whose builds it starts.
    pub customer: String,
    /// Its name.
    pub name: String,
    /// The due time.
    pub at: Timestamp,
    /// How many due times have passed without a run: all but the last, and that one too where it is late.
    pub missed: u32,
    /// Whether it is run now. Else it was missed, and is skipped.
    pub runs: bool,
    /// Whether nothing is built where the pins have not changed.
    pub only_if_changed: bool,
    /// Of what the last build was pinned to.
    pub pins: Option<String>,
}

impl Due {
    /// The same for each attempt to start the run of one due time, so that it becomes one build.
    pub(crate) fn request_id(&self) -> String {
        format!("schedule/{}/{}/{}", self.customer, self.name, self.at)
    }
}

/// Schedules whose due times lie behind. Those whose run is being started are left out by the caller.
pub(crate) fn due(schedules: &[ScheduleRow], now: Timestamp) -> Vec<Due> {
    schedules.iter().filter_map(|schedule| due_one(schedule, now)).collect()
}

fn due_one(schedule: &ScheduleRow, now: Timestamp) -> Option<Due> {
    let when = readable(schedule)?;
    let (count, at) = when.between(handled(schedule, now), now)?;
    let is_late = now.duration_since(at) > ON_TIME;
    Some(Due {
        at,
        missed: if is_late { count.get() } else { count.get() - 1 },
        runs: !is_late || schedule.run_missed,
        ..of(schedule, at)
    })
}

/// A run that is begun.
pub(super) fn of(schedule: &ScheduleRow, at: Timestamp) -> Due {
    Due {
        customer: schedule.customer.clone(),
        name: schedule.name.clone(),
        at,
        missed: schedule.missed,
        runs: true,
        only_if_changed: schedule.only_if_changed,
        pins: schedule.pins.clone(),
    }
}

/// None for one that another smidr has written and this one cannot read.
pub(super) fn readable(schedule: &ScheduleRow) -> Option<When> {
    When::new(&schedule.cron, &schedule.time_zone).ok()
}

/// Due times up to this one are over: they are not run again by a clock that was set back, unless it was wrong before.
fn handled(schedule: &ScheduleRow, now: Timestamp) -> Timestamp {
    if schedule.handled.duration_since(now) > WRONG_CLOCK { now } else { schedule.handled }
}

/// When a schedule is due next; none for one that cannot be read.
pub(crate) fn next(schedule: &ScheduleRow, now: Timestamp) -> Option<Timestamp> {
    readable(schedule)?.next_after(handled(schedule, now))
}

/// When the first of these is due.
pub(crate) fn sleep_until(schedules: &[ScheduleRow], now: Timestamp) -> Option<Timestamp> {
    schedules.iter().filter_map(|schedule| next(schedule, now)).min()
}
