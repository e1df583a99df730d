//! SHA-256 of models' files, computed once for each version of a file.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::model;

/// A file's path, length in bytes and modification time.
type FileVersion = (PathBuf, u64, Option<SystemTime>);

/// The computed sums.
#[derive(Default)]
pub struct Sums(Mutex<HashMap<FileVersion, Arc<OnceCell<String>>>>);

impl Sums {
    /// Returns the sum of the file at `path` in hexadecimal. `state`: the file's length in bytes and modification time.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn of(&self, path: &Path, state: (u64, Option<SystemTime>)) -> anyhow::Result<String> {
        let cell = {
            let mut sums = self.0.lock();
            // The sums of older versions of the file are no longer needed.
            sums.retain(|(known, bytes, modified), _| known != path || (*bytes, *modified) == state);
            sums.entry((path.to_owned(), state.0, state.1)).or_default().clone()
        };
        let file = path.to_owned();
        let sum = cell.get_or_try_init(|| async { tokio::task::spawn_blocking(move || model::sha256(&file)).await? });
        sum.await.cloned()
    }
}
