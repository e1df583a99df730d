//! The store of one machine: everything in one SQLite file, whose tables [`schema`] describes. What it has answered is there
//! after the process was killed, and what ran then is continued by the next process: see `fleet`.
//!
//! - One process uses the file (`file`). One thread writes (`writer`): all that has arrived goes in one transaction, and is
//!   answered, and shown to followers, when that is committed.
//! - A log that has not ended is in memory (`live`) as well as in the file. Its appends are rows of a journal, in order of
//!   arrival; with its last entry it becomes one blob, and its rows are deleted.
//! - Everything else is read from the file by connections of their own (`readers`), which wait for no write.
//! - `upkeep` deletes what is no longer to be stored and gives room back; `room` is what happens when there is none.

mod backup;
mod cache;
mod check;
mod conversations;
mod encoding;
pub mod file;
mod fleet;
mod inventory;
mod live;
mod prompts;
mod quota;
mod rates;
mod readers;
mod responses;
mod room;
pub mod schema;
mod upkeep;
mod whole_log;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::Connection;

use super::{Retention, StoreError, quota::StorageQuotas};
pub use backup::{back_up, free_bytes};
pub use check::check;
use conversations::Watchers;
use file::{Lock, OpenError};
use live::LiveLogs;
use readers::Readers;
use room::Room;
use writer::{About, Writer};

/// Where and how to store.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    /// The file. Others beside it begin with its name.
    pub path: PathBuf,
    /// Bound on the file's bytes; 0: what the disk has.
    pub max_bytes: u64,
    pub retention: Retention,
    pub quotas: StorageQuotas,
    /// This process' name, which no other process ever had.
    pub process: String,
}

/// A handle; clones share everything.
#[derive(Clone)]
pub struct SqliteStore(Arc<SqliteInner>);

struct SqliteInner {
    config: SqliteConfig,
    writer: Writer,
    readers: Readers,
    live: Arc<LiveLogs>,
    watchers: Arc<Watchers>,
    /// Ends the upkeep when it is dropped.
    _upkeep: mpsc::Sender<()>,
}

impl SqliteStore {
    /// Takes the file for this process and loads what had not ended.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn open(config: SqliteConfig) -> Result<Self, OpenError> {
        let lock = Lock::take(&config.path)?;
        let db = file::open(&config.path)?;
        let room = Room::new(&config.path, config.max_bytes);
        room.begin(&db)?;
        let live = Arc::new(LiveLogs::load(&db)?);
        let writer = Writer::start(db, room.clone(), lock)?;
        let readers = Readers::new(config.path.clone());
        let (keeper, over) = mpsc::channel();
        let (upkept, retention) = (config.path.clone(), config.retention.clone());
        let inner = SqliteInner { config, writer, readers, live, watchers: Arc::default(), _upkeep: keeper };
        let inner = Arc::new(inner);
        upkeep::start(upkeep::Upkeep { path: upkept, retention, room, store: Arc::downgrade(&inner) }, over)?;
        Ok(Self(inner))
    }
}

impl SqliteInner {
    /// A change that no log in memory takes part in.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.write(About::default(), work, |_| {}).await
    }

    /// A change that ends something or makes room.
    async fn relieve<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.write(About::default().making_room(), work, |_| {}).await
    }
}

/// Why a change was not made: an error of the contract, which leaves the transaction as it was, or one of SQLite.
enum ChangeError<E> {
    Refused(E),
    Sql(rusqlite::Error),
}

impl<E> From<rusqlite::Error> for ChangeError<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// The error of SQLite, which ends the transaction, apart from one of the contract.
fn split<T, E>(outcome: Result<T, ChangeError<E>>) -> rusqlite::Result<Result<T, E>> {
    match outcome {
        Ok(found) => Ok(Ok(found)),
        Err(ChangeError::Refused(error)) => Ok(Err(error)),
        Err(ChangeError::Sql(error)) => Err(error),
    }
}

/// Unix milliseconds.
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}

fn ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}
