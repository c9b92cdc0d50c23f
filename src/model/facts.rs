//! What the plan needs to know of this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Ask, Origin, Submission, SubmittedLayer};

/// Ids that belong to a user beside their own (subuid(5), subgid(5)): the first, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubordinateIds {
    /// First uid and their number.
    pub uids: (u32, u32),
    /// First gid and their number.
    pub gids: (u32, u32),
}

/// Begins the names of caches that belong to one customer of a daemon.
pub const CUSTOMER: &str = "customer.";

/// As Debian calls the home of those that have none.
const NO_HOME: &str = "/nonexistent";

/// Facts about the host and the caller, gathered once by `system::facts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemFacts {
    /// The caller's effective uid.
    pub uid: u32,
    /// The caller's effective gid.
    pub gid: u32,
    /// The caller's further ids, where an administrator has given him some.
    pub subordinate: Option<SubordinateIds>,
    /// The caller's home.
    pub home: PathBuf,
    /// The caller's whole environment. Only what a config asks for by name goes any further.
    pub environment: Vec<(String, String)>,
    /// Processors that this process may run on.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Whether the kernel counts how long programs wait for a processor, a disk or memory (PSI).
    pub has_pressure: bool,
    /// Environment variables that fetchers read and that are set: proxies and the like.
    pub fetch_env: Vec<(String, String)>,
    /// The host's bundle of CA certificates.
    pub ca_bundle: Option<PathBuf>,
    /// Content of the host's `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The time zone as a tz name, such as `Europe/Berlin`; `UTC` where it cannot be told.
    pub time_zone: String,
    /// Where the config comes from elsewhere: what counts for it in the place of this machine and of `environment`.
    pub remote: Option<RemoteCaller>,
}

/// The caller of a build whose project was sent by a client of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCaller {
    /// Whose build it is.
    pub customer: String,
    /// The name of its caches, if they are not its customer's own.
    pub caches: Option<String>,
    /// The variables that its config may name. There are no others.
    pub variables: BTreeMap<String, String>,
    /// Its path layers.
    pub layers: Vec<SubmittedLayer>,
}

impl RemoteCaller {
    /// The name of the caches that it gets without naming any.
    pub fn own_caches(&self) -> String {
        self.caches.clone().unwrap_or_else(|| format!("{CUSTOMER}{}", self.customer))
    }
}

impl SystemFacts {
    /// An ordinary user on an ordinary machine.
    #[cfg(test)]
    pub fn of_an_ordinary_user() -> Self {
        Self {
            uid: 1000,
            gid: 1000,
            subordinate: None,
            home: "/home/u".into(),
            environment: vec![],
            cpus: 2,
            memory: 1 << 34,
            has_pressure: false,
            fetch_env: vec![],
            ca_bundle: None,
            resolv_conf: String::new(),
            time_zone: "UTC".into(),
            remote: None,
        }
    }

    /// The facts for a submission. Variables count as they were submitted. Of a remote one they do not count for smidr itself, whose own
    /// environment says which programs it runs; and of that environment nothing counts for the config.
    #[must_use]
    pub fn for_submission(mut self, submission: &Submission) -> Self {
        match &submission.origin {
            Origin::Local { .. } => {
                self.environment.retain(|(known, _)| !submission.variables.contains_key(known));
                self.environment.extend(submission.variables.clone());
            }
            Origin::Remote { customer, caches, .. } => {
                // Builds see them, with their passwords.
                self.fetch_env.retain(|(name, value)| {
                    let ask = || Ask::Variable { name: name.clone(), key: Ask::PROXIES.into() };
                    !value.contains('@') || submission.granted.contains(&ask())
                });
                self.remote = Some(RemoteCaller {
                    customer: customer.clone(),
                    caches: caches.clone(),
                    variables: submission.variables.clone(),
                    layers: submission.layers.clone(),
                });
            }
        }
        self
    }

    /// A variable that a config names.
    pub fn variable(&self, name: &str) -> Option<String> {
        match &self.remote {
            Some(remote) => remote.variables.get(name).cloned(),
            None => self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()),
        }
    }

    /// What `~` means in a config. One from elsewhere has no home here.
    pub fn home_of_config(&self) -> &Path {
        if self.remote.is_some() { Path::new(NO_HOME) } else { &self.home }
    }

    /// The uid and gid that the build has inside its sandbox: the caller's own, and 1000 for root, because BitBake refuses uid 0.
    pub fn inner_ids(&self) -> (u32, u32) {
        let own = |id| if id == 0 { 1000 } else { id };
        (own(self.uid), own(self.gid))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_remote_client_changes_nothing_that_smidr_itself_obeys() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let facts = SystemFacts {
            environment: vec![pair("PATH", "/bin"), pair("TOKEN", "hunter2")],
            fetch_env: vec![pair("http_proxy", "http://proxy"), pair("https_proxy", "http://me:x@proxy")],
            ..SystemFacts::of_an_ordinary_user()
        };
        let of = |origin: Origin, granted: &[Ask]| {
            let submission = Submission {
                variables: [pair("PATH", "/evil"), pair("NEW", "x")].into(),
                granted: granted.into(),
                ..Submission::of_a_test(origin)
            };
            facts.clone().for_submission(&submission)
        };
        let config = PathBuf::from("/x/smidr.yaml");
        let local = of(Origin::Local { config: config.clone() }, &[]);
        assert_eq!((local.remote.as_ref(), local.home_of_config()), (None, Path::new("/home/u")));
        let value = |facts: &SystemFacts, name: &str| facts.variable(name).unwrap_or_default();
        assert_eq!(["PATH", "NEW", "TOKEN"].map(|name| value(&local, name)), ["/evil", "x", "hunter2"]);
        let origin = Origin::Remote { customer: "acme".into(), caches: None, config };
        let remote = of(origin.clone(), &[]);
        assert_eq!(["PATH", "NEW", "TOKEN"].map(|name| value(&remote, name)), ["/evil", "x", ""]);
        assert_eq!((&remote.environment, remote.home_of_config()), (&facts.environment, Path::new(NO_HOME)));
        assert_eq!(remote.fetch_env, [pair("http_proxy", "http://proxy")]);
        let proxy = Ask::Variable { name: "https_proxy".into(), key: Ask::PROXIES.into() };
        assert_eq!(of(origin, &[proxy]).fetch_env, facts.fetch_env);
    }
}
