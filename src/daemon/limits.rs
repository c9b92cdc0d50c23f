//! How often something may be done: a bucket of tokens for each key, such as an address or the name of a token. The caller gives the time.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Buckets that are remembered at once.
const MOST: usize = 8192;

/// A bucket for each key. Memory is bounded: where too many keys are known, those with the fullest buckets are forgotten.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    /// Tokens in a second.
    rate: f64,
    /// Tokens in a full bucket.
    burst: f64,
    known: HashMap<K, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// Buckets that fill with `per_second` tokens, at most `burst`; both more than 0.
    pub(crate) fn new(per_second: f64, burst: u32) -> Self {
        Self { rate: per_second, burst: burst.into(), known: HashMap::new() }
    }

    /// For requests: so many in a second, and twice as many at once.
    pub(crate) fn of_requests(per_second: u32) -> Self {
        Self::new(per_second.into(), per_second.saturating_mul(2))
    }

    /// Lets them fill as those of requests with another rate.
    pub(crate) fn set_requests(&mut self, per_second: u32) {
        (self.rate, self.burst) = (per_second.into(), per_second.saturating_mul(2).into());
    }

    /// For wrong tokens of one address: ten at once, then one every six seconds.
    pub(crate) fn of_wrong_tokens() -> Self {
        Self::new(1.0 / 6.0, 10)
    }

    /// How long there is no token; none: there is one. Takes none, and remembers nothing.
    fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        let tokens = self.level(key, now);
        (tokens < 1.0).then(|| Duration::from_secs_f64((1.0 - tokens) / self.rate))
    }

    /// Takes a token.
    ///
    /// # Errors
    ///
    /// How long there is none; nothing is taken then.
    pub(crate) fn take(&mut self, key: &K, now: Instant) -> Result<(), Duration> {
        if let Some(wait) = self.wait(key, now) {
            return Err(wait);
        }
        if self.known.len() >= MOST && !self.known.contains_key(key) {
            self.forget(now);
        }
        let tokens = self.level(key, now) - 1.0;
        self.known.insert(key.clone(), Bucket { tokens, at: now });
        Ok(())
    }

    fn level(&self, key: &K, now: Instant) -> f64 {
        self.known.get(key).map_or(self.burst, |bucket| bucket.filled(self.rate, self.burst, now))
    }

    /// Forgets the fuller half, so that this happens once in many keys.
    fn forget(&mut self, now: Instant) {
        let (rate, burst) = (self.rate, self.burst);
        let level = |bucket: &Bucket| bucket.filled(rate, burst, now);
        let mut levels: Vec<f64> = self.known.values().map(level).collect();
        let half = levels.len() / 2;
        let middle = *levels.select_nth_unstable_by(half, f64::total_cmp).1;
        let mut equal = half - self.known.values().filter(|bucket| level(bucket) < middle).count();
        self.known.retain(|_, bucket| {
            let level = level(bucket);
            let is_spared = level == middle && equal > 0;
            equal -= usize::from(is_spared);
            level < middle || is_spared
        });
    }
}

impl Bucket {
    fn filled(&self, rate: f64, burst: f64, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        passed.mul_add(rate, self.tokens).min(burst)
    }
}

/// The key of an address: one IPv6 client usually has a whole /64, and IPv4 may come in the clothes of IPv6.
pub(crate) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut buckets = Buckets::new(2.0, 3);
        let mut taken = |key: &'static str, seconds: f64| buckets.take(&key, at(seconds));
        assert_eq!([(); 3].map(|()| taken("a", 0.0)), [Ok(()); 3]);
        assert_eq!(taken("a", 0.0), Err(Duration::from_millis(500)));
        assert_eq!(taken("b", 0.0), Ok(()), "another key has its own");
        assert_eq!(taken("a", 0.25), Err(Duration::from_millis(250)), "being refused costs nothing");
        assert_eq!(taken("a", 0.5), Ok(()));
        // However long it takes, it is never fuller than full; and a clock that goes back gives nothing.
        assert_eq!([(); 3].map(|()| taken("a", 1000.0)), [Ok(()); 3]);
        assert!(taken("a", 999.0).is_err());
    }

    #[test]
    fn looking_takes_nothing() {
        let now = Instant::now();
        let mut wrong = Buckets::of_wrong_tokens();
        (0..100).for_each(|_| assert_eq!(wrong.wait(&"x", now), None));
        (0..10).for_each(|_| assert_eq!(wrong.take(&"x", now), Ok(())));
        assert!(wrong.wait(&"x", now).is_some_and(|wait| wait > Duration::from_secs(5)));
        assert_eq!(wrong.wait(&"x", now + Duration::from_secs(7)), None);
    }

    #[test]
    fn memory_is_bounded_and_those_that_are_empty_are_remembered() {
        let now = Instant::now();
        let mut buckets = Buckets::new(1.0, 3);
        (0..3).for_each(|_| buckets.take(&0, now).expect("a token"));
        for key in 1..100_000 {
            buckets.take(&key, now).expect("a token");
            assert!(buckets.known.len() <= MOST);
        }
        assert!(buckets.take(&0, now).is_err());
        // With equal levels, half is forgotten all the same.
        buckets.forget(now);
        assert!(buckets.known.len() <= MOST / 2 + 1);
    }

    #[test]
    fn addresses_of_one_client_are_one_key() {
        let key = |text: &str| client(text.parse().expect("an address"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
