//! Retries: how long to wait, and how often. A delay that the registry asks for is kept, or there is no further attempt.

use std::{
    hash::{BuildHasher as _, RandomState},
    thread,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use super::{error::RegistryError, settings::Settings};

/// A wait from this length on is told.
const WORTH_SAYING: Duration = Duration::from_secs(3);

/// Calls a function until it succeeds, fails for good, or has failed too often. A registry that asks for a longer wait than the settings allow
/// is not asked again.
pub(super) fn patiently<T>(
    settings: &Settings,
    host: &str,
    retries: u32,
    mut attempt: impl FnMut() -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let mut failures = 0;
    loop {
        settings.check_stop(host)?;
        let error = match attempt() {
            Err(error) if error.is_temporary() && failures < retries.min(error.most_retries()) => error,
            done => return done,
        };
        let wanted = error.retry_after();
        let wait = wanted.unwrap_or_else(|| delay(settings, failures));
        if wait > settings.patience.longest && wanted.is_some() {
            return Err(error);
        }
        if wait >= WORTH_SAYING {
            (settings.warn)(format!("{}; smidr asks again in {} s", error.line(), wait.as_secs()));
        }
        pause(settings, host, wait)?;
        failures += 1;
    }
}

/// How long to wait after `failures` + 1 failures where the registry does not say.
pub(super) fn delay(settings: &Settings, failures: u32) -> Duration {
    let patience = &settings.patience;
    jittered(backoff(patience.backoff, failures), RandomState::new().hash_one(())).min(patience.longest)
}

/// Waits; ends early when a stop is requested.
pub(super) fn pause(settings: &Settings, host: &str, wait: Duration) -> Result<(), RegistryError> {
    let end = Instant::now() + wait;
    loop {
        settings.check_stop(host)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

fn backoff(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.min(16))
}

// Between half of the delay and all of it, so that clients that failed together do not retry together.
fn jittered(wait: Duration, random: u64) -> Duration {
    let part = u32::try_from(random % 1000).unwrap_or(0);
    wait / 2 + (wait / 2) * part / 1000
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(date.duration_since(now).max(SignedDuration::ZERO).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_differ() {
        let first = Duration::from_millis(500);
        let waits: Vec<_> = (0..5).map(|failures| backoff(first, failures).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000]);
        assert!(backoff(Duration::from_secs(u64::MAX), 99) >= Duration::from_secs(u64::MAX), "it cannot overflow");
        for random in [0, 1, 999, u64::MAX] {
            let wait = jittered(first, random);
            assert!(wait >= first / 2 && wait <= first, "{random}: {wait:?}");
        }
        assert_ne!(jittered(first, 1), jittered(first, 900));
    }

    #[test]
    fn a_registry_may_name_seconds_or_a_date() {
        let now = "1994-11-06T08:49:07Z".parse().expect("a time");
        let rows = [
            ("7", Some(7)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        }
    }
}
