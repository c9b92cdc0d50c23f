//! Progress where no lines are drawn again, such as in the log of a CI: its beginning, its end, and a line every ten seconds in between.
//! Pure: the time is that of the records.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

use super::super::{
    board::{amount, verb},
    output::duration,
    times::{between, clock},
};
use crate::model::{Activity, Event, Record, Unit};

/// How often the same work is told.
const PERIOD: Duration = Duration::from_secs(10);

/// What takes no longer has no end of its own.
const MOMENT: Duration = Duration::from_secs(1);

/// What is being worked on: when that began, and when it was told last.
#[derive(Default)]
pub(super) struct Works(HashMap<(Activity, String), (Timestamp, Timestamp)>);

impl Works {
    /// The line that a record is worth, if it is.
    pub(super) fn line(&mut self, record: &Record) -> Option<String> {
        let Event::Progress { activity, subject, done, total, unit } = &record.event else { return None };
        let (done, total, unit) = (*done, *total, *unit);
        let key = (*activity, subject.clone());
        let is_over = total.is_some_and(|total| done >= total);
        let of = |text: String| format!("{:<10} {subject}  {text}", verb(*activity)).trim_end().to_owned();
        let whole = || total.filter(|_| unit != Unit::Percent).map(|total| amount(total, unit)).unwrap_or_default();
        // These are over in a moment, mostly, and others tell of them.
        let is_aside = matches!(activity, Activity::LoadCache | Activity::Plan | Activity::Collect);
        let Some((begun, told)) = self.0.get(&key).copied() else {
            if !is_over {
                self.0.insert(key, (record.at, record.at));
            }
            return (!is_aside).then(|| of(whole()));
        };
        let elapsed = between(begun, record.at);
        if is_over {
            self.0.remove(&key);
            let took = duration(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            let least = if is_aside { PERIOD } else { MOMENT };
            return (elapsed >= least).then(|| of(format!("{} in {took}", whole()).trim_start().to_owned()));
        }
        if between(told, record.at) < PERIOD {
            return None;
        }
        self.0.insert(key, (begun, record.at));
        let share = total.filter(|total| *total > 0 && unit != Unit::Percent);
        let far = match share {
            Some(total) => {
                format!("{} of {}, {} %", amount(done, unit), amount(total, unit), done.saturating_mul(100) / total)
            }
            None => amount(done, unit),
        };
        Some(of(format!("{far}  {}", clock(elapsed))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BuildId, Place};

    #[test]
    fn beginning_end_and_every_ten_seconds() {
        let mut works = Works::default();
        let mut at = |second: i64, activity, subject: &str, done, total, unit| {
            let event = Event::Progress { activity, subject: subject.into(), done, total, unit };
            let at = Timestamp::from_second(second).expect("a time");
            works.line(&Record { build: BuildId::new("x", 1).expect("an id"), place: Place::After(1), at, event })
        };
        let total = Some(422_000_000);
        let rows = [
            (0, Activity::Pull, "debian-12", 0, total, Unit::Bytes, Some("pull       debian-12  422 MB")),
            (1, Activity::Fetch, "poky", 0, None, Unit::Items, Some("fetch      poky")),
            (4, Activity::Pull, "debian-12", 9_000_000, total, Unit::Bytes, None),
            (
                10,
                Activity::Pull,
                "debian-12",
                90_000_000,
                total,
                Unit::Bytes,
                Some("pull       debian-12  90 MB of 422 MB, 21 %  0:10"),
            ),
            (12, Activity::Fetch, "poky", 7, None, Unit::Items, Some("fetch      poky  7  0:11")),
            (19, Activity::Pull, "debian-12", 99_000_000, total, Unit::Bytes, None),
            (
                26,
                Activity::Pull,
                "debian-12",
                422_000_000,
                total,
                Unit::Bytes,
                Some("pull       debian-12  422 MB in 26 s"),
            ),
            (27, Activity::Download, "packages", 0, Some(100), Unit::Percent, Some("download   packages")),
            (37, Activity::Download, "packages", 41, Some(100), Unit::Percent, Some("download   packages  41 %  0:10")),
            (39, Activity::Download, "packages", 100, Some(100), Unit::Percent, Some("download   packages  in 12 s")),
            (40, Activity::Configure, "packages", 290, Some(290), Unit::Items, Some("configure  packages  290")),
            (40, Activity::Parse, "recipes", 1, Some(14), Unit::Items, Some("parse      recipes  14")),
            (40, Activity::Parse, "recipes", 14, Some(14), Unit::Items, None),
            (41, Activity::Collect, "artifacts", 0, Some(4), Unit::Items, None),
            (43, Activity::Collect, "artifacts", 4, Some(4), Unit::Items, None),
        ];
        for (second, activity, subject, done, total, unit, expected) in rows {
            assert_eq!(at(second, activity, subject, done, total, unit).as_deref(), expected, "at {second}");
        }
    }
}
