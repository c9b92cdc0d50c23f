//! The record of builds, in SQLite: builds, their events, their artifacts. The durable sink of every journal; other processes
//! read it while one writes. The only module that says SQL.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use crate::{
    events::EventSink,
    model::{Artifact, BuildId, Event, Kind, Outcome, Record, Stage, State, UserError, document_path},
};

/// Of the tables below, kept in `PRAGMA user_version`.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE builds (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, machine TEXT NOT NULL, targets TEXT NOT NULL, state TEXT NOT NULL,
  started TEXT NOT NULL, ended TEXT, outcome TEXT
) STRICT;
CREATE TABLE events (
  build TEXT NOT NULL REFERENCES builds(id) ON DELETE CASCADE, seq INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (build, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE artifacts (
  build TEXT NOT NULL REFERENCES builds(id) ON DELETE CASCADE, path TEXT NOT NULL, artifact TEXT NOT NULL,
  PRIMARY KEY (build, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX builds_started ON builds(started);
";

/// What a list of builds shows.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct BuildRecord {
    /// Its id.
    pub id: BuildId,
    /// The project.
    pub name: String,
    /// MACHINE.
    pub machine: String,
    /// What BitBake was asked for.
    pub targets: Vec<String>,
    /// Where it is, or how it ended.
    pub state: State,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The variant of the config, if it was one.
    pub variant: Option<String>,
}

/// Why the record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// SQLite's own words.
    #[error("cannot {action} the history of builds")]
    Sqlite {
        /// What was tried.
        action: &'static str,
        /// What went wrong.
        source: rusqlite::Error,
    },
    /// Something else is in its place.
    #[error("{path} is not this user's own file")]
    NotOwn {
        /// The record, or a file that SQLite keeps beside it.
        path: PathBuf,
    },
    /// Its file cannot be made or looked at.
    #[error("cannot use {path}")]
    File {
        /// The record, or a file that SQLite keeps beside it.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Written by a newer smidr.
    #[error("the history of builds has version {0}, and this smidr knows up to {VERSION}")]
    TooNew(i64),
    /// A row that this smidr did not write.
    #[error("the history of builds is damaged at {0}")]
    Damaged(String),
}

impl UserError for HistoryError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooNew(_) => Kind::Request,
            _ => Kind::Host,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::TooNew(_) => Some("update smidr".into()),
            Self::Damaged(_) => Some(
                "builds and artifacts are not lost with it; move history.db in SMIDR_HOME away to begin a new one"
                    .into(),
            ),
            Self::NotOwn { path } => Some(format!("see what it is, and move it away:  ls -l {}", path.display())),
            Self::Sqlite { .. } | Self::File { .. } => None,
        }
    }
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> HistoryError {
    move |source| HistoryError::Sqlite { action, source }
}

/// The record.
pub struct History {
    db: Connection,
}

impl History {
    /// Opens the record, making it if there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, is not the caller's own, or is newer than this smidr.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        make_private(path)?;
        close_to_others(path)?;
        let db = Connection::open(path).map_err(failed("open"))?;
        let open = failed("open");
        db.busy_timeout(std::time::Duration::from_secs(10)).map_err(&open)?;
        // Readers never wait for the writer; a power cut may cost the last events, not the record.
        db.pragma_update(None, "journal_mode", "WAL").map_err(&open)?;
        db.pragma_update(None, "synchronous", "NORMAL").map_err(&open)?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(&open)?;
        match version {
            VERSION => {}
            0 => create(&db)?,
            newer => return Err(HistoryError::TooNew(newer)),
        }
        Ok(Self { db })
    }

    /// Opens the record for looking only; none if there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is not the caller's own.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, HistoryError> {
        if !path.exists() {
            return Ok(None);
        }
        close_to_others(path)?;
        // Writable all the same: SQLite's readers in WAL mode take part in its bookkeeping.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(failed("open"))?;
        db.busy_timeout(std::time::Duration::from_secs(10)).map_err(failed("open"))?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed("open"))?;
        if version > VERSION { Err(HistoryError::TooNew(version)) } else { Ok(Some(Self { db })) }
    }

    /// All builds, the newest first.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn builds(&self, limit: u32) -> Result<Vec<BuildRecord>, HistoryError> {
        self.query("ORDER BY started DESC, rowid DESC LIMIT ?1", params![limit])
    }

    /// How many builds there are.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn count(&self) -> Result<u64, HistoryError> {
        let count = self.db.query_row("SELECT count(*) FROM builds", [], |row| row.get::<_, i64>(0));
        count.map(i64::cast_unsigned).map_err(failed("read"))
    }

    /// One build; without an id the newest.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn find(&self, id: Option<&str>) -> Result<Option<BuildRecord>, HistoryError> {
        match id {
            Some(id) => Ok(self.query("WHERE id = ?1", params![id])?.pop()),
            None => Ok(self.builds(1)?.pop()),
        }
    }

    /// The newest build of a project.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn newest_of(&self, name: &str) -> Result<Option<BuildRecord>, HistoryError> {
        Ok(self.query("WHERE name = ?1 ORDER BY started DESC, rowid DESC LIMIT 1", params![name])?.pop())
    }

    fn query(&self, rest: &str, args: impl rusqlite::Params) -> Result<Vec<BuildRecord>, HistoryError> {
        // The first event says more than the table has columns for.
        let variant = "(SELECT json_extract(record, '$.variant') FROM events WHERE build = id ORDER BY seq LIMIT 1)";
        let sql =
            format!("SELECT id, name, machine, targets, state, started, ended, outcome, {variant} FROM builds {rest}");
        let mut statement = self.db.prepare(&sql).map_err(failed("read"))?;
        let mut rows = statement.query(args).map_err(failed("read"))?;
        let mut builds = Vec::new();
        while let Some(row) = rows.next().map_err(failed("read"))? {
            builds.push(build_of(row)?);
        }
        Ok(builds)
    }

    /// Up to `limit` events of a build after a sequence number.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn events(&self, id: &BuildId, after: u64, limit: u32) -> Result<Vec<Record>, HistoryError> {
        let mut statement = self
            .db
            .prepare_cached("SELECT record FROM events WHERE build = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")
            .map_err(failed("read"))?;
        let rows = statement.query_map(params![id.as_str(), after.cast_signed(), limit], |row| row.get::<_, String>(0));
        let texts = rows.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed("read"))?;
        texts.iter().map(|text| parse(text, "an event")).collect()
    }

    /// What a build left behind.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn artifacts(&self, id: &BuildId) -> Result<Vec<Artifact>, HistoryError> {
        let mut statement =
            self.db.prepare("SELECT artifact FROM artifacts WHERE build = ?1 ORDER BY path").map_err(failed("read"))?;
        let rows = statement.query_map([id.as_str()], |row| row.get::<_, String>(0));
        let texts = rows.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed("read"))?;
        texts.iter().map(|text| parse(text, "an artifact")).collect()
    }

    /// Records that what a build left behind has been removed since.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn mark_cleaned(&self, id: &BuildId) -> Result<(), HistoryError> {
        let mark = "UPDATE builds SET outcome = json_set(outcome, '$.cleaned', json('true')) WHERE id = ?1";
        self.db.execute(mark, [id.as_str()]).map(drop).map_err(failed("write"))
    }

    /// Removes a build with everything that is known of it.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn forget(&self, id: &BuildId) -> Result<(), HistoryError> {
        let forget = || {
            let transaction = self.db.unchecked_transaction()?;
            for (table, column) in [("events", "build"), ("artifacts", "build"), ("builds", "id")] {
                transaction.execute(&format!("DELETE FROM {table} WHERE {column} = ?1"), [id.as_str()])?;
            }
            transaction.commit()
        };
        forget().map_err(failed("write"))
    }

    /// Records that a build's process is gone without having said how the build ended.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn mark_interrupted(&self, build: &BuildRecord) -> Result<BuildRecord, HistoryError> {
        let reasons = vec!["smidr was killed, or the machine went down, while it ran".into()];
        let outcome = Outcome { reasons, ..Outcome::new(State::Failed) };
        let ended: Option<String> = self
            .db
            .query_row(
                "SELECT json_extract(record, '$.at') FROM events WHERE build = ?1 ORDER BY seq DESC LIMIT 1",
                [build.id.as_str()],
                |row| row.get(0),
            )
            .optional()
            .map_err(failed("read"))?;
        let ended = ended.and_then(|text| text.parse().ok()).unwrap_or(build.started);
        finish(&self.db, &build.id, &outcome, ended).map_err(failed("write"))?;
        Ok(BuildRecord { state: outcome.state, ended: Some(ended), outcome: Some(outcome), ..build.clone() })
    }

    /// A sink for the journal of one build.
    pub fn into_sink(self) -> (HistorySink, Failure) {
        let failure = Failure::default();
        (HistorySink { db: self.db, failure: failure.clone() }, failure)
    }
}

