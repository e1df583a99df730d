//! Connections that read, on threads that may block. Each read sees the last committed state and waits for no write.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{file, writer::trouble};
use crate::store::StoreError;

/// The maximum of concurrent reads; further reads wait.
const READERS: usize = 4;

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Readers(Arc<Pool>);

struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub fn new(path: PathBuf) -> Self {
        Self(Arc::new(Pool { path, idle: Mutex::default(), permits: Arc::new(Semaphore::new(READERS)) }))
    }

    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("a read ended early: {error}"));
        let permit = self.0.permits.clone().acquire_owned().await.map_err(|error| ended(&error))?;
        let pool = self.0.clone();
        let read = move || {
            let _permit = permit;
            let db = pool.connection()?;
            let found = work(&db).map_err(|error| trouble(&error));
            pool.idle.lock().push(db);
            found
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| ended(&error))?
    }
}

impl Pool {
    fn connection(&self) -> Result<Connection, StoreError> {
        let idle = self.idle.lock().pop();
        match idle {
            Some(db) => Ok(db),
            None => file::open_to_read(&self.path).map_err(|error| StoreError::Unavailable(error.to_string())),
        }
    }
}
