//! Webhooks in the ledger, and what was sent to them. A delivery is written down before it is sent, with its body; its history is bounded.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::schedules::time;

/// What the ledger keeps of webhooks.
pub(crate) const TABLES: &str = "
    CREATE TABLE webhooks (
        customer TEXT NOT NULL,
        name TEXT NOT NULL,
        url TEXT NOT NULL,
        events TEXT NOT NULL,
        secrets TEXT NOT NULL,
        ended INTEGER,
        PRIMARY KEY (customer, name)
    ) STRICT;
    CREATE TABLE deliveries (
        id TEXT PRIMARY KEY,
        customer TEXT NOT NULL,
        webhook TEXT NOT NULL,
        event TEXT NOT NULL,
        body TEXT NOT NULL,
        created INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        status INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        delivered INTEGER NOT NULL DEFAULT 0,
        next_attempt INTEGER,
        give_up INTEGER NOT NULL,
        FOREIGN KEY (customer, webhook) REFERENCES webhooks (customer, name) ON DELETE CASCADE
    ) STRICT;
    CREATE INDEX deliveries_of ON deliveries (customer, webhook, created);
    CREATE INDEX deliveries_waiting ON deliveries (next_attempt) WHERE next_attempt IS NOT NULL;
";

/// So many deliveries of one webhook are kept once they are over.
const KEPT: u32 = 200;
/// So many may wait for one webhook; further ones are not sent.
const MOST_WAITING: u32 = 1000;
/// How long a delivery is tried.
const TRIED: SignedDuration = SignedDuration::from_hours(24);

const DELIVERY: &str =
    "id, customer, webhook, event, body, created, attempts, status, error, delivered, next_attempt, give_up";

/// An address that is told what becomes of builds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct WebhookRow {
    /// Whose builds it is told of; empty: all.
    pub customer: String,
    /// Its name, unique for each customer.
    pub name: String,
    /// The address, with a login if it was given one.
    pub url: String,
    /// The events, with commas between them; empty: all.
    pub events: String,
    /// What signs, as they are written, with spaces between them.
    pub secrets: String,
    /// When it said that it wants nothing more.
    pub ended: Option<Timestamp>,
}

/// Something that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeliveryRow {
    /// The same in each attempt.
    pub id: String,
    /// Of its webhook.
    pub customer: String,
    /// Of its webhook.
    pub webhook: String,
    /// The type of the event.
    pub event: String,
    /// What is sent.
    pub body: String,
    /// When it was written down.
    pub created: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// Of the last answer; 0: there was none.
    pub status: u16,
    /// What went wrong last.
    pub error: String,
    /// Whether it was taken.
    pub delivered: bool,
    /// When it is tried next; none: it is over.
    pub next_attempt: Option<Timestamp>,
    /// After that it is not tried again.
    pub give_up: Timestamp,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It was taken.
    Delivered(u16),
    /// It is tried again, at that time; or not any more.
    Failed(u16, String, Option<Timestamp>),
    /// Its webhook wants nothing more.
    Gone(u16),
}

/// What writes an event down, and says for how many webhooks.
pub(crate) type Queued = Box<dyn FnOnce(&Connection) -> rusqlite::Result<usize> + Send>;

/// Adds a webhook, or replaces that of its customer and name. What waits for it is sent to the new address. Says whether there was room for it.
pub(crate) fn put(row: WebhookRow, most: u32) -> impl FnOnce(&Connection) -> rusqlite::Result<bool> {
    move |db| {
        let sql = "SELECT count(*) FROM webhooks WHERE customer = ?1 AND name <> ?2";
        if db.query_row(sql, params![row.customer, row.name], |row| row.get::<_, u32>(0))? >= most {
            return Ok(false);
        }
        let sql = "INSERT INTO webhooks (customer, name, url, events, secrets, ended) VALUES (?1, ?2, ?3, ?4, ?5, NULL)
            ON CONFLICT DO UPDATE SET url = ?3, events = ?4, secrets = ?5, ended = NULL";
        db.execute(sql, params![row.customer, row.name, row.url, row.events, row.secrets]).map(|_| true)
    }
}

