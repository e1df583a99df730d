//! The logs that have not ended, in memory: their entries and leases. This state is committed: the writing thread changes it after
//! each transaction.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, Row};

use super::{encoding, schema::RUNNING};
use crate::store::{Entry, Header, log_entries::LogEntries};

/// All logs that have not ended, by response id. Bounded by admission: every response that runs or waits was admitted.
#[derive(Default)]
pub struct LiveLogs(Mutex<HashMap<String, Arc<LiveLog>>>);

pub struct LiveLog {
    /// The number of the response's row.
    pub number: i64,
    pub header: Arc<Header>,
    pub entries: Arc<LogEntries>,
    /// The bytes of its entries in the journal.
    bytes: AtomicU64,
    held: Mutex<SqliteLease>,
}

/// The lease, and the requests to the writer.
#[derive(Debug, Clone, Default)]
pub struct SqliteLease {
    pub owner: String,
    pub fence: u64,
    pub released: bool,
    pub cancelled: bool,
    /// The responses that share the log and have requested to leave it.
    pub leaving: Vec<String>,
    /// The number of attempts to run the response, and the length of the log at the last one.
    pub tries: (u32, usize),
    /// Since when nobody follows the response, in Unix milliseconds.
    pub nobody_since: Option<i64>,
    /// The numbers of the journal's rows with its entries.
    pub rows: Vec<i64>,
}

impl SqliteLease {
    pub fn tries(&self, len: usize) -> u32 {
        if self.tries.1 == len { self.tries.0 } else { 0 }
    }
}

impl LiveLogs {
    /// Loads the logs that have not ended. Leaves out logs that a newer version wrote.
    pub fn load(db: &Connection) -> rusqlite::Result<Self> {
        let mut found = HashMap::new();
        let sql = "SELECT number, id, header, owner, fence, released, cancelled, leaving, tries, tried_at, nobody_since
            FROM responses WHERE state = ?1";
        let mut running = db.prepare(sql)?;
        let mut rows = running.query([RUNNING])?;
        while let Some(row) = rows.next()? {
            let (number, id) = (row.get::<_, i64>(0)?, row.get::<_, String>(1)?);
            match Header::from_json(row.get_ref(2)?.as_str()?) {
                Ok(header) => drop(found.insert(number, LiveLog::new(number, header, held(row)?))),
                Err(error) => {
                    tracing::warn!(response = id, %error, "cannot read this log; a newer version of caudal can continue it")
                }
            }
        }
        let mut journal = db.prepare("SELECT number, response, first, entries FROM journal ORDER BY number")?;
        let mut rows = journal.query([])?;
        while let Some(row) = rows.next()? {
            let Some(log) = found.get(&row.get::<_, i64>(1)?) else { continue };
            let first = row.get::<_, i64>(2)? as usize;
            let encoded = row.get_ref(3)?.as_blob()?;
            match encoding::decode(encoded) {
                Ok(entries) if first == log.entries.len() => log.push(&entries, Some((row.get(0)?, encoded.len()))),
                Ok(_) => tracing::error!(
                    response = log.header.id,
                    first,
                    "the journal of this log has a gap; its later entries are lost"
                ),
                Err(error) => {
                    tracing::warn!(response = log.header.id, %error, "cannot read this log; a newer version of caudal can continue it");
                    found.remove(&row.get::<_, i64>(1)?);
                }
            }
        }
        let logs = found.into_values().map(|log| (log.header.id.clone(), Arc::new(log)));
        Ok(Self(Mutex::new(logs.collect())))
    }

    fn logs(&self) -> MutexGuard<'_, HashMap<String, Arc<LiveLog>>> {
        self.0.lock()
    }

    pub fn get(&self, id: &str) -> Option<Arc<LiveLog>> {
        self.logs().get(id).cloned()
    }

    pub fn insert(&self, log: LiveLog) {
        self.logs().insert(log.header.id.clone(), Arc::new(log));
    }

    pub fn remove(&self, id: &str) -> Option<Arc<LiveLog>> {
        self.logs().remove(id)
    }

    /// Returns the bytes of a tenant's logs in the journal, or only those of `key` if it is not empty.
    pub fn bytes(&self, tenant: &str, key: &str) -> u64 {
        let is_of_key =
            |log: &LiveLog| key.is_empty() || log.header.key_quota.as_ref().is_some_and(|quota| quota.key == key);
        let logs = self.logs();
        let of = logs.values().filter(|log| log.header.tenant == tenant && is_of_key(log));
        of.map(|log| log.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Returns all logs in the order of their creation.
    pub fn all(&self) -> Vec<Arc<LiveLog>> {
        let mut all: Vec<_> = self.logs().values().cloned().collect();
        all.sort_unstable_by_key(|log| log.number);
        all
    }
}

fn held(row: &Row<'_>) -> rusqlite::Result<SqliteLease> {
    Ok(SqliteLease {
        owner: row.get(3)?,
        fence: row.get::<_, i64>(4)? as u64,
        released: row.get(5)?,
        cancelled: row.get(6)?,
        leaving: row.get_ref(7)?.as_str()?.split_whitespace().map(str::to_owned).collect(),
        tries: (row.get(8)?, row.get::<_, i64>(9)? as usize),
        nobody_since: row.get(10)?,
        rows: vec![],
    })
}

impl LiveLog {
    pub fn new(number: i64, header: Arc<Header>, held: SqliteLease) -> Self {
        let (entries, bytes) = Default::default();
        Self { number, header, entries, bytes, held: Mutex::new(held) }
    }

    pub fn held(&self) -> MutexGuard<'_, SqliteLease> {
        self.held.lock()
    }

    /// Adds committed entries and wakes the followers. `row`: the number of the journal's row with these entries, and its bytes.
    pub fn push(&self, new: &[Arc<Entry>], row: Option<(i64, usize)>) {
        if let Some((row, bytes)) = row {
            self.held().rows.push(row);
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        self.entries.push(new);
    }
}
