//! Settings of the registry client, as values: only `cli` reads the environment.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::error::RegistryError;
use crate::{
    events::Emitter,
    model::SystemFacts,
    system::{process::Spawner, stop::StopToken},
};

/// Receives warnings: failures that were recovered from.
pub(super) type Warn = Arc<dyn Fn(String) + Send + Sync>;

/// Tells whether a stop is requested.
pub(super) type Stopping = Arc<dyn Fn() -> bool + Send + Sync>;

/// How registries are reached.
#[derive(Clone)]
pub struct Settings {
    /// The caller's environment: proxies, and the paths of settings.
    pub environment: Vec<(String, String)>,
    /// The caller's home.
    pub home: PathBuf,
    /// `/etc`; another folder in tests.
    pub etc: PathBuf,
    /// The host's bundle of CA certificates. Without one, those in smidr's binary are used.
    pub ca_bundle: Option<PathBuf>,
    /// Whether the registry may be reached over plain http, without credentials.
    pub insecure: bool,
    /// Whether the caller's credentials may be sent.
    pub logins: bool,
    /// Tells whether a stop is requested.
    pub stopping: Stopping,
    /// Starts credential helpers.
    pub spawner: Spawner,
    /// Receives warnings.
    pub warn: Warn,
    /// Timeouts and retries.
    pub patience: Patience,
}

/// Timeouts and retries of the client.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// Without a single byte.
    pub idle: Duration,
    /// The window over which the rate is measured.
    pub window: Duration,
    /// Fewer bytes per window are a failure.
    pub least: u64,
    /// How often something is retried.
    pub retries: u32,
    /// The delay before the first retry; doubled for each further one.
    pub backoff: Duration,
    /// The longest delay. A registry that asks for a longer one is not asked again.
    pub longest: Duration,
    /// For a credential helper to answer.
    pub helper: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            window: Duration::from_secs(60),
            least: 60 << 10,
            retries: 5,
            backoff: Duration::from_millis(500),
            longest: Duration::from_secs(60),
            helper: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// The settings of this machine and of the caller's environment.
    pub fn new(facts: &SystemFacts, spawner: &Spawner, stop: &StopToken, on: &Emitter) -> Self {
        let (stop, on) = (stop.clone(), on.clone());
        Self {
            environment: facts.environment.clone(),
            home: facts.home.clone(),
            etc: "/etc".into(),
            ca_bundle: facts.ca_bundle.clone(),
            insecure: false,
            logins: true,
            stopping: Arc::new(move || stop.is_requested()),
            spawner: spawner.clone(),
            warn: Arc::new(move |text| on.warn(text)),
            patience: Patience::default(),
        }
    }

    /// A variable of the environment that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| &**value)
    }

    /// `$XDG_CONFIG_HOME`, or its default.
    pub(super) fn config_home(&self) -> PathBuf {
        self.variable("XDG_CONFIG_HOME").map_or_else(|| self.home.join(".config"), PathBuf::from)
    }

    /// An error if a stop is requested.
    pub(super) fn check_stop(&self, host: &str) -> Result<(), RegistryError> {
        if (self.stopping)() { Err(RegistryError::Stopped(host.into())) } else { Ok(()) }
    }
}
