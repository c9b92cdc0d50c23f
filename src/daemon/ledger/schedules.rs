//! Schedules in the ledger: what is built when, how far each has come, and how its last run ended. Times are milliseconds.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

/// What the ledger keeps of schedules.
pub(crate) const TABLES: &str = "
    CREATE TABLE schedules (
        customer TEXT NOT NULL,
        name TEXT NOT NULL,
        cron TEXT NOT NULL,
        time_zone TEXT NOT NULL,
        source TEXT NOT NULL,
        run_missed INTEGER NOT NULL,
        only_if_changed INTEGER NOT NULL,
        handled INTEGER NOT NULL,
        pending INTEGER,
        last INTEGER,
        last_build TEXT,
        last_error TEXT,
        missed INTEGER NOT NULL DEFAULT 0,
        pins TEXT,
        PRIMARY KEY (customer, name)
    ) STRICT;
";

const COLUMNS: &str = "customer, name, cron, time_zone, source, run_missed, only_if_changed, handled, pending, last, last_build, last_error, missed, pins";

/// A schedule as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleRow {
    /// Whose builds it starts; empty: of no customer.
    pub customer: String,
    /// Its name, unique for each customer.
    pub name: String,
    /// When it is due, as it was written.
    pub cron: String,
    /// The time zone of that.
    pub time_zone: String,
    /// What is built, as JSON. Empty where it was not read.
    pub source: String,
    /// Whether one run is made up for those that were missed.
    pub run_missed: bool,
    /// Whether nothing is built where the pins have not changed.
    pub only_if_changed: bool,
    /// Due times up to this one are over.
    pub handled: Timestamp,
    /// The due time whose run is being started.
    pub pending: Option<Timestamp>,
    /// The due time of the last run that was started, or was to be; of one that was not due, when it was.
    pub last: Option<Timestamp>,
    /// The last build.
    pub last_build: Option<String>,
    /// Why the last run started no build.
    pub last_error: Option<String>,
    /// How many due times have passed without a run, as far as the daemon has noticed since it was started.
    pub missed: u32,
    /// Of what the last build was pinned to.
    pub pins: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// A build, and the digest of what it is pinned to where that is asked for.
    Started(String, Option<String>),
    /// Nothing would be different from the last build.
    Unchanged,
    /// It could not be started.
    Failed(String),
}

/// Adds a schedule, or replaces the one of this customer and name with all that is known of it. Says whether there was room for it.
pub(crate) fn put(row: ScheduleRow, most: u32) -> impl FnOnce(&Connection) -> rusqlite::Result<bool> {
    move |db| {
        let sql = "SELECT count(*) FROM schedules WHERE customer = ?1 AND name <> ?2";
        if db.query_row(sql, params![row.customer, row.name], |row| row.get::<_, u32>(0))? >= most {
            return Ok(false);
        }
        let sql = format!(
            "INSERT OR REPLACE INTO schedules ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
        );
        db.execute(
            &sql,
            params![
                row.customer,
                row.name,
                row.cron,
                row.time_zone,
                row.source,
                row.run_missed,
                row.only_if_changed,
                row.handled.as_millisecond(),
                row.pending.map(Timestamp::as_millisecond),
                row.last.map(Timestamp::as_millisecond),
                row.last_build,
                row.last_error,
                row.missed,
                row.pins,
            ],
        )
        .map(|_| true)
    }
}

/// Removes a schedule, and says whether there was one.
pub(crate) fn delete(customer: String, name: String) -> impl FnOnce(&Connection) -> rusqlite::Result<bool> {
    move |db| {
        let sql = "DELETE FROM schedules WHERE customer = ?1 AND name = ?2";
        Ok(db.execute(sql, params![customer, name])? > 0)
    }
}

