//! Callers that the daemon knows: tokens, and the subjects of client certificates.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    Daemon, DaemonError,
    access::{self, How, Principal, Scope, Token},
    io_error,
};

/// How long a token's end is waited for at once.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(3600);

impl Daemon {
    /// The caller that shows a token; none for one that is not good.
    pub(crate) fn by_token(&self, text: &str) -> Option<Principal> {
        let hash = access::hash(text)?;
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(&hash)?.principal(Timestamp::now())
    }

    /// Whether a caller is still what it was.
    pub(crate) fn still(&self, principal: &Principal) -> bool {
        match &principal.how {
            How::Owner => true,
            How::Certificate => self.by_subject(&principal.name).as_ref() == Some(principal),
            How::Token(hash) => {
                let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
                tokens.get(hash).and_then(|token| token.principal(Timestamp::now())).as_ref() == Some(principal)
            }
        }
    }

    /// How long a caller is good at most; none: for ever.
    pub(crate) fn time_left(&self, principal: &Principal) -> Option<Duration> {
        let How::Token(hash) = &principal.how else { return None };
        let expires = self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(hash)?.expires?;
        // A clock that is set does not wake: it is looked at from time to time.
        let left = Duration::try_from(expires.duration_since(Timestamp::now())).unwrap_or_default();
        Some(left.clamp(Duration::from_millis(10), LOOK_AT_CLOCK))
    }

    /// Told at each change of tokens.
    pub(crate) fn access_changes(&self) -> watch::Receiver<u64> {
        self.access.subscribe()
    }

    /// Makes a token. Its text is known here and then never again.
    ///
    /// # Errors
    ///
    /// When its name is taken, or it cannot be kept.
    pub(crate) async fn create_token(
        self: &Arc<Self>,
        name: String,
        scopes: Vec<Scope>,
        customer: Option<String>,
        lifetime: Option<Duration>,
    ) -> Result<(Token, String), DaemonError> {
        let text = access::draw().map_err(io_error("draw random bits for", &self.paths))?;
        let hash = access::hash(&text).unwrap_or_default();
        let created = Timestamp::now();
        let expires = lifetime.and_then(|lifetime| created.checked_add(lifetime).ok());
        let token = Token { name, hash, scopes, customer, created, expires };
        if !self.ledger.add_token(token.clone()).await? {
            return Err(DaemonError::Taken { what: "token", name: token.name });
        }
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).insert(hash, token.clone());
        Ok((token, text))
    }

    /// All tokens.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let sorted: BTreeMap<&String, &Token> = tokens.values().map(|token| (&token.name, token)).collect();
        sorted.into_values().cloned().collect()
    }

    /// Revokes a token. Streams that were opened with it end.
    ///
    /// # Errors
    ///
    /// When there is none, or that cannot be kept.
    pub(crate) async fn revoke_token(self: &Arc<Self>, name: String) -> Result<(), DaemonError> {
        if !self.ledger.remove_token(name.clone()).await? {
            return Err(DaemonError::Missing { what: "token", name });
        }
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).retain(|_, token| token.name != name);
        self.access.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The caller with a client certificate of that subject, if there is one.
    pub(crate) fn by_subject(&self, subject: &str) -> Option<Principal> {
        let config = self.config();
        let known = config.certificates.iter().find(|known| known.subject == subject)?;
        Some(Principal {
            name: subject.into(),
            how: How::Certificate,
            scopes: known.scopes.clone(),
            customer: known.customer.clone(),
        })
    }
}