/// Removes a webhook with all that was sent to it, and says whether there was one.
pub(crate) fn delete(customer: String, name: String) -> impl FnOnce(&Connection) -> rusqlite::Result<bool> {
    move |db| {
        let sql = "DELETE FROM webhooks WHERE customer = ?1 AND name = ?2";
        Ok(db.execute(sql, params![customer, name])? > 0)
    }
}

/// All webhooks, by customer and name.
pub(crate) fn all(db: &Connection) -> rusqlite::Result<Vec<WebhookRow>> {
    let sql = "SELECT customer, name, url, events, secrets, ended FROM webhooks ORDER BY customer, name";
    db.prepare_cached(sql)?.query_map([], webhook)?.collect()
}

/// The webhook of a delivery.
pub(crate) fn get(db: &Connection, customer: &str, name: &str) -> rusqlite::Result<Option<WebhookRow>> {
    let sql = "SELECT customer, name, url, events, secrets, ended FROM webhooks WHERE customer = ?1 AND name = ?2";
    db.prepare_cached(sql)?.query_row(params![customer, name], webhook).optional()
}

/// Writes down an event for all webhooks that are to be told of it, and says for how many. For the commit in which it happens.
pub(crate) fn queue(
    event: &'static str,
    customer: String,
    body: String,
    now: Timestamp,
) -> impl FnOnce(&Connection) -> rusqlite::Result<usize> {
    move |db| {
        let sql = "INSERT INTO deliveries (id, customer, webhook, event, body, created, next_attempt, give_up, error)
            SELECT 'msg_' || lower(hex(randomblob(16))), customer, name, ?1, ?3, ?4, iif(waiting < ?6, ?4, NULL), ?5,
                iif(waiting < ?6, '', 'not sent: too many deliveries wait for this webhook')
            FROM (SELECT customer, name,
                    (SELECT count(*) FROM deliveries d WHERE d.customer = w.customer AND d.webhook = w.name AND d.next_attempt IS NOT NULL) AS waiting
                FROM webhooks w
                WHERE (customer = ?2 OR customer = '') AND ended IS NULL
                    AND (events = '' OR instr(',' || events || ',', ',' || ?1 || ',') > 0))";
        let (at, give_up) = (now.as_millisecond(), (now + TRIED).as_millisecond());
        db.prepare_cached(sql)?.execute(params![event, customer, body, at, give_up, MOST_WAITING])
    }
}

/// Of each webhook, what has waited longest for an attempt that is due. A time that lies too far ahead is one of a clock that was wrong.
pub(crate) fn due(db: &Connection, now: Timestamp) -> rusqlite::Result<Vec<DeliveryRow>> {
    // With min() the other columns are those of its row (SQLite, "Bare columns in an aggregate query").
    let sql = format!(
        "SELECT {DELIVERY}, min(next_attempt) FROM deliveries
        WHERE next_attempt IS NOT NULL AND (next_attempt <= ?1 OR next_attempt > ?2) GROUP BY customer, webhook ORDER BY 13"
    );
    let far = (now + TRIED).as_millisecond();
    db.prepare_cached(&sql)?.query_map(params![now.as_millisecond(), far], delivery)?.collect()
}

/// When the next attempt after this time is.
pub(crate) fn next(db: &Connection, now: Timestamp) -> rusqlite::Result<Option<Timestamp>> {
    let sql = "SELECT min(next_attempt) FROM deliveries WHERE next_attempt > ?1";
    let found: Option<i64> = db.prepare_cached(sql)?.query_row([now.as_millisecond()], |row| row.get(0))?;
    found.map(|ms| time(0, ms)).transpose()
}

