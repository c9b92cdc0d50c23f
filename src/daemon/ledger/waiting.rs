//! Submissions that wait for a worker, and which requests were taken.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Ledger, LedgerError, time, webhooks::Queued};
use crate::model::{BuildId, Submission};

/// How long a request id is known, in days.
const REQUESTS: u32 = 30;

/// The tables.
pub(super) const TABLES: &str = "
CREATE TABLE waiting (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, build TEXT NOT NULL UNIQUE, since TEXT NOT NULL, about TEXT NOT NULL, submission TEXT NOT NULL
) STRICT;
CREATE TABLE running (build TEXT PRIMARY KEY, since TEXT NOT NULL, about TEXT NOT NULL) STRICT;
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

/// The build that a request was taken as, if it was.
fn requested(db: &Connection, key: &str) -> rusqlite::Result<Option<BuildId>> {
    let sql = "SELECT build FROM requests WHERE key = ?1";
    let known = db.query_row(sql, [key], |row| row.get::<_, String>(0)).optional()?;
    Ok(known.and_then(|build| build.parse().ok()))
}

fn taking(
    submission: &Submission,
    about: String,
    request: Option<String>,
    now: Timestamp,
    told: Queued,
) -> impl FnOnce(&Connection) -> rusqlite::Result<Taken> + use<> {
    let build = submission.id.clone();
    let text = serde_json::to_string(submission).unwrap_or_default();
    move |db| {
        if let Some(key) = request {
            if let Some(build) = requested(db, &key)? {
                return Ok(Taken::Before(build));
            }
            let values = params![key, build.as_str(), now.to_string()];
            db.execute("INSERT OR REPLACE INTO requests VALUES (?1,?2,?3)", values)?;
        }
        let values = params![build.as_str(), now.to_string(), about, text];
        db.execute("INSERT INTO waiting (build, since, about, submission) VALUES (?1,?2,?3,?4)", values)?;
        let seq = db.last_insert_rowid().cast_unsigned();
        told(db)?;
        Ok(Taken::New(seq))
    }
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
        told: Queued,
    ) -> Result<Taken, LedgerError> {
        self.write(taking(submission, about, request, now, told)).await
    }

    /// The same, for threads.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) fn take_now(
        &self,
        submission: &Submission,
        about: String,
        request: Option<String>,
        now: Timestamp,
        told: Queued,
    ) -> Result<Taken, LedgerError> {
        self.write_now(taking(submission, about, request, now, told))
    }

    /// The build that a request was taken as, if it was.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn requested(&self, key: &str) -> Result<Option<BuildId>, LedgerError> {
        self.read(|db| requested(db, key))
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

    /// Notes that one that waited runs.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) fn begun(&self, build: &BuildId, told: Option<Queued>) -> Result<(), LedgerError> {
        let build = build.as_str().to_owned();
        self.write_now(move |db| {
            let sql = "INSERT OR REPLACE INTO running SELECT build, since, about FROM waiting WHERE build = ?1";
            if db.execute(sql, [&build])? > 0 {
                told.map(|told| told(db)).transpose()?;
            }
            db.execute("DELETE FROM waiting WHERE build = ?1", [build]).map(drop)
        })
    }

    /// All that run, as far as the ledger knows.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn all_running(&self) -> Result<Vec<Waiting>, LedgerError> {
        let sql = "SELECT 0, build, since, about FROM running ORDER BY since";
        self.read(|db| db.prepare(sql)?.query_map([], waiting)?.filter_map(Result::transpose).collect())
    }

    /// Notes that one is over, whether it ran or waited.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(crate) fn ended(&self, build: &BuildId, told: Option<Queued>) -> Result<(), LedgerError> {
        let build = build.as_str().to_owned();
        self.write_now(move |db| {
            let known = db.execute("DELETE FROM running WHERE build = ?1", [&build])?
                + db.execute("DELETE FROM waiting WHERE build = ?1", [&build])?;
            if known > 0 {
                told.map(|told| told(db)).transpose()?;
            }
            Ok(())
        })
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
