//! What all parts of the store share: the file, the thread that writes it, and what has not ended.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
};

use rusqlite::Connection;

use super::{
    conversations::watchers::Watchers,
    file::{self, Lock},
    live::LiveLogs,
    open_error::OpenError,
    readers::Readers,
    room::Room,
    upkeep::{self, Upkeep},
    writer::{About, Writer},
};
use crate::store::{Retention, StoreError, quota::StorageQuotas};

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
pub struct SqliteStore(pub(super) Arc<SqliteInner>);

pub struct SqliteInner {
    pub config: SqliteConfig,
    pub writer: Writer,
    pub readers: Readers,
    pub live: Arc<LiveLogs>,
    pub watchers: Arc<Watchers>,
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
        let (path, retention) = (config.path.clone(), config.retention.clone());
        upkeep::start(Upkeep { path, retention, room, writer: writer.clone() }, over)?;
        let inner = SqliteInner { config, writer, readers, live, watchers: Arc::default(), _upkeep: keeper };
        Ok(Self(Arc::new(inner)))
    }
}

impl SqliteInner {
    /// A change that no log in memory takes part in.
    pub async fn change<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.write(About::default(), work, |_| {}).await
    }

    /// A change that ends something or makes room.
    pub async fn relieve<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.relieve(work).await
    }
}
