//! From the first form of the history, which held all events, to the second: a journal for each build, and an index over them.

use rusqlite::{Connection, TransactionBehavior};
use serde_json::{Map, Value};

use super::{
    HistoryError, Summary, TABLES, VERSION, failed,
    journal::{COMPRESSED, JOURNAL},
};
use crate::{
    model::{BuildId, Hint, Kind, Paths},
    system::{
        files::{make_private_dir, write_atomically},
        lock::{self, Attempt, Mode},
    },
};

/// Writes the journals, makes the index, and drops the old tables, all in one transaction: what is interrupted is begun again.
///
/// # Errors
///
/// When a build of the earlier smidr runs, or something cannot be written.
pub(super) fn from_1(db: &mut Connection, paths: &Paths) -> Result<(), HistoryError> {
    let change = failed("migrate");
    let transaction = db.transaction_with_behavior(TransactionBehavior::Exclusive).map_err(&change)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(&change)?;
    if version != 1 {
        // Another smidr was faster.
        return Ok(());
    }
    let rows = |sql: &str, id: Option<&str>| -> rusqlite::Result<Vec<String>> {
        let mut statement = transaction.prepare(sql)?;
        statement.query_map(rusqlite::params_from_iter(id), |row| row.get(0))?.collect()
    };
    let unfinished =
        rows("SELECT id FROM builds WHERE state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')", None).map_err(&change)?;
    for id in unfinished.iter().filter_map(|id| id.parse::<BuildId>().ok()) {
        let path = lock::path_in(&paths.locks(), &format!("build-{id}"));
        if matches!(lock::try_lock(&path, Mode::Exclusive, "smidr")?, Attempt::Busy(_)) {
            return Err(HistoryError::Earlier(id));
        }
    }
    let ids = rows("SELECT id FROM builds ORDER BY started, rowid", None).map_err(&change)?;
    let mut cleaned = Vec::new();
    for id in &ids {
        let Ok(build) = id.parse::<BuildId>() else { continue };
        let records = rows("SELECT record FROM events WHERE build = ?1 ORDER BY seq", Some(id)).map_err(&change)?;
        let folder = paths.build(&build);
        make_private_dir(&folder)?;
        // What was marked when its process was gone has an outcome, and no event that says so.
        let ended = rows("SELECT json_object('at', ended, 'outcome', json(outcome)) FROM builds WHERE id = ?1 AND outcome IS NOT NULL", Some(id)).map_err(&change)?;
        let text = journal(id, &records, ended.first().map(String::as_str));
        if !folder.join(COMPRESSED).exists() {
            write_atomically(&folder.join(JOURNAL), text.as_bytes(), 0o600)?;
        }
        if ended.iter().any(|ended| ended.contains(r#""cleaned":true"#)) {
            cleaned.push(build);
        }
    }
    let script = format!(
        "DROP TABLE events; DROP TABLE artifacts; DROP TABLE builds; {TABLES} PRAGMA user_version = {VERSION};"
    );
    transaction.execute_batch(&script).map_err(&change)?;
    for id in &ids {
        let Ok(build) = id.parse::<BuildId>() else { continue };
        if let Some((mut summary, _)) = Summary::read(&paths.build(&build))? {
            if let Some(outcome) = &mut summary.build.outcome {
                outcome.cleaned = cleaned.contains(&build);
            }
            super::put_rows(&transaction, &summary).map_err(&change)?;
        }
    }
    transaction.commit().map_err(&change)
}

type Fields = Map<String, Value>;

/// The journal of a build of the first smidr: records without passing states, numbered anew.
fn journal(id: &str, records: &[String], ended: Option<&str>) -> String {
    let fields = |text: &str| serde_json::from_str::<Fields>(text).ok();
    let is = |record: &Fields, kind: &str| record.get("event").is_some_and(|event| event == kind);
    let mut all: Vec<Fields> = records.iter().filter_map(|record| fields(record)).collect();
    all.retain(|record| !is(record, "progress") && !is(record, "task_progress"));
    if !all.iter().any(|record| is(record, "finished"))
        && let Some(mut last) = ended.and_then(fields)
    {
        last.insert("build".into(), id.into());
        last.insert("event".into(), "finished".into());
        all.push(last);
    }
    let mut text = String::new();
    for (seq, mut record) in (1_u64..).zip(all) {
        record.insert("seq".into(), seq.into());
        if let Some(Value::Object(outcome)) = record.get_mut("outcome") {
            renew(outcome);
        }
        text += &format!("{}\n", Value::Object(record));
    }
    text
}

/// The first smidr knew one hint, and whether the machine was to blame.
fn renew(outcome: &mut Fields) {
    let blamed = outcome.remove("host_at_fault").is_some_and(|blamed| blamed == true);
    let hint = outcome.remove("hint").and_then(|hint| Some(Hint::new(hint.as_str()?)));
    let kind = match outcome.get("state").and_then(Value::as_str) {
        Some("COMPLETED") => None,
        Some("CANCELLED") => Some(Kind::Cancelled),
        _ if blamed => Some(Kind::Host),
        _ => Some(Kind::Build),
    };
    outcome.insert("kind".into(), serde_json::to_value(kind).unwrap_or_default());
    outcome.insert("hints".into(), serde_json::to_value(Vec::from_iter(hint)).unwrap_or_default());
}
