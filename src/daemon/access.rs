//! Callers of the daemon and what they may do.

use std::fmt;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::model::{Hint, Kind, UserError};

/// How a token's text begins, so that scanners for secrets find it.
const PREFIX: &str = "smidr_";

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// Look at builds.
    Read,
    /// Start builds.
    Submit,
    /// Stop builds.
    Cancel,
    /// Everything, of all customers.
    Admin,
}

impl Scope {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Read, Self::Submit, Self::Cancel, Self::Admin];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Cancel => "cancel",
            Self::Admin => "admin",
        }
    }

    /// The scope with that name.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::of_name(text).ok_or_else(|| format!("`{text}` is no scope: read, submit, cancel or admin"))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a caller has shown what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The daemon's own user, on the Unix socket.
    Owner,
    /// A token, by its SHA-256.
    Token(TokenHash),
    /// A client certificate.
    Certificate,
}

impl How {
    /// For logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Token(_) => "token",
            Self::Certificate => "certificate",
        }
    }
}

/// SHA-256 of a token's text.
pub(crate) type TokenHash = [u8; 32];

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// The token's name, the certificate's subject, or the user.
    pub name: String,
    /// How that is known.
    pub how: How,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Whose builds; none: all.
    pub customer: Option<String>,
}

/// A caller may not do what it asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    /// The scope is missing.
    #[error("{name} does not have the scope `{scope}`")]
    Scope {
        /// The caller.
        name: String,
        /// What is missing.
        scope: Scope,
        /// What it has.
        has: Vec<Scope>,
        /// Its customer.
        customer: Option<String>,
    },
    /// Another customer's.
    #[error("{name} may start builds of the customer {own} only, not of {customer}")]
    Customer {
        /// The caller.
        name: String,
        /// Its own.
        own: String,
        /// What was asked for.
        customer: String,
    },
    /// A folder of this machine.
    #[error(
        "a project in a folder of the daemon's machine can be sent by the daemon's own user only, on the Unix socket"
    )]
    Local,
    /// What only the daemon's own user may do.
    #[error("only the daemon's own user may do that, on the Unix socket")]
    Owner,
}

impl UserError for Denied {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Scope { scope, has, customer, .. } => {
                let scopes: Vec<String> = has.iter().chain([scope]).map(ToString::to_string).collect();
                let customer = customer.as_ref().map(|name| format!(" --customer {name}")).unwrap_or_default();
                let command = format!("smidr daemon token create NAME --scope {}{customer}", scopes.join(","));
                vec![Hint::command("an administrator makes a token with it", command)]
            }
            Self::Customer { .. } | Self::Local | Self::Owner => Vec::new(),
        }
    }
}

impl Principal {
    /// The daemon's own user.
    pub(crate) fn owner(name: &str) -> Self {
        Self { name: name.into(), how: How::Owner, scopes: Scope::ALL.into(), customer: None }
    }

    /// Whether it has a scope.
    pub(crate) fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// Requires a scope.
    ///
    /// # Errors
    ///
    /// When it is missing.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Denied> {
        match self.has(scope) {
            true => Ok(()),
            false => Err(Denied::Scope {
                name: self.name.clone(),
                scope,
                has: self.scopes.clone(),
                customer: self.customer.clone(),
            }),
        }
    }

    /// Requires the daemon's own user.
    ///
    /// # Errors
    ///
    /// For any other.
    pub(crate) fn require_owner(&self) -> Result<(), Denied> {
        if self.how == How::Owner { Ok(()) } else { Err(Denied::Owner) }
    }

    /// Whether it may know of a customer's builds. Those of no customer are for callers of all customers.
    pub(crate) fn sees(&self, customer: Option<&str>) -> bool {
        self.customer.is_none() || self.customer.as_deref() == customer
    }

    /// The customer of what it starts; `asked` is what it asked for.
    ///
    /// # Errors
    ///
    /// When that is another's.
    pub(crate) fn customer_for(&self, asked: Option<String>) -> Result<Option<String>, Denied> {
        match (&self.customer, asked) {
            (None, asked) => Ok(asked),
            (Some(own), Some(customer)) if customer != *own => {
                Err(Denied::Customer { name: self.name.clone(), own: own.clone(), customer })
            }
            (Some(own), _) => Ok(Some(own.clone())),
        }
    }
}

/// A token as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// Its name.
    pub name: String,
    /// Of its text.
    pub hash: TokenHash,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// Whose builds; none: all.
    pub customer: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends to be good.
    pub expires: Option<Timestamp>,
}

impl Token {
    /// The caller that shows it, unless it has expired.
    pub(crate) fn principal(&self, now: Timestamp) -> Option<Principal> {
        let is_good = self.expires.is_none_or(|expires| now < expires);
        is_good.then(|| Principal {
            name: self.name.clone(),
            how: How::Token(self.hash),
            scopes: self.scopes.clone(),
            customer: self.customer.clone(),
        })
    }
}

/// The SHA-256 of a token's text; none for a text that is no token.
pub(crate) fn hash(text: &str) -> Option<TokenHash> {
    text.starts_with(PREFIX).then(|| Sha256::digest(text).into())
}

/// Draws a token: 256 random bits.
///
/// # Errors
///
/// When the kernel gives none.
pub(crate) fn draw() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(format!("{PREFIX}{}", hex::encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(scopes: &[Scope], customer: Option<&str>) -> Principal {
        let hash = hash(&draw().expect("random bytes")).expect("a token");
        let (created, expires) = (Timestamp::UNIX_EPOCH, Some(Timestamp::MAX));
        let token = Token {
            name: "ci".into(),
            hash,
            scopes: scopes.into(),
            customer: customer.map(Into::into),
            created,
            expires,
        };
        assert_eq!(token.principal(Timestamp::MAX), None, "expired");
        token.principal(Timestamp::UNIX_EPOCH).expect("good")
    }

    #[test]
    fn scopes_and_customers_hold() {
        let own = token(&[Scope::Read, Scope::Submit], Some("acme"));
        assert!(own.require(Scope::Submit).is_ok() && own.require(Scope::Cancel).is_err());
        assert!(own.sees(Some("acme")) && !own.sees(Some("other")) && !own.sees(None));
        assert_eq!(own.customer_for(None).expect("its own"), Some("acme".into()));
        assert!(own.customer_for(Some("other".into())).is_err());
        let all = token(&[Scope::Admin], None);
        assert!(all.require(Scope::Cancel).is_ok() && all.sees(None) && all.require_owner().is_err());
        assert_eq!(all.customer_for(Some("x".into())).expect("any"), Some("x".into()));
    }
}
