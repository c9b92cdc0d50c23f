//! Lists of builds, part by part.

use std::collections::BTreeMap;

use super::{BuildRecord, History, HistoryError, failed, insert_build, parse};
use crate::model::State;

/// Bytes of records in one part: clients of gRPC take 4 MiB where they are not told otherwise. Its first record is always in it.
const LONGEST: usize = 3 << 20;

/// Which builds are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Of this customer.
    pub customer: Option<String>,
    /// Of projects with this name.
    pub name: Option<String>,
    /// In one of these states; none: in any.
    pub states: Vec<State>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
}

/// A place in the list of builds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Cursor {
    started: String,
    row: i64,
}

/// A part of the list of builds.
#[derive(Debug)]
pub(crate) struct Page {
    /// The builds.
    pub builds: Vec<BuildRecord>,
    /// Where the next part begins, if there is one.
    pub next: Option<Cursor>,
}

/// A value of SQLite's JSON functions. Texts and numbers can always be written down.
fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

impl History {
    /// Builds that are wanted, the newest first, after a place in that order.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub(crate) fn page(&self, wanted: &Filter, after: Option<&Cursor>, limit: u32) -> Result<Page, HistoryError> {
        let (mut clauses, mut values): (Vec<String>, Vec<String>) = Default::default();
        let mut add = |clause: &str, value: String| {
            values.push(value);
            clauses.push(clause.replace('#', &format!("?{}", values.len())));
        };
        if let Some(customer) = &wanted.customer {
            add("json_extract(record, '$.customer') = #", customer.clone());
        }
        if let Some(name) = &wanted.name {
            add("name = #", name.clone());
        }
        if !wanted.states.is_empty() {
            let states: Vec<String> = wanted.states.iter().map(State::to_string).collect();
            add("state IN (SELECT value FROM json_each(#))", text(&states));
        }
        for (label, value) in &wanted.labels {
            // A pair, compared as a whole: a label may hold any character.
            let pair = text(&[label, value]);
            add("EXISTS (SELECT 1 FROM json_each(record, '$.labels') WHERE json_array(key, value) = json(#))", pair);
        }
        if let Some(Cursor { started, row }) = after {
            add("started <= #", started.clone());
            add("(started, rowid) < (SELECT json_extract(#, '$[0]'), json_extract(#, '$[1]'))", text(&(started, row)));
        }
        let clauses = if clauses.is_empty() { "1".into() } else { clauses.join(" AND ") };
        let sql = format!(
            "SELECT record, started, rowid FROM builds WHERE {clauses} ORDER BY started DESC, rowid DESC LIMIT {}",
            u64::from(limit) + 1
        );
        let read = || {
            let mut statement = self.db.prepare_cached(&sql)?;
            let mut found = statement.query(rusqlite::params_from_iter(&values))?;
            let (mut rows, mut bytes) = (Vec::<(String, Cursor)>::new(), 0);
            while let Some(row) = found.next()? {
                let record: String = row.get(0)?;
                bytes += record.len();
                if rows.len() == limit as usize || (bytes > LONGEST && !rows.is_empty()) {
                    return Ok((rows, true));
                }
                rows.push((record, Cursor { started: row.get(1)?, row: row.get(2)? }));
            }
            Ok((rows, false))
        };
        let (rows, more) = read().map_err(failed("read"))?;
        let next = rows.last().filter(|_| more).map(|(_, cursor)| cursor.clone());
        let builds = rows.iter().map(|(text, _)| parse(text, "a build")).collect::<Result<_, _>>()?;
        Ok(Page { builds, next })
    }

    /// Makes lists of one customer's builds fast.
    ///
    /// # Errors
    ///
    /// When the index cannot be written.
    pub(crate) fn by_customer(&self) -> Result<(), HistoryError> {
        let index = "CREATE INDEX IF NOT EXISTS builds_customer ON builds(json_extract(record, '$.customer'), started)";
        self.db.execute_batch(index).map_err(failed("write"))
    }

    /// Puts builds into the index that have no journal yet. One that is there stays as it is: its worker has begun meanwhile.
    ///
    /// # Errors
    ///
    /// When the index cannot be written.
    pub(crate) fn announce(&self, builds: &[BuildRecord]) -> Result<(), HistoryError> {
        let announce = || {
            let transaction = self.db.unchecked_transaction()?;
            builds.iter().try_for_each(|build| insert_build(&transaction, "INSERT OR IGNORE", build))?;
            transaction.commit()
        };
        announce().map_err(failed("write"))
    }

    /// Notes that a build waits no longer that may have no record yet: whether it has a worker says what became of it. What its worker has
    /// written stays.
    ///
    /// # Errors
    ///
    /// When the index cannot be written.
    pub(crate) fn begun(&self, build: &BuildRecord) -> Result<(), HistoryError> {
        let begun = || {
            let transaction = self.db.unchecked_transaction()?;
            let waits = "DELETE FROM builds WHERE id = ?1 AND json_extract(record, '$.waits')";
            transaction.execute(waits, [build.id.as_str()])?;
            insert_build(&transaction, "INSERT OR IGNORE", &BuildRecord { waits: false, ..build.clone() })?;
            transaction.commit()
        };
        begun().map_err(failed("write"))
    }
}
