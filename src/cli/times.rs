//! Times for people: in the time zone of this machine, which is said. Documents for scripts have RFC 3339 in UTC instead.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

/// A moment, to the second.
pub(super) fn moment(at: Timestamp) -> String {
    moment_in(at, here())
}

/// A moment in a list, to the minute.
pub(super) fn minute(at: Timestamp) -> String {
    at.to_zoned(here()).strftime("%Y-%m-%d %H:%M %Z").to_string()
}

/// A day.
pub(super) fn day(at: Timestamp) -> String {
    at.to_zoned(here()).strftime("%F").to_string()
}

fn moment_in(at: Timestamp, zone: TimeZone) -> String {
    at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

// As TZ or /etc/localtime say.
fn here() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

/// A time that passes: `0:07`, `1:02:05`.
pub(super) fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// From one moment to another; none, if a clock was set back meanwhile.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_said_and_nanoseconds_are_not() {
        let at: Timestamp = "2026-03-01T12:00:07.123456789Z".parse().expect("a time");
        let zone = |name: &str| TimeZone::posix(name).expect("a zone");
        assert_eq!(moment_in(at, TimeZone::UTC), "2026-03-01 12:00:07 UTC");
        assert_eq!(moment_in(at, zone("CET-1CEST,M3.5.0,M10.5.0/3")), "2026-03-01 13:00:07 CET");
        assert_eq!(moment_in(at, zone("<+0545>-5:45")), "2026-03-01 17:45:07 +0545");
        assert_eq!([clock(Duration::from_secs(59)), clock(Duration::from_secs(3725))], ["0:59", "1:02:05"]);
        assert_eq!(between(at, Timestamp::UNIX_EPOCH), Duration::ZERO);
    }
}