/// Notes how an attempt ended, and forgets what is too old to be kept.
pub(crate) fn finish(id: String, sent: Sent) -> impl FnOnce(&Connection) -> rusqlite::Result<()> {
    move |db| {
        let of = "(SELECT customer, webhook FROM deliveries WHERE id = ?1)";
        let set = |status: u16, error: &str, delivered: bool, next: Option<Timestamp>| {
            let sql = "UPDATE deliveries SET attempts = attempts + 1, status = ?2, error = ?3, delivered = ?4, next_attempt = ?5
                WHERE id = ?1";
            let next = next.map(Timestamp::as_millisecond);
            db.prepare_cached(sql)?.execute(params![id, status, error, delivered, next])
        };
        match sent {
            Sent::Delivered(status) => set(status, "", true, None)?,
            Sent::Failed(status, why, next) => set(status, &why, false, next)?,
            Sent::Gone(status) => {
                let why = "the webhook is gone (410), and nothing more is sent to it";
                set(status, why, false, None)?;
                let at = Timestamp::now().as_millisecond();
                db.execute(&format!("UPDATE webhooks SET ended = ?2 WHERE (customer, name) = {of}"), params![id, at])?;
                let sql = format!(
                    "UPDATE deliveries SET next_attempt = NULL, error = ?2
                    WHERE next_attempt IS NOT NULL AND (customer, webhook) = {of}"
                );
                db.execute(&sql, params![id, why])?
            }
        };
        let sql = format!(
            "DELETE FROM deliveries WHERE next_attempt IS NULL AND (customer, webhook) = {of} AND rowid NOT IN (
                SELECT rowid FROM deliveries WHERE next_attempt IS NULL AND (customer, webhook) = {of}
                ORDER BY created DESC, rowid DESC LIMIT ?2)"
        );
        db.prepare_cached(&sql)?.execute(params![id, KEPT]).map(drop)
    }
}

/// What was sent to a customer's webhooks, or to one of them, the newest first.
pub(crate) fn deliveries(
    db: &Connection,
    customer: &str,
    webhook: &str,
    limit: u32,
) -> rusqlite::Result<Vec<DeliveryRow>> {
    let sql = format!(
        "SELECT {DELIVERY} FROM deliveries WHERE customer = ?1 AND (?2 = '' OR webhook = ?2)
        ORDER BY created DESC, rowid DESC LIMIT ?3"
    );
    db.prepare_cached(&sql)?.query_map(params![customer, webhook, limit], delivery)?.collect()
}

/// One delivery.
pub(crate) fn one(db: &Connection, id: &str) -> rusqlite::Result<Option<DeliveryRow>> {
    let sql = format!("SELECT {DELIVERY} FROM deliveries WHERE id = ?1");
    db.prepare_cached(&sql)?.query_row([id], delivery).optional()
}

/// Has a delivery sent again, with its id, for another day. Says whether there is one.
pub(crate) fn again(id: String, now: Timestamp) -> impl FnOnce(&Connection) -> rusqlite::Result<bool> {
    move |db| {
        let sql = "UPDATE deliveries SET next_attempt = ?2, give_up = ?3, delivered = 0 WHERE id = ?1";
        Ok(db.execute(sql, params![id, now.as_millisecond(), (now + TRIED).as_millisecond()])? > 0)
    }
}

fn webhook(row: &Row<'_>) -> rusqlite::Result<WebhookRow> {
    Ok(WebhookRow {
        customer: row.get(0)?,
        name: row.get(1)?,
        url: row.get(2)?,
        events: row.get(3)?,
        secrets: row.get(4)?,
        ended: row.get::<_, Option<i64>>(5)?.map(|ms| time(5, ms)).transpose()?,
    })
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    Ok(DeliveryRow {
        id: row.get(0)?,
        customer: row.get(1)?,
        webhook: row.get(2)?,
        event: row.get(3)?,
        body: row.get(4)?,
        created: time(5, row.get(5)?)?,
        attempts: row.get(6)?,
        status: row.get(7)?,
        error: row.get(8)?,
        delivered: row.get(9)?,
        next_attempt: row.get::<_, Option<i64>>(10)?.map(|ms| time(10, ms)).transpose()?,
        give_up: time(11, row.get(11)?)?,
    })
}