/// Makes an empty file where there is nothing. SQLite gives the permissions of the record to the files that it keeps beside it.
fn make_private(path: &Path) -> Result<(), HistoryError> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(HistoryError::File { path: path.into(), source: error })
        }
        _ => Ok(()),
    }
}

/// What is there must be the caller's own files, for nobody else to read: events hold what builds print. Nothing is opened, since closing
/// a second descriptor would drop the locks of a connection that this process has (sqlite.org/howtocorrupt.html, 2.2).
fn close_to_others(path: &Path) -> Result<(), HistoryError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        let path = PathBuf::from(path);
        match fs::symlink_metadata(&path) {
            Ok(found) if !found.is_file() || found.uid() != nix::unistd::Uid::effective().as_raw() => {
                return Err(HistoryError::NotOwn { path });
            }
            Ok(found) if found.mode() & 0o077 != 0 => {
                let closed = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
                closed.map_err(|source| HistoryError::File { path, source })?;
            }
            // Those beside it come and go.
            _ => {}
        }
    }
    Ok(())
}

fn create(db: &Connection) -> Result<(), HistoryError> {
    // Two smidr may meet here on a new machine: the one that comes second finds the work done.
    let script = format!("BEGIN IMMEDIATE;{TABLES}PRAGMA user_version = {VERSION};COMMIT;");
    match db.execute_batch(&script) {
        Ok(()) => Ok(()),
        Err(error) => {
            let _ = db.execute_batch("ROLLBACK");
            let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed("create"))?;
            if version == VERSION { Ok(()) } else { Err(failed("create")(error)) }
        }
    }
}

