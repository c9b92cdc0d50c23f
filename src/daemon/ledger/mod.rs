//! What the daemon must not forget: the builds that wait, tokens, schedules, webhooks and what was sent to them. One SQLite file; everything
//! that is written at the same time is one commit, so that many callers wait for one fsync.

pub(crate) mod schedules;
pub(crate) mod tokens;
pub(crate) mod waiting;
pub(crate) mod webhooks;

use std::{
    fs,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::oneshot;

use crate::{
    model::{Hint, Kind, UserError},
    system::process::vital,
};

/// Of the tables, kept in `PRAGMA user_version`.
const VERSION: i64 = 1;

/// How many writes are one commit at most.
const TOGETHER: usize = 512;

/// Why the ledger cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// SQLite's own words.
    #[error("cannot {action} {}", path.display())]
    Sqlite {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: Arc<rusqlite::Error>,
    },
    /// Its file cannot be made.
    #[error("cannot make {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: Arc<std::io::Error>,
    },
    /// Written by a newer smidr.
    #[error("{} has version {version}, and this smidr knows up to {VERSION}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
}

impl LedgerError {
    /// Whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Sqlite { source, .. } if matches!(source.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure)))
    }
}

impl UserError for LedgerError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooNew { .. } => Kind::Request,
            Self::Sqlite { .. } | Self::File { .. } => Kind::Host,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::TooNew { .. } => vec![Hint::new("update smidr")],
            _ if self.is_full() => vec![Hint::command("free some space", "df -h")],
            Self::Sqlite { .. } | Self::File { .. } => Vec::new(),
        }
    }
}

/// Works, unless nothing can be written. Says whether it worked, and how to answer.
type Work = Box<dyn FnOnce(Result<&Connection, &Arc<rusqlite::Error>>) -> (bool, Finish) + Send>;
/// Answers a caller, with the error of the commit if there was one.
type Finish = Box<dyn FnOnce(Option<&Arc<rusqlite::Error>>) + Send>;

/// All tables.
const TABLES: [&str; 4] = [waiting::TABLES, tokens::TABLES, schedules::TABLES, webhooks::TABLES];

/// A time as it was written down; the beginning of time where that cannot be read.
fn time(text: &str) -> jiff::Timestamp {
    text.parse().unwrap_or(jiff::Timestamp::MIN)
}

/// The daemon's own database. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Ledger {
    path: Arc<Path>,
    work: Sender<Work>,
    reader: Arc<Mutex<Connection>>,
}

