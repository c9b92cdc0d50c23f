//! Bounds for the addresses that a registry names: no private network for one on the internet, and this machine only for one on this machine.
//!
//! A registry names other hosts: in redirects, for tokens, for uploads. They are connected to from here, and so could be services that
//! listen only here. So an address outside of the internet must be in the same zone as the registry that the user has named, where
//! *named* includes the mirrors of registries.conf. The decision is pure; it is made for addresses in URLs before anything is
//! sent, and for names when they are resolved, so that a name cannot mean another address when it is connected to.
//!
//! A proxy in the environment resolves names itself, and has to enforce such a rule for them; smidr then still checks
//! addresses in URLs, and treats the registry as one on the internet.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::system::zone::Zone;

/// Whether a registry in one zone may name an address in another one.
fn may_lead(from: Zone, to: Zone) -> bool {
    to == Zone::Internet || to == from
}

/// A host that the registry must not lead to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{to} is {}", match zone {
    Some(Zone::Internet) => "on the internet",
    Some(Zone::Private) => "in a private network, and the registry is not",
    Some(Zone::Link) => "on the local link, and the registry is not",
    Some(Zone::Loopback) => "this machine, and the registry is not",
    Some(Zone::Unspecified) => "no address of a host",
    None => "the proxy that smidr uses",
})]
pub struct Inward {
    /// The host, with its resolved address.
    to: String,
    // None for a proxy.
    zone: Option<Zone>,
}

/// The bounds for one registry. Resolves names for its client.
pub(super) struct Bounds {
    home: String,
    proxies: Vec<String>,
    // The zone of the registry, once it is known. A name that later resolved to another zone would circumvent the rule.
    zone: Mutex<Option<Zone>>,
}

impl Bounds {
    /// For the registry at the host of a URL, with the user's proxies.
    pub(super) fn new(home: Option<&Url>, proxies: &[Url]) -> Arc<Self> {
        let zone = home.and_then(literal).map(Zone::of);
        let name = |url: &Url| url.domain().map(String::from);
        let (home, proxies) = (home.and_then(name).unwrap_or_default(), proxies.iter().filter_map(name).collect());
        Arc::new(Self { home, proxies, zone: Mutex::new(zone) })
    }

    /// Checks a URL before anything is sent to it, as far as is possible without resolving its name.
    ///
    /// # Errors
    ///
    /// When the registry must not lead there.
    pub(super) fn check(&self, url: &Url) -> Result<(), Inward> {
        let home = self.zone.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(Zone::Internet);
        if let Some(address) = literal(url) {
            let (zone, to) = (Zone::of(address), address.to_string());
            return if may_lead(home, zone) { Ok(()) } else { Err(Inward { to, zone: Some(zone) }) };
        }
        match url.domain() {
            // A proxy's name is resolved without a check, so the registry must not lead there.
            Some(name) if name != self.home && self.proxies.iter().any(|proxy| proxy == name) => {
                Err(Inward { to: name.into(), zone: None })
            }
            _ => Ok(()),
        }
    }