fn build_of(row: &rusqlite::Row<'_>) -> Result<BuildRecord, HistoryError> {
    let text = |column: usize| row.get::<_, String>(column).map_err(failed("read"));
    let maybe = |column: usize| row.get::<_, Option<String>>(column).map_err(failed("read"));
    let damaged = |what: &str| HistoryError::Damaged(what.into());
    let outcome = maybe(7)?.map(|json| parse(&json, "an outcome")).transpose()?;
    Ok(BuildRecord {
        id: text(0)?.parse().map_err(|_| damaged("an id"))?,
        name: text(1)?,
        machine: text(2)?,
        targets: parse(&text(3)?, "targets")?,
        state: text(4)?.parse().map_err(|_| damaged("a state"))?,
        started: text(5)?.parse().map_err(|_| damaged("a time"))?,
        ended: maybe(6)?.and_then(|time| time.parse().ok()),
        outcome,
        variant: maybe(8)?,
    })
}

fn parse<T: serde::de::DeserializeOwned>(json: &str, what: &str) -> Result<T, HistoryError> {
    serde_json::from_str(json).map_err(|_| HistoryError::Damaged(what.into()))
}

/// Writes every event down before anybody sees it.
pub struct HistorySink {
    db: Connection,
    failure: Failure,
}

/// The first thing that could not be written, if any. A build goes on without its record, but not silently.
#[derive(Clone, Default)]
pub struct Failure(Arc<Mutex<Option<HistoryError>>>);

