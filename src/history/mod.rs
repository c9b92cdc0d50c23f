//! The record of builds: a journal for each ([`journal`]), and an index over all of them in SQLite, which [`History::rebuild`] can make
//! again. The only module that says SQL.

pub(crate) mod journal;
mod list;
mod migrate;
mod summary;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use journal::Writer;
pub(crate) use list::{Cursor, Filter};
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
pub(crate) use summary::{BuildRecord, QueuePlace, Summary, TaskRecord};

use crate::{
    events::EventSink,
    model::{Artifact, BuildId, Event, Hint, Kind, Outcome, Paths, Place, Record, State, UserError, document_path},
    system::files::{FileError, make_private_dir},
};

/// Of the tables below, kept in `PRAGMA user_version`.
const VERSION: i64 = 2;

/// How long other processes are waited for that write to the index.
const PATIENCE: Duration = Duration::from_secs(10);

const TABLES: &str = "
CREATE TABLE builds (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL, config TEXT, record TEXT NOT NULL
) STRICT;
CREATE TABLE tasks (
  build TEXT NOT NULL REFERENCES builds(id) ON DELETE CASCADE, number INTEGER NOT NULL, task TEXT NOT NULL,
  PRIMARY KEY (build, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE artifacts (
  build TEXT NOT NULL REFERENCES builds(id) ON DELETE CASCADE, number INTEGER NOT NULL, artifact TEXT NOT NULL,
  PRIMARY KEY (build, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX builds_started ON builds(started);
CREATE INDEX builds_config ON builds(config, started);
CREATE INDEX builds_state ON builds(state);
";

/// Why a build whose process is gone ended.
const INTERRUPTED: &str = "its smidr was killed, or the machine went down, while it ran";

/// Why the record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
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
    /// Builds of an earlier smidr write to it.
    #[error(
        "{0} is a build of an earlier smidr and still runs: until it ends, the history of builds cannot be brought to its new form"
    )]
    Earlier(BuildId),
    /// A journal.
    #[error(transparent)]
    Journal(#[from] FileError),
}

impl UserError for HistoryError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooNew(_) | Self::Earlier(_) => Kind::Request,
            Self::Journal(error) => error.kind(),
            _ => Kind::Host,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::TooNew(_) => vec![Hint::new("update smidr")],
            _ if self.is_damage() => {
                vec![Hint::command("make it again from the builds' journals", "smidr history rebuild")]
            }
            Self::Earlier(id) => {
                vec![Hint::command("wait for it, or stop it", format!("kill -INT the smidr that builds {id}"))]
            }
            Self::Journal(error) => error.hints(),
            Self::NotOwn { path } => {
                vec![Hint::command("see what it is, and move it away", format!("ls -l {}", path.display()))]
            }
            // Whatever SQLite cannot write or make is said to be one of these.
            Self::Sqlite { source, .. }
                if matches!(source.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure)) =>
            {
                vec![Hint::command("free some space, if there is none", "df -h")]
            }
            Self::Sqlite { .. } | Self::Damaged(_) | Self::File { .. } => Vec::new(),
        }
    }
}

impl HistoryError {
    /// Whether the index is not what this smidr wrote.
    fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite { source, .. } => {
                matches!(source.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
            }
            _ => false,
        }
    }
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> HistoryError {
    move |source| HistoryError::Sqlite { action, source }
}

/// The index.
pub(crate) struct History {
    db: Connection,
    builds: PathBuf,
}

impl History {
    /// Opens the index, making it if there is none, and bringing one of an earlier smidr to its present form.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, is not the caller's own, or is newer than this smidr.
    pub(crate) fn open(paths: &Paths) -> Result<Self, HistoryError> {
        let path = paths.history();
        make_private(&path)?;
        close_to_others(&path)?;
        Self::opened(paths, Connection::open(&path).map_err(failed("open"))?)
    }

