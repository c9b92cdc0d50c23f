//! Tells addresses what becomes of builds, as Standard Webhooks has it. What is to be told is in the ledger before it is sent, and is tried for a day, also by the next daemon: at
//! least once, with the same id. Blocking, in threads of its own.

mod body;
mod deliver;
mod send;
mod signature;

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

pub(crate) use self::{
    body::{BuildFacts, Event},
    deliver::Attempt,
    send::{BadUrl, Sending},
};
use super::ledger::{
    Ledger, LedgerError,
    webhooks::{self as table, DeliveryRow, WebhookRow},
};
use crate::model::{Hint, Kind, UserError, without_secrets};

/// While one secret replaces another, both sign.
const MOST_SECRETS: usize = 4;
const LONGEST_NAME: usize = 128;
/// Names of events in one list, of which some may be named twice.
const MOST_EVENTS: usize = 32;
/// Webhooks of one customer: each event is written down for each of them.
const MOST: u32 = 100;

/// Why there is no such webhook, or nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    /// A name that cannot be used.
    #[error("`{0}` is no name for a webhook: it has 1 to {LONGEST_NAME} letters, digits, `.`, `_` or `-`")]
    Name(String),
    /// An address that cannot be used.
    #[error("nothing can be sent to {url}")]
    Url {
        /// It, without a password.
        url: String,
        /// Why.
        source: BadUrl,
    },
    /// Not a secret.
    #[error("a secret is `whsec_` and the base64 of 24 to 64 bytes, and there are at most {MOST_SECRETS}")]
    Secret,
    /// There is no such event.
    #[error("there is no event `{0}`")]
    Event(String),
    /// A list that names more than there is.
    #[error("a webhook names at most {MOST_EVENTS} events")]
    Events,
    /// There are enough.
    #[error("there are {MOST} webhooks already")]
    TooMany,
    /// No client can be made.
    #[error("cannot send webhooks")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl UserError for WebhookError {
    fn kind(&self) -> Kind {
        match self {
            Self::Name(_) | Self::Url { .. } | Self::Secret | Self::Event(_) | Self::Events | Self::TooMany => {
                Kind::Request
            }
            Self::Client(_) => Kind::Host,
            Self::Ledger(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Event(_) | Self::Events => {
                vec![Hint::new(format!("there are: {}", Event::ALL.map(Event::name).join(", ")))]
            }
            Self::Url { source: BadUrl::Inward(_), .. } => {
                vec![Hint::config("allow it in daemon.yaml, for all webhooks", "webhooks: {allow_private: true}")]
            }
            Self::TooMany => vec![Hint::command("remove one", "smidr client webhook rm NAME")],
            Self::Secret => vec![Hint::new("leave it out, and one is made")],
            Self::Ledger(error) => error.hints(),
            Self::Name(_) | Self::Url { .. } | Self::Client(_) => Vec::new(),
        }
    }
}

/// A webhook that is to be.
#[derive(Clone)]
pub(crate) struct NewWebhook {
    /// Whose builds it is told of; empty: all.
    pub customer: String,
    /// Its name.
    pub name: String,
    /// Where to.
    pub url: String,
    /// The names of events; empty: all.
    pub events: Vec<String>,
    /// What signs; empty: one is made. The first also signs as GitHub does.
    pub secrets: Vec<String>,
}

/// How webhooks are sent.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Each request.
    pub sending: Sending,
    /// The delay after the first failure; each further one is four times as long.
    pub first_delay: SignedDuration,
}

impl Settings {
    /// The usual ones.
    pub(crate) fn new(allow_private: bool, ca_bundle: Option<std::path::PathBuf>) -> Self {
        let sending = Sending { allow_private, ca_bundle, patience: Duration::from_secs(15) };
        Self { sending, first_delay: SignedDuration::from_secs(5) }
    }
}

/// All webhooks of a daemon. Clones are the same.
#[derive(Clone)]
pub(crate) struct Webhooks {
    ledger: Ledger,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Running>,
    changed: Condvar,
}

#[derive(Default)]
struct Running {
    // Customer and name of each webhook that is being sent to.
    busy: Vec<(String, String)>,
    is_woken: bool,
}

