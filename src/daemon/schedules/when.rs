//! When something is due: an expression of cron, by the clock of a time zone. Pure.

use std::num::NonZeroU32;

use croner::Cron;
use jiff::{Timestamp, tz::TimeZone};

use super::ScheduleError;

/// So many missed runs are counted at most.
pub(super) const MOST_MISSED: u32 = 10_000;

/// The fields, and what they hold.
const FIELDS: [&str; 5] = [
    "minute, 0 to 59",
    "hour, 0 to 23",
    "day of the month, 1 to 31",
    "month, 1 to 12 or JAN to DEC",
    "day of the week, 0 to 7 or SUN to SAT",
];

/// Bytes of an expression, and of the name of a time zone: reading a long one takes long, and is done at each look at the schedules.
const LONGEST: usize = 256;

/// Times that come again, by the clock of a time zone.
#[derive(Clone, Debug)]
pub(crate) struct When {
    cron: Cron,
    zone: TimeZone,
}

/// Which field is wrong, by trying each alone: croner does not tell.
fn wrong_field(cron: &str) -> Option<String> {
    if cron.contains('@') {
        return None;
    }
    let mut fields = cron.split_whitespace().zip(FIELDS).enumerate();
    let is_wrong = |(at, (field, _)): &(usize, (&str, &str))| {
        let alone = (0..FIELDS.len()).map(|other| if other == *at { field } else { "*" });
        alone.collect::<Vec<&str>>().join(" ").parse::<Cron>().is_err()
    };
    let (_, (field, what)) = fields.find(is_wrong)?;
    Some(format!("`{field}` is no {what}"))
}

impl When {
    /// Reads an expression. A time zone that is left out is UTC.
    ///
    /// # Errors
    ///
    /// When it is none, is never due, or the time zone is not known.
    pub(crate) fn new(cron: &str, time_zone: &str) -> Result<Self, ScheduleError> {
        for (what, text) in [("time", cron), ("time zone", time_zone)] {
            if text.len() > LONGEST {
                return Err(ScheduleError::Long { what, most: LONGEST });
            }
        }
        let name = if time_zone.is_empty() { "UTC" } else { time_zone };
        let zone = TimeZone::get(name).map_err(|_| ScheduleError::TimeZone(time_zone.into()))?;
        let wrong = |why: String| ScheduleError::Cron { cron: cron.into(), why };
        let fields = cron.split_whitespace().count();
        match (cron.contains('@'), fields) {
            (true, 1) | (false, 5) => {}
            (true, _) => return Err(wrong("a word with @ stands alone".into())),
            (false, _) => return Err(wrong(format!("it has {fields} fields"))),
        }
        let parsed = cron.parse().map_err(|error: croner::errors::CronError| {
            wrong(wrong_field(cron).unwrap_or_else(|| error.to_string()))
        })?;
        let when = Self { cron: parsed, zone };
        // From a day that no clock change is near, so that the answer does not depend on today.
        match when.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(when),
            None => Err(ScheduleError::Never { cron: cron.into(), time_zone: name.into() }),
        }
    }

    /// The first due time after another time. A time of day that a clock change leaves out is due when the clock has changed, one that comes twice is due the first time; every so
    /// many minutes or hours goes on through both.
    pub(crate) fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        // croner counts whole seconds, and would look for the next one after a part of one.
        let second = Timestamp::from_second(time.as_second()).ok()?.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&second, false).ok()?.timestamp();
        (next > time).then_some(next)
    }

    /// How many due times there are after one time and up to another, and the last of them.
    pub(super) fn between(&self, after: Timestamp, until: Timestamp) -> Option<(NonZeroU32, Timestamp)> {
        let all = std::iter::successors(self.next_after(after), |last| self.next_after(*last));
        let mut found = None;
        for (count, at) in (1..=MOST_MISSED).zip(all.take_while(|at| *at <= until)) {
            found = Some((NonZeroU32::new(count)?, at));
        }
        found
    }
}
