//! Submissions that wait for a worker, and which requests were taken.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Ledger, LedgerError, time};
use crate::model::{BuildId, Submission};

/// How long a request id is known, in days.
const REQUESTS: u32 = 30;

/// The tables.
pub(super) const TABLES: &str = "
CREATE TABLE waiting (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, build TEXT NOT NULL UNIQUE, since TEXT NOT NULL, about TEXT NOT NULL, submission TEXT NOT NULL
) STRICT;
CREATE TABLE requests (key TEXT PRIMARY KEY, build TEXT NOT NULL, at TEXT NOT NULL) STRICT;
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
";

/// A submission that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// Its place among all that were ever taken.
    pub seq: u64,
    /// The build.
    pub build: BuildId,
    /// When it was taken.
    pub since: Timestamp,
    /// What the queue knows of it, as JSON.
    pub about: String,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It waits, at this place.
    New(u64),
    /// The request was taken before, as this build.
    Before(BuildId),
}

fn waiting(row: &Row<'_>) -> rusqlite::Result<Option<Waiting>> {
    let (seq, build): (i64, String) = (row.get(0)?, row.get(1)?);
    let since = time(&row.get::<_, String>(2)?);
    let about = row.get(3)?;
    Ok(build.parse().ok().map(|build| Waiting { seq: seq.cast_unsigned(), build, since, about }))
}

impl Ledger {
    /// Takes a submission, once for each request.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) async fn take(
        &self,
        submission: &Submission,
        about: String,
        request: Option<String>,
        now: Timestamp,
    ) -> Result<Taken, LedgerError> {
        let build = submission.id.clone();
        let text = serde_json::to_string(submission).unwrap_or_default();
        let is_known = move |db: &rusqlite::Connection, key: &str| {
            let known = db.query_row("SELECT build FROM requests WHERE key = ?1", [key], |row| row.get::<_, String>(0));
            Ok::<_, rusqlite::Error>(known.optional()?.and_then(|build| build.parse().ok()))
        };
        self.write(move |db| {
            if let Some(key) = request {
                if let Some(build) = is_known(db, &key)? {
                    return Ok(Taken::Before(build));
                }
                let values = params![key, build.as_str(), now.to_string()];
                db.execute("INSERT OR REPLACE INTO requests VALUES (?1,?2,?3)", values)?;
            }
            let values = params![build.as_str(), now.to_string(), about, text];
            db.execute("INSERT INTO waiting (build, since, about, submission) VALUES (?1,?2,?3,?4)", values)?;
            Ok(Taken::New(db.last_insert_rowid().cast_unsigned()))
        })
        .await
    }

    /// All that wait, in the order in which they came.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn all_waiting(&self) -> Result<Vec<Waiting>, LedgerError> {
        let sql = "SELECT seq, build, since, about FROM waiting ORDER BY seq";
        self.read(|db| db.prepare(sql)?.query_map([], waiting)?.filter_map(Result::transpose).collect())
    }

    /// A submission that waits, as it was taken.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn submission(&self, build: &BuildId) -> Result<Option<Submission>, LedgerError> {
        let sql = "SELECT submission FROM waiting WHERE build = ?1";
        let text = self.read(|db| db.query_row(sql, [build.as_str()], |row| row.get::<_, String>(0)).optional())?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Forgets one that waits no more.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) fn begun(&self, build: &BuildId) -> Result<(), LedgerError> {
        let build = build.as_str().to_owned();
        self.write_now(move |db| db.execute("DELETE FROM waiting WHERE build = ?1", [build]).map(drop))
    }

    /// Forgets requests that were taken long ago.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) fn forget_requests(&self, now: Timestamp) -> Result<(), LedgerError> {
        let before = (now - jiff::SignedDuration::from_hours(24 * i64::from(REQUESTS))).to_string();
        self.write_now(move |db| db.execute("DELETE FROM requests WHERE at < ?1", [before]).map(drop))
    }

    /// Something that the daemon remembers.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn setting(&self, key: &str) -> Result<Option<String>, LedgerError> {
        self.read(|db| db.query_row("SELECT value FROM settings WHERE key = ?1", [key], |row| row.get(0)).optional())
    }

    /// Remembers something.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) async fn set(&self, key: &'static str, value: String) -> Result<(), LedgerError> {
        self.write(move |db| {
            db.execute("INSERT OR REPLACE INTO settings VALUES (?1,?2)", params![key, value]).map(drop)
        })
        .await
    }
}
