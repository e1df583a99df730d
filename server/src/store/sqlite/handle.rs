//! What all parts of the store share: the file, its writing thread, and the logs that have not ended.

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

/// The configuration of the store.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    /// The path of the file. The names of other files beside it begin with its name.
    pub path: PathBuf,
    /// The bound on the bytes of the file; 0: bounded by the disk only.
    pub max_bytes: u64,
    pub retention: Retention,
    pub quotas: StorageQuotas,
    /// The unique name of this process.
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
    /// Dropping this ends the upkeep.
    _upkeep: mpsc::Sender<()>,
}

impl SqliteStore {
    /// Locks the file for this process and loads the logs that have not ended.
    ///
    /// # Errors
    /// The file cannot be used. The error says why and what to do.
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
    /// Runs a change that involves no log in memory.
    pub async fn change<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.write(About::default(), work, |_| {}).await
    }

    /// Runs a change that ends something or makes room, and may use the reserve; see [`Room`].
    pub async fn relieve<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.relieve(work).await
    }
}
