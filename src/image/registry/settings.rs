//! What the registry client is told about the world: values, because only `cli` reads the environment.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::error::RegistryError;
use crate::{
    events::Emitter,
    model::SystemFacts,
    system::{process::Spawner, stop::StopToken},
};

/// Takes warnings: things that went wrong and did not matter in the end.
pub type Warn = Arc<dyn Fn(String) + Send + Sync>;

/// Says whether to stop.
pub type Stopping = Arc<dyn Fn() -> bool + Send + Sync>;

/// How registries are reached.
#[derive(Clone)]
pub struct Settings {
    /// The caller's environment: proxies, and the places of settings.
    pub environment: Vec<(String, String)>,
    /// The caller's home.
    pub home: PathBuf,
    /// `/etc`; another folder in tests.
    pub etc: PathBuf,
    /// The host's bundle of CA certificates. Without one, those that came with smidr are used.
    pub ca_bundle: Option<PathBuf>,
    /// Whether the registry may be reached over plain http, without credentials.
    pub insecure: bool,
    /// Whether the caller's logins may be shown.
    pub logins: bool,
    /// Knows whether somebody wants smidr to stop.
    pub stopping: Stopping,
    /// Starts credential helpers.
    pub spawner: Spawner,
    /// Takes warnings.
    pub warn: Warn,
    /// How patient to be.
    pub patience: Patience,
}

/// How patient the client is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To be connected.
    pub connect: Duration,
    /// Without a single byte.
    pub idle: Duration,
    /// Over which the speed is measured.
    pub window: Duration,
    /// Bytes per window that are too few to go on.
    pub least: u64,
    /// How often something is tried again.
    pub retries: u32,
    /// How long to wait before the first new attempt; twice as long before each further one.
    pub backoff: Duration,
    /// The longest wait, whatever the registry wants.
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
    /// What this machine and the caller's environment say.
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

    /// `$XDG_CONFIG_HOME`, or what stands for it.
    pub(super) fn config_home(&self) -> PathBuf {
        self.variable("XDG_CONFIG_HOME").map_or_else(|| self.home.join(".config"), PathBuf::from)
    }

    /// Ends what is going on when somebody asked for that.
    pub(super) fn check_stop(&self, host: &str) -> Result<(), RegistryError> {
        if (self.stopping)() { Err(RegistryError::Stopped(host.into())) } else { Ok(()) }
    }
}
