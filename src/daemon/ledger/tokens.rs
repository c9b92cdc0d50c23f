//! Tokens. Of their texts, only hashes.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::{Ledger, LedgerError, time};
use crate::daemon::access::{Scope, Token, TokenHash};

/// The table.
pub(super) const TABLES: &str = "
CREATE TABLE tokens (
  name TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, scopes TEXT NOT NULL, customer TEXT, created TEXT NOT NULL, expires TEXT
) STRICT;
";

fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
    let scopes: String = row.get(2)?;
    let expires: Option<String> = row.get(5)?;
    Ok(Token {
        name: row.get(0)?,
        hash: row.get::<_, TokenHash>(1)?,
        scopes: scopes.split(' ').filter_map(Scope::of_name).collect(),
        customer: row.get(3)?,
        created: time(&row.get::<_, String>(4)?),
        // One that cannot be read has expired.
        expires: expires.map(|text| time(&text)),
    })
}

impl Ledger {
    /// All tokens.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn tokens(&self) -> Result<Vec<Token>, LedgerError> {
        self.read(|db| db.prepare("SELECT * FROM tokens ORDER BY name")?.query_map([], token)?.collect())
    }

    /// Adds a token. Gives whether its name was free.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) async fn add_token(&self, token: Token) -> Result<bool, LedgerError> {
        let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.name()).collect();
        let scopes = scopes.join(" ");
        self.write(move |db| {
            let (created, expires) = (token.created.to_string(), token.expires.as_ref().map(Timestamp::to_string));
            let values = params![token.name, token.hash, scopes, token.customer, created, expires];
            Ok(db.execute("INSERT OR IGNORE INTO tokens VALUES (?1,?2,?3,?4,?5,?6)", values)? > 0)
        })
        .await
    }

    /// Removes a token. Gives whether there was one.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) async fn remove_token(&self, name: String) -> Result<bool, LedgerError> {
        self.write(move |db| Ok(db.execute("DELETE FROM tokens WHERE name = ?1", [name])? > 0)).await
    }
}