impl Ledger {
    /// Opens the ledger at a path, and makes it if there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is newer than this smidr.
    pub(crate) fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::with(path, &TABLES)
    }

    /// Whether this smidr knows a ledger that another process may be using. Changes nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is newer than this smidr.
    pub(crate) fn check(path: &Path) -> Result<(), LedgerError> {
        if !path.exists() {
            return Ok(());
        }
        let version = || {
            let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            db.busy_timeout(std::time::Duration::from_secs(10))?;
            db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
        };
        match version() {
            Ok(version) if version > VERSION => Err(LedgerError::TooNew { path: path.into(), version }),
            Ok(_) => Ok(()),
            Err(source) => Err(LedgerError::Sqlite { action: "read", path: path.into(), source: Arc::new(source) }),
        }
    }

    fn with(path: &Path, tables: &[&str]) -> Result<Self, LedgerError> {
        let own = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        own.map_err(|error| LedgerError::File { path: path.into(), source: Arc::new(error) })?;
        let failed = |source| LedgerError::Sqlite { action: "open", path: path.into(), source: Arc::new(source) };
        let connect = || {
            let db = Connection::open(path)?;
            db.busy_timeout(std::time::Duration::from_secs(10))?;
            db.pragma_update(None, "journal_mode", "WAL")?;
            // What was answered is on the disk.
            db.pragma_update(None, "synchronous", "FULL")?;
            db.pragma_update(None, "foreign_keys", true)?;
            Ok(db)
        };
        let writer = connect().map_err(failed)?;
        let version: i64 = writer.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if version > VERSION {
            return Err(LedgerError::TooNew { path: path.into(), version });
        }
        if version == 0 {
            let script = format!("BEGIN IMMEDIATE;{}PRAGMA user_version = {VERSION};COMMIT;", tables.concat());
            writer.execute_batch(&script).map_err(failed)?;
        }
        let reader = connect().map_err(failed)?;
        let (work, inbox) = mpsc::channel();
        let thread = thread::Builder::new().name("ledger".into()).spawn(move || vital(|| write_all(&writer, &inbox)));
        thread.map_err(|error| LedgerError::File { path: path.into(), source: Arc::new(error) })?;
        Ok(Self { path: path.into(), work, reader: Arc::new(Mutex::new(reader)) })
    }

    /// Writes, and answers once it is on the disk. Fails alone, whatever else is written with it.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let done = self.begin(work);
        done.await.unwrap_or_else(|_| Err(Arc::new(rusqlite::Error::InvalidQuery))).map_err(|error| self.failed(error))
    }

    /// The same, for threads.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub(crate) fn write_now<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let done = self.begin(work).blocking_recv();
        done.unwrap_or_else(|_| Err(Arc::new(rusqlite::Error::InvalidQuery))).map_err(|error| self.failed(error))
    }

    fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, Arc<rusqlite::Error>>> {
        let (answer, done) = oneshot::channel();
        let work: Work = Box::new(move |db| {
            let result = db.map_err(Arc::clone).and_then(|db| work(db).map_err(Arc::new));
            let is_good = result.is_ok();
            let finish: Finish = Box::new(move |failed| {
                let _ = answer.send(failed.map_or(result, |error| Err(error.clone())));
            });
            (is_good, finish)
        });
        // The thread lives as long as this.
        let _ = self.work.send(work);
        done
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        let db = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        work(&db).map_err(|source| LedgerError::Sqlite {
            action: "read",
            path: self.path.to_path_buf(),
            source: Arc::new(source),
        })
    }

    fn failed(&self, source: Arc<rusqlite::Error>) -> LedgerError {
        LedgerError::Sqlite { action: "write", path: self.path.to_path_buf(), source }
    }
}

/// Writes what comes, all that waits in one commit.
fn write_all(db: &Connection, inbox: &Receiver<Work>) {
    while let Ok(first) = inbox.recv() {
        let all: Vec<Work> = std::iter::once(first).chain(inbox.try_iter().take(TOGETHER)).collect();
        let begun = db.execute_batch("BEGIN IMMEDIATE").map_err(Arc::new);
        let mut finish = Vec::new();
        for work in all {
            if let Err(error) = &begun {
                finish.push(work(Err(error)).1);
                continue;
            }
            let _ = db.execute_batch("SAVEPOINT one");
            let (is_good, answer) = work(Ok(db));
            let _ = db.execute_batch(if is_good { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" });
            finish.push(answer);
        }
        let committed = begun.and_then(|()| db.execute_batch("COMMIT").map_err(Arc::new));
        if committed.is_err() {
            let _ = db.execute_batch("ROLLBACK");
        }
        finish.into_iter().for_each(|answer| answer(committed.as_ref().err()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_takes_nothing_along() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("daemon.db");
        let ledger = Ledger::with(&path, &["CREATE TABLE x (n INTEGER PRIMARY KEY) STRICT;"]).expect("a ledger");
        let add = |n: i64| move |db: &Connection| db.execute("INSERT INTO x VALUES (?1)", [n]).map(drop);
        // Waiting together, they are one commit.
        let all: Vec<_> = [1, 2, 2, 3].into_iter().map(|n| ledger.begin(add(n))).collect();
        let done: Vec<bool> = all.into_iter().map(|one| one.blocking_recv().expect("an answer").is_ok()).collect();
        assert_eq!(done, [true, true, false, true]);
        drop(ledger);
        let again = Ledger::open(&path).expect("a ledger");
        let count = |db: &Connection| db.query_row("SELECT count(*) FROM x", [], |row| row.get::<_, i64>(0));
        assert_eq!(again.read(count).expect("a number"), 3);
        again.write_now(|db| db.pragma_update(None, "user_version", 99)).expect("written");
        assert!(matches!(Ledger::open(&path), Err(LedgerError::TooNew { version: 99, .. })));
        assert!(matches!(Ledger::check(&path), Err(LedgerError::TooNew { version: 99, .. })));
        assert!(Ledger::check(&folder.path().join("none")).is_ok() && !folder.path().join("none").exists());
    }
}