/// All schedules, by customer and name. A source of more bytes than `most` is not read, and is empty.
pub(crate) fn all(most: u32) -> impl FnOnce(&Connection) -> rusqlite::Result<Vec<ScheduleRow>> {
    move |db| {
        let bounded = COLUMNS.replace("source", "iif(octet_length(source) > ?1, '', source)");
        let sql = format!("SELECT {bounded} FROM schedules ORDER BY customer, name");
        db.prepare_cached(&sql)?.query_map([most], row)?.collect()
    }
}

/// What the run of a due time builds; none where the schedule was replaced meanwhile.
pub(crate) fn source(db: &Connection, customer: &str, name: &str, at: Timestamp) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT source FROM schedules WHERE customer = ?1 AND name = ?2 AND pending = ?3";
    db.query_row(sql, params![customer, name, at.as_millisecond()], |row| row.get(0)).optional()
}

/// Notes that due times up to `handled` are over, how many of them were missed, and whether one of them is being started.
pub(crate) fn handle(
    customer: String,
    name: String,
    handled: Timestamp,
    starts: Option<Timestamp>,
    missed: u32,
) -> impl FnOnce(&Connection) -> rusqlite::Result<()> {
    move |db| {
        let sql = "UPDATE schedules SET handled = ?3, pending = ?4, last = coalesce(?4, last), missed = missed + ?5
            WHERE customer = ?1 AND name = ?2";
        let (handled, starts) = (handled.as_millisecond(), starts.map(Timestamp::as_millisecond));
        db.execute(sql, params![customer, name, handled, starts, missed]).map(drop)
    }
}

/// Notes that a run is being started that is not due, and says whether none is being started but, perhaps, this one.
pub(crate) fn begin(
    customer: String,
    name: String,
    at: Timestamp,
    now: Timestamp,
) -> impl FnOnce(&Connection) -> rusqlite::Result<bool> {
    move |db| {
        let sql = "UPDATE schedules SET pending = ?3, last = ?4
            WHERE customer = ?1 AND name = ?2 AND (pending IS NULL OR pending = ?3)";
        Ok(db.execute(sql, params![customer, name, at.as_millisecond(), now.as_millisecond()])? > 0)
    }
}

/// Begins to count missed runs.
pub(crate) fn count_anew(db: &Connection) -> rusqlite::Result<()> {
    db.execute("UPDATE schedules SET missed = 0", []).map(drop)
}

/// Notes how the run of a due time ended. Does nothing where the schedule was replaced meanwhile.
pub(crate) fn finish(
    customer: String,
    name: String,
    at: Timestamp,
    ran: Ran,
) -> impl FnOnce(&Connection) -> rusqlite::Result<()> {
    move |db| {
        let (build, pins, error) = match ran {
            Ran::Started(build, pins) => (Some(build), pins, None),
            Ran::Unchanged => (None, None, None),
            Ran::Failed(why) => (None, None, Some(why)),
        };
        let sql =
            "UPDATE schedules SET pending = NULL, last_build = coalesce(?4, last_build), pins = coalesce(?5, pins),
            last_error = ?6 WHERE customer = ?1 AND name = ?2 AND pending = ?3";
        db.execute(sql, params![customer, name, at.as_millisecond(), build, pins, error]).map(drop)
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<ScheduleRow> {
    let optional = |column| row.get::<_, Option<i64>>(column)?.map(|ms| time(column, ms)).transpose();
    Ok(ScheduleRow {
        customer: row.get(0)?,
        name: row.get(1)?,
        cron: row.get(2)?,
        time_zone: row.get(3)?,
        source: row.get(4)?,
        run_missed: row.get(5)?,
        only_if_changed: row.get(6)?,
        handled: time(7, row.get(7)?)?,
        pending: optional(8)?,
        last: optional(9)?,
        last_build: row.get(10)?,
        last_error: row.get(11)?,
        missed: row.get(12)?,
        pins: row.get(13)?,
    })
}

/// A time of a column.
pub(super) fn time(column: usize, milliseconds: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(milliseconds)
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, milliseconds))
}