    /// Opens the index if there is one.
    ///
    /// # Errors
    ///
    /// As [`History::open`].
    pub(crate) fn open_existing(paths: &Paths) -> Result<Option<Self>, HistoryError> {
        if !paths.history().exists() {
            // One that was removed is made again.
            let has_builds = fs::read_dir(paths.builds()).is_ok_and(|mut builds| builds.next().is_some());
            return has_builds.then(|| Self::open(paths)).transpose();
        }
        close_to_others(&paths.history())?;
        // Writable all the same: SQLite's readers in WAL mode take part in its bookkeeping.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(paths.history(), flags).map_err(failed("open"))?;
        Self::opened(paths, db).map(Some)
    }

    fn opened(paths: &Paths, mut db: Connection) -> Result<Self, HistoryError> {
        let open = failed("open");
        db.busy_timeout(PATIENCE).map_err(&open)?;
        // Readers never wait for the writer; what a power cut costs is in the journals.
        patiently(|| db.pragma_update(None, "journal_mode", "WAL")).map_err(&open)?;
        db.pragma_update(None, "synchronous", "NORMAL").map_err(&open)?;
        let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
        let mut is_new = false;
        loop {
            match patiently(|| version(&db)).map_err(&open)? {
                VERSION => break,
                0 => {
                    create(&db)?;
                    is_new = true;
                }
                1 => migrate::from_1(&mut db, paths)?,
                newer => return Err(HistoryError::TooNew(newer)),
            }
        }
        let history = Self { db, builds: paths.builds() };
        if is_new {
            history.refill(&mut |_, _| ())?;
        }
        Ok(history)
    }

