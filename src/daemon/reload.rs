//! `daemon.yaml`, read again while the daemon runs. A bad one changes nothing.

use std::sync::{Arc, PoisonError};

use super::{
    Daemon, DaemonError,
    config::{self, DaemonConfig},
    ledger::Ledger,
    lock,
    queue::Signal,
};
use crate::{
    history::History,
    model::{Paths, SystemFacts, UserError as _},
    settings::Settings,
};

/// The ledger's note that it can be written.
const WRITTEN: &str = "written";

/// What counts only for a daemon that starts, of two configs.
fn later(old: &DaemonConfig, new: &DaemonConfig) -> Vec<&'static str> {
    let changed = [
        ("address", old.address != new.address),
        ("tls", old.tls != new.tls),
        ("limits.message_size", old.limits.message_size != new.limits.message_size),
        ("webhooks.allow_private", old.private_webhooks != new.private_webhooks),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

impl Daemon {
    /// Whether this smidr could serve a SMIDR_HOME, in which another daemon may run. Changes nothing.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn check(paths: &Paths, facts: &SystemFacts) -> Result<(), DaemonError> {
        config::read(paths)?;
        Settings::read(paths, &facts.home)?;
        History::open(paths)?;
        Ok(Ledger::check(&paths.daemon().join(super::LEDGER))?)
    }

    /// Reads `daemon.yaml` again; what it says counts from now on. Gives the keys that count only for a daemon that starts.
    ///
    /// # Errors
    ///
    /// When it is wrong: then the old one stays.
    pub(crate) fn reload(&self) -> Result<Vec<&'static str>, DaemonError> {
        let read = || -> Result<_, DaemonError> {
            let builds = Settings::read(&self.paths, &self.facts.home)?.limits.builds(self.facts.cpus);
            Ok((config::read(&self.paths)?, builds))
        };
        let (config, builds) = read().inspect_err(|error| {
            let error = error.drawn(false).unwrap_or_else(|| with_causes(error));
            tracing::error!(error, "{} is refused, and the old one stays", config::FILE);
        })?;
        let later = later(&self.config(), &config);
        lock(&self.queue).configure(&config, builds);
        self.blobs.limit(config.limits.blob_size, config.limits.blobs_size);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        // Streams look again whether they may go on, and the queue whether builds may start.
        self.access.send_modify(|count| *count += 1);
        let _ = self.wake.send(Signal::Look);
        tracing::info!("{} counts now", config::FILE);
        if !later.is_empty() {
            let keys = later.join(", ");
            tracing::warn!(keys, "these count after:  smidr daemon --replace");
        }
        Ok(later)
    }

    /// Writes into the ledger, to see whether that works.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(crate) async fn try_to_write(&self) -> Result<(), DaemonError> {
        Ok(self.ledger.set(WRITTEN, jiff::Timestamp::now().to_string()).await?)
    }
}

/// An error with its causes, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