impl Webhooks {
    /// Those of a ledger.
    pub(crate) fn new(ledger: &Ledger, settings: Settings) -> Self {
        Self { ledger: ledger.clone(), settings: Arc::new(settings), shared: Arc::default() }
    }

    /// Adds a webhook, or replaces that of its customer and name. Gives it, and the secret where one was made.
    ///
    /// # Errors
    ///
    /// When it is wrong, or cannot be written down.
    pub(crate) async fn create(&self, new: NewWebhook) -> Result<(WebhookRow, Option<String>), WebhookError> {
        let made = if new.secrets.is_empty() { signature::new_secret() } else { None };
        let row = self.checked(new, made.as_deref())?;
        if !self.ledger.write(table::put(row.clone(), MOST)).await? {
            return Err(WebhookError::TooMany);
        }
        self.wake();
        Ok((row, made))
    }

    /// Removes a webhook with all that was sent to it, and says whether there was one.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) async fn delete(&self, customer: &str, name: &str) -> Result<bool, WebhookError> {
        Ok(self.ledger.write(table::delete(customer.into(), name.into())).await?)
    }

    /// All of them, by customer and name. Their addresses are shown by [`shown_url`].
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<WebhookRow>, WebhookError> {
        Ok(self.ledger.read(table::all)?)
    }

    /// What is to be written down with what has happened to a build: in the same commit, it is told exactly if it happened. [`Self::wake`] has to follow.
    pub(crate) fn queue(event: Event, build: &BuildFacts, now: Timestamp) -> table::Queued {
        Box::new(table::queue(event.name(), build.customer.clone(), body::text(event, build, now), now))
    }

    /// What was sent to the webhooks of a customer, or to one of them, the newest first.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn deliveries(
        &self,
        customer: &str,
        webhook: &str,
        limit: u32,
    ) -> Result<Vec<DeliveryRow>, WebhookError> {
        Ok(self.ledger.read(|db| table::deliveries(db, customer, webhook, limit))?)
    }

    /// One delivery.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn delivery(&self, id: &str) -> Result<Option<DeliveryRow>, WebhookError> {
        Ok(self.ledger.read(|db| table::one(db, id))?)
    }

    /// Sends a delivery again, with its id and for another day. Says whether there is one.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) async fn resend(&self, id: &str, now: Timestamp) -> Result<bool, WebhookError> {
        let is_there = self.ledger.write(table::again(id.into(), now)).await?;
        self.wake();
        Ok(is_there)
    }

    /// Has the loop look at the ledger again.
    pub(crate) fn wake(&self) {
        self.change(|running| running.is_woken = true);
    }

    fn change(&self, change: impl FnOnce(&mut Running)) {
        change(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.notify_all();
    }

    fn checked(&self, new: NewWebhook, made: Option<&str>) -> Result<WebhookRow, WebhookError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if new.name.is_empty() || new.name.len() > LONGEST_NAME || !new.name.chars().all(is_plain) {
            return Err(WebhookError::Name(new.name));
        }
        send::check(&new.url, self.settings.sending.allow_private)
            .map_err(|source| WebhookError::Url { url: shown_url(&new.url), source })?;
        if new.events.len() > MOST_EVENTS {
            return Err(WebhookError::Events);
        }
        let is_known = |name: &&String| Event::ALL.iter().any(|event| event.name() == **name);
        if let Some(unknown) = new.events.iter().find(|name| !is_known(name)) {
            return Err(WebhookError::Event(unknown.chars().take(LONGEST_NAME).collect()));
        }
        let secrets: Vec<&str> = new.secrets.iter().map(String::as_str).chain(made).collect();
        if !(1..=MOST_SECRETS).contains(&secrets.len()) || secrets.iter().any(|text| signature::key(text).is_none()) {
            return Err(WebhookError::Secret);
        }
        Ok(WebhookRow {
            customer: new.customer,
            name: new.name,
            url: new.url,
            events: new.events.join(","),
            secrets: secrets.join(" "),
            ended: None,
        })
    }
}

/// An address without user and password.
pub(crate) fn shown_url(url: &str) -> String {
    without_secrets(url)
}

#[cfg(test)]
mod tests;