    /// All builds, the newest first.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn builds(&self, limit: u32) -> Result<Vec<BuildRecord>, HistoryError> {
        self.query("ORDER BY started DESC, rowid DESC LIMIT ?1", params![limit])
    }

    /// Builds that are not over, as far as the index knows.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn unfinished(&self) -> Result<Vec<BuildRecord>, HistoryError> {
        self.query("WHERE state IN ('QUEUED', 'PREPARING', 'BUILDING', 'EXTRACTING_ARTIFACTS')", [])
    }

    /// How many builds there are.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn count(&self) -> Result<u64, HistoryError> {
        let count = self.db.query_row("SELECT count(*) FROM builds", [], |row| row.get::<_, i64>(0));
        count.map(i64::cast_unsigned).map_err(failed("read"))
    }

    /// One build; without an id the newest.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn find(&self, id: Option<&str>) -> Result<Option<BuildRecord>, HistoryError> {
        match id {
            Some(id) => Ok(self.query("WHERE id = ?1", params![id])?.pop()),
            None => Ok(self.builds(1)?.pop()),
        }
    }

    /// Builds whose id, or its last part, begins with a text: at most four, the newest first.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn matching(&self, text: &str) -> Result<Vec<BuildRecord>, HistoryError> {
        let rest = "WHERE substr(id, 1, length(?1)) = ?1 OR substr(id, length(id) - 7, length(?1)) = ?1 \
                    ORDER BY started DESC, rowid DESC LIMIT 4";
        self.query(rest, params![text])
    }

    /// The newest build of the project with this config. Builds of the first smidr are known by the project's name only.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn newest_of(&self, config: &Path, name: &str) -> Result<Option<BuildRecord>, HistoryError> {
        let rest = "WHERE config = ?1 OR config IS NULL AND name = ?2 ORDER BY started DESC, rowid DESC LIMIT 1";
        Ok(self.query(rest, params![key(config), name])?.pop())
    }

    /// The last builds of the project with this config, and of a variant of it, that completed, the newest first.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn good_builds_of(
        &self,
        config: &Path,
        variant: Option<&str>,
        limit: u32,
    ) -> Result<Vec<BuildRecord>, HistoryError> {
        let rest = "WHERE config = ?1 AND state = 'COMPLETED' AND json_extract(record, '$.variant') IS ?2 \
                    ORDER BY started DESC, rowid DESC LIMIT ?3";
        self.query(rest, params![key(config), variant, limit])
    }

    fn query(&self, rest: &str, args: impl rusqlite::Params) -> Result<Vec<BuildRecord>, HistoryError> {
        self.texts(&format!("SELECT record FROM builds {rest}"), args, "a build")
    }

    fn texts<T: serde::de::DeserializeOwned>(
        &self,
        sql: &str,
        args: impl rusqlite::Params,
        what: &str,
    ) -> Result<Vec<T>, HistoryError> {
        self.strings(sql, args)?.iter().map(|text| parse(text, what)).collect()
    }

    fn strings(&self, sql: &str, args: impl rusqlite::Params) -> Result<Vec<String>, HistoryError> {
        let mut statement = self.db.prepare(sql).map_err(failed("read"))?;
        let rows = statement.query_map(args, |row| row.get(0));
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }

    /// What a build left behind.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn artifacts(&self, id: &BuildId) -> Result<Vec<Artifact>, HistoryError> {
        self.texts("SELECT artifact FROM artifacts WHERE build = ?1 ORDER BY number", [id.as_str()], "an artifact")
    }

    /// The tasks of a build that is over, in the order in which they began.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn tasks(&self, id: &BuildId) -> Result<Vec<TaskRecord>, HistoryError> {
        self.texts("SELECT task FROM tasks WHERE build = ?1 ORDER BY number", [id.as_str()], "a task")
    }

    /// Records that what a build left behind has been removed since.
    ///
    /// # Errors
    ///
    /// When the index cannot be written.
    pub(crate) fn mark_cleaned(&self, id: &BuildId) -> Result<(), HistoryError> {
        let mark = "UPDATE builds SET record = json_set(record, '$.outcome.cleaned', json('true')) WHERE id = ?1";
        self.db.execute(mark, [id.as_str()]).map(drop).map_err(failed("write"))
    }

    /// Removes a build from the index.
    ///
    /// # Errors
    ///
    /// When the index cannot be written.
    pub(crate) fn forget(&self, id: &BuildId) -> Result<(), HistoryError> {
        let forget = || {
            let transaction = self.db.unchecked_transaction()?;
            remove_rows(&transaction, id)?;
            transaction.commit()
        };
        forget().map_err(failed("write"))
    }

    /// A build as its journal tells, if it has one that can be read.
    pub(crate) fn in_journal(paths: &Paths, id: &BuildId) -> Option<BuildRecord> {
        Some(Summary::read(&paths.build(id)).ok()??.0.build)
    }

    /// How a build has ended whose end stands in its journal, and not in the index yet.
    pub(crate) fn ended(&self, build: &BuildRecord) -> Option<BuildRecord> {
        let record = journal::last(&self.builds.join(build.id.as_str()))?;
        let mut summary = Summary::of(build.clone());
        matches!(record.event, Event::Finished { .. }).then(|| summary.take(&record))?;
        Some(summary.build)
    }

    /// Ends the record of a build whose process is gone without having said how it ended. The caller holds the build's lock. Where that cannot
    /// be written, because the disk is full, the next one that looks tries again. A journal that cannot be read ends no list of builds.
    pub(crate) fn mark_interrupted(&self, build: &BuildRecord) -> BuildRecord {
        let folder = self.builds.join(build.id.as_str());
        let known = Summary::read(&folder).ok().flatten();
        let (mut summary, mut seq) = known.unwrap_or_else(|| (Summary::of(build.clone()), 0));
        if !summary.build.state.is_final() {
            seq += 1;
            let last = summary.last.unwrap_or(build.started);
            let duration = last.duration_since(summary.build.started).as_millis();
            let outcome = Outcome {
                reasons: vec![INTERRUPTED.into()],
                duration_ms: u64::try_from(duration).unwrap_or_default(),
                ..Outcome::new(State::Interrupted)
            };
            let event = Event::Finished { outcome };
            let record = Record { build: build.id.clone(), place: Place::Seq(seq), at: Timestamp::now(), event };
            summary.take(&record);
            if end_journal(&folder, &record).is_err_and(|error| is_full(&error)) {
                return summary.build;
            }
        }
        let _ = self.put(&summary);
        summary.build
    }

    /// Puts a build with all that is known of it into the index.
    fn put(&self, summary: &Summary) -> Result<(), HistoryError> {
        let put = || {
            let transaction = self.db.unchecked_transaction()?;
            put_rows(&transaction, summary)?;
            transaction.commit()
        };
        put().map_err(failed("write"))
    }

    /// Makes the index again from the journals, and hands each build that has none that can be read to `unreadable`. Gives the number
    /// of builds.
    ///
    /// # Errors
    ///
    /// When the journals cannot be listed, or the index cannot be written.
    pub(crate) fn rebuild(paths: &Paths, mut unreadable: impl FnMut(&str, String)) -> Result<u64, HistoryError> {
        match Self::open(paths).and_then(|history| history.refill(&mut unreadable)) {
            // Another process may have it open: only one that is damaged is replaced.
            Err(error) if error.is_damage() => {
                for suffix in ["", "-wal", "-shm"] {
                    let mut part = paths.history().into_os_string();
                    part.push(suffix);
                    let _ = fs::rename(&part, Path::new(&part).with_extension(format!("damaged{suffix}")));
                }
                Self::open(paths)?.refill(&mut unreadable)
            }
            done => done,
        }
    }

    fn refill(&self, unreadable: &mut impl FnMut(&str, String)) -> Result<u64, HistoryError> {
        // Listed before the folders: what is new meanwhile has one.
        let mut gone: BTreeSet<String> = self.strings("SELECT id FROM builds", [])?.into_iter().collect();
        let mut count = 0;
        for entry in fs::read_dir(&self.builds).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().filter(|name| name.parse::<BuildId>().is_ok()) else { continue };
            match Summary::read(&entry.path()) {
                Ok(None) => {
                    unreadable(id, "it has no journal".into());
                    continue;
                }
                Ok(Some((mut summary, _))) => {
                    summary.note_cleaned(&entry.path());
                    self.put(&summary)?;
                    count += 1;
                }
                Err(error) => unreadable(id, error.to_string()),
            }
            gone.remove(id);
        }
        for id in gone.iter().filter_map(|id| id.parse().ok()) {
            self.forget(&id)?;
        }
        Ok(count)
    }

    /// Takes in builds whose journal is there and that the index does not know: a power cut may take the last that was written to it.
    ///
    /// # Errors
    ///
    /// When the index cannot be read or written.
    pub(crate) fn catch_up(&self) -> Result<(), HistoryError> {
        let known: BTreeSet<String> = self.strings("SELECT id FROM builds", [])?.into_iter().collect();
        for entry in fs::read_dir(&self.builds).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_new = |name: &&str| name.parse::<BuildId>().is_ok() && !known.contains(*name);
            if let Some(id) = name.to_str().filter(is_new).and_then(|name| name.parse().ok()) {
                self.take_in(&id)?;
            }
        }
        Ok(())
    }

    /// Puts a build into the index as its journal tells it. What cannot be read, `rebuild` tells.
    ///
    /// # Errors
    ///
    /// When the index cannot be written.
    pub(crate) fn take_in(&self, id: &BuildId) -> Result<(), HistoryError> {
        let folder = self.builds.join(id.as_str());
        if let Ok(Some((mut summary, _))) = Summary::read(&folder) {
            summary.note_cleaned(&folder);
            self.put(&summary)?;
        }
        Ok(())
    }

    /// A sink that keeps the index of one build.
    pub(crate) fn into_sink(self) -> (IndexSink, Behind) {
        let behind = Behind::default();
        (IndexSink { history: self, summary: None, behind: behind.clone() }, behind)
    }
}