    // The resolved addresses that may be connected to.
    fn admit(&self, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Inward> {
        let zone = |address: &SocketAddr| Zone::of(address.ip());
        let mut home = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        if home.is_none() && name == self.home {
            // The widest zone of its addresses: otherwise one in a narrower zone would open that zone to the others.
            *home = found.iter().map(zone).min();
        }
        if self.proxies.iter().any(|proxy| proxy == name) {
            return Ok(found);
        }
        let home = home.unwrap_or(Zone::Internet);
        let (kept, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| may_lead(home, zone(address)));
        match refused.first() {
            Some(address) if kept.is_empty() => {
                Err(Inward { to: format!("{name} ({})", address.ip()), zone: Some(zone(address)) })
            }
            _ => Ok(kept),
        }
    }
}

/// The resolver of a client.
pub(super) struct Bounded(pub Arc<Bounds>);

impl Resolve for Bounded {
    fn resolve(&self, name: Name) -> Resolving {
        let bounds = self.0.clone();
        Box::pin(async move {
            let name = name.as_str();
            let found = tokio::net::lookup_host((name, 0)).await?.collect();
            let kept = bounds.admit(name, found)?;
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{
        Zone::{Internet, Link, Loopback, Private, Unspecified},
        *,
    };

    #[test]
    fn the_internet_is_for_all_and_the_rest_for_its_own_zone() {
        let zones = [Internet, Private, Link, Loopback, Unspecified];
        for (from, to) in zones.iter().flat_map(|from| zones.map(|to| (*from, to))) {
            assert_eq!(may_lead(from, to), to == Internet || from == to, "{from:?} {to:?}");
        }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    fn admitted(bounds: &Bounds, name: &str, found: &[&str]) -> Result<Vec<String>, String> {
        let found = found.iter().map(|text| SocketAddr::new(text.parse().expect(text), 0)).collect();
        let kept = bounds.admit(name, found).map_err(|inward| inward.to_string())?;
        Ok(kept.iter().map(|address| address.ip().to_string()).collect())
    }

    #[test]
    fn a_name_is_judged_by_what_it_means() {
        let proxies = [url("http://proxy.corp:3128")];
        let open = |home: &str| Bounds::new(Some(&url(home)), &proxies);
        let refused = |bounds: &Bounds, name: &str, found: &[&str]| admitted(bounds, name, found).expect_err(name);

        let public = open("https://registry.example/v2/");
        assert_eq!(admitted(&public, "registry.example", &["1.2.3.4", "127.0.0.1"]), Ok(vec!["1.2.3.4".into()]));
        assert_eq!(admitted(&public, "cdn.example", &["5.6.7.8", "10.0.0.1"]), Ok(vec!["5.6.7.8".into()]));
        for address in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "0.0.0.0", "100.64.0.1"] {
            let error = refused(&public, "evil.example", &[address]);
            assert!(error.contains("evil.example (") && error.contains(address), "{error}");
            // The registry's own name, that means another host by now.
            refused(&public, "registry.example", &[address]);
        }

        let private = open("https://registry.corp/v2/");
        assert!(admitted(&private, "registry.corp", &["10.0.0.1"]).is_ok());
        assert!(admitted(&private, "storage.corp", &["192.168.7.7"]).is_ok());
        assert!(admitted(&private, "cdn.example", &["5.6.7.8"]).is_ok());
        refused(&private, "evil.corp", &["127.0.0.1"]);
        refused(&private, "evil.corp", &["169.254.169.254"]);

        let local = open("http://localhost:5000/v2/");
        assert!(admitted(&local, "localhost", &["::1", "127.0.0.1"]).is_ok());
        refused(&local, "evil.example", &["10.0.0.1"]);

        // Behind a proxy nothing is known of the registry.
        let proxied = open("https://registry.example/v2/");
        assert!(admitted(&proxied, "proxy.corp", &["10.0.0.1"]).is_ok());
        refused(&proxied, "evil.example", &["10.0.0.2"]);
        assert_eq!(admitted(&proxied, "registry.example", &[]), Ok(vec![]));
    }

    #[test]
    fn an_address_in_a_url_is_judged_however_it_is_written() {
        let to =
            ["http://127.1/", "http://0x7f.1/", "http://2130706433/", "http://[::ffff:7f00:1]:80/", "https://[::1]/"];
        let public = Bounds::new(Some(&url("https://registry.example/")), &[url("http://proxy.corp:3128")]);
        let local = Bounds::new(Some(&url("http://127.0.0.1:5000/")), &[]);
        for text in to {
            assert_eq!(public.check(&url(text)).expect_err(text).zone, Some(Loopback));
            assert_eq!(local.check(&url(text)), Ok(()), "{text}");
        }
        for text in ["http://10.1.2.3/", "http://169.254.169.254/latest", "http://0.0.0.0:5000/", "http://[fd00::1]/"] {
            assert!(public.check(&url(text)).is_err() && local.check(&url(text)).is_err(), "{text}");
        }
        assert!(public.check(&url("http://proxy.corp:3128/admin")).is_err());
        assert_eq!(public.check(&url("https://cdn.example/")), Ok(()));
    }
}