impl Failure {
    /// Takes it.
    pub fn take(&self) -> Option<HistoryError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl EventSink for HistorySink {
    fn accept(&mut self, record: &Record) {
        // Passing states are for those who watch; the last one is told by what follows.
        if matches!(record.event, Event::Progress { .. } | Event::TaskProgress { .. }) {
            return;
        }
        if let Err(source) = self.write(record) {
            let mut first = self.failure.0.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(HistoryError::Sqlite { action: "write", source });
        }
    }
}

impl HistorySink {
    fn write(&self, record: &Record) -> rusqlite::Result<()> {
        let id = record.build.as_str();
        let transaction = self.db.unchecked_transaction()?;
        match &record.event {
            Event::BuildStarted { name, targets, machine, .. } => {
                let targets = json(targets)?;
                let values = params![id, name, machine, targets, State::Queued.to_string(), record.at.to_string()];
                let sql = "INSERT INTO builds (id, name, machine, targets, state, started) VALUES (?1,?2,?3,?4,?5,?6)";
                transaction.execute(sql, values)?;
            }
            Event::StageStarted { stage } => {
                let state = match stage {
                    Stage::Prepare => State::Preparing,
                    Stage::Fetch | Stage::Run => State::Building,
                    Stage::Collect => State::ExtractingArtifacts,
                };
                transaction.execute("UPDATE builds SET state = ?2 WHERE id = ?1", params![id, state.to_string()])?;
            }
            Event::ArtifactKept { artifact } => {
                let values = params![id, key(&artifact.path), json(artifact)?];
                transaction.execute("INSERT OR REPLACE INTO artifacts VALUES (?1,?2,?3)", values)?;
            }
            Event::Finished { outcome } => finish(&transaction, &record.build, outcome, record.at)?,
            _ => {}
        }
        let values = params![id, record.seq.cast_signed(), json(record)?];
        transaction.prepare_cached("INSERT INTO events VALUES (?1,?2,?3)")?.execute(values)?;
        transaction.commit()
    }
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// One text for each path. No artifact's path begins with a slash; where it is no UTF-8, the text does.
fn key(path: &Path) -> String {
    document_path::bytes_of(path).map_or_else(|| path.display().to_string(), |bytes| format!("/{bytes}"))
}

fn finish(db: &Connection, id: &BuildId, outcome: &Outcome, at: Timestamp) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE builds SET state = ?2, ended = ?3, outcome = ?4 WHERE id = ?1",
        params![id.as_str(), outcome.state.to_string(), at.to_string(), json(outcome)?],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Emitter;

    #[test]
    fn only_its_owner_reads_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).expect(name).mode() & 0o777;
        let names = ["history.db", "history.db-wal", "history.db-shm"];
        let _db = History::open(&at(names[0])).expect("made");
        assert_eq!(names.map(mode), [0o600; 3]);
        for open in [|path: &Path| History::open(path).map(drop), |path: &Path| History::open_existing(path).map(drop)]
        {
            for name in names {
                fs::set_permissions(at(name), fs::Permissions::from_mode(0o644)).expect("a mode");
            }
            open(&at(names[0])).expect("opened");
            assert_eq!(names.map(mode), [0o600; 3]);
        }
        // A link, to a file of the caller's too, or a folder.
        std::os::unix::fs::symlink(at(names[0]), at("link.db")).expect("a link");
        fs::create_dir(at("folder.db")).expect("a folder");
        let _other = History::open(&at("other.db")).expect("made");
        fs::remove_file(at("other.db-shm")).expect("removed");
        std::os::unix::fs::symlink(at("nowhere"), at("other.db-shm")).expect("a link");
        for name in ["link.db", "folder.db", "other.db"] {
            assert!(matches!(History::open(&at(name)), Err(HistoryError::NotOwn { .. })), "{name}");
            assert!(matches!(History::open_existing(&at(name)), Err(HistoryError::NotOwn { .. })), "{name}");
        }
        assert!(!at("nowhere").exists());
    }

    #[test]
    fn a_build_is_read_back_while_and_after_it_runs() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("history.db");
        assert!(History::open_existing(&path).expect("nothing yet").is_none());
        let id = BuildId::new("hello", 7).expect("an id");
        let (sink, failure) = History::open(&path).expect("made").into_sink();
        let on = Emitter::new(id.clone(), vec![Box::new(sink)]);
        on.emit(Event::BuildStarted {
            name: "hello".into(),
            targets: vec!["image".into()],
            machine: "m".into(),
            variant: Some("debug".into()),
        });
        on.emit(Event::StageStarted { stage: Stage::Run });
        on.emit(Event::Console { line: "NOTE: hi".into() });
        let reader = History::open_existing(&path).expect("opens").expect("is there");
        let build = reader.find(None).expect("reads").expect("a build");
        assert_eq!((build.state, build.targets.len()), (State::Building, 1));
        assert_eq!(build.variant.as_deref(), Some("debug"));
        assert_eq!(reader.events(&id, 2, 10).expect("events").len(), 1);
        let buried = reader.mark_interrupted(&build).expect("buried");
        assert_eq!((buried.state, buried.ended.is_some()), (State::Failed, true));
        let outcome = Outcome { state: State::Completed, ..buried.outcome.expect("an outcome") };
        on.emit(Event::Finished { outcome });
        assert_eq!(reader.find(Some(id.as_str())).expect("reads").map(|b| b.state), Some(State::Completed));
        assert!(failure.take().is_none());
    }
}