fn is_full(error: &FileError) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// Writes the last record of a build whose worker is gone.
fn end_journal(folder: &Path, record: &Record) -> Result<(), FileError> {
    make_private_dir(folder)?;
    let mut writer = match record.seq() {
        Some(1) => Writer::create(folder)?,
        _ => Writer::reopen(folder)?,
    };
    writer.write(record).map_err(FileError::new("write", &folder.join(journal::JOURNAL)))?;
    writer.finish();
    Ok(())
}

/// Tries again while other processes make the index or change its mode, for which SQLite does not wait by itself (busy_timeout).
fn patiently<T>(mut work: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match work() {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

fn remove_rows(db: &Connection, id: &BuildId) -> rusqlite::Result<()> {
    for (table, column) in [("tasks", "build"), ("artifacts", "build"), ("builds", "id")] {
        db.execute(&format!("DELETE FROM {table} WHERE {column} = ?1"), [id.as_str()])?;
    }
    Ok(())
}

fn put_rows(db: &Connection, summary: &Summary) -> rusqlite::Result<()> {
    let id = summary.build.id.as_str();
    remove_rows(db, &summary.build.id)?;
    put_build(db, &summary.build)?;
    for (number, task) in (0_i64..).zip(&summary.tasks) {
        db.prepare_cached("INSERT INTO tasks VALUES (?1,?2,?3)")?.execute(params![id, number, json(task)?])?;
    }
    for (number, artifact) in (0_i64..).zip(&summary.artifacts) {
        db.prepare_cached("INSERT INTO artifacts VALUES (?1,?2,?3)")?.execute(params![id, number, json(artifact)?])?;
    }
    Ok(())
}

fn put_build(db: &Connection, build: &BuildRecord) -> rusqlite::Result<()> {
    insert_build(db, "INSERT OR REPLACE", build)
}

/// What happens to a row that is there, `how` says.
fn insert_build(db: &Connection, how: &str, build: &BuildRecord) -> rusqlite::Result<()> {
    let config = build.config.as_deref().map(key);
    let values = params![
        build.id.as_str(),
        build.name,
        build.state.to_string(),
        build.started.to_string(),
        config,
        json(build)?
    ];
    db.prepare_cached(&format!("{how} INTO builds VALUES (?1,?2,?3,?4,?5,?6)"))?.execute(values).map(drop)
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

/// What is there must be the caller's own files, closed to others: events hold what builds print. Nothing is opened, since closing
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

fn parse<T: serde::de::DeserializeOwned>(json: &str, what: &str) -> Result<T, HistoryError> {
    serde_json::from_str(json).map_err(|_| HistoryError::Damaged(what.into()))
}

/// Keeps the index of one build: its state at once, all else at its end. An index that cannot be written ends no build: `smidr history
/// rebuild` makes it again.
pub(crate) struct IndexSink {
    history: History,
    summary: Option<Summary>,
    behind: Behind,
}

/// Why the index of a build is behind its journal, if it is.
#[derive(Clone, Default)]
pub(crate) struct Behind(Arc<Mutex<Option<HistoryError>>>);

impl Behind {
    /// The first reason.
    pub(crate) fn take(&self) -> Option<HistoryError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl EventSink for IndexSink {
    fn accept(&mut self, record: &Record) {
        let summary = match (&mut self.summary, Summary::begin(record)) {
            (Some(summary), _) => summary,
            (none, Some(begun)) => none.insert(begun),
            (None, None) => return,
        };
        let before = summary.build.state;
        summary.take(record);
        let written = match &record.event {
            Event::Finished { .. } => self.history.put(summary),
            Event::BuildStarted { .. } => put_build(&self.history.db, &summary.build).map_err(failed("write")),
            _ if summary.build.state != before => put_build(&self.history.db, &summary.build).map_err(failed("write")),
            _ => return,
        };
        if let Err(error) = written {
            self.behind.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// One text for each path. No artifact's path begins with a slash; where it is no UTF-8, the text does.
fn key(path: &Path) -> String {
    document_path::bytes_of(path).map_or_else(|| path.display().to_string(), |bytes| format!("/{bytes}"))
}

#[cfg(test)]
mod tests;
