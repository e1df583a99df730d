//! SHA-256 of models' files, each computed once for each version of the file.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::model;

/// A file's path, length and time of change.
type FileVersion = (PathBuf, u64, Option<SystemTime>);

/// The sums that are known.
#[derive(Default)]
pub struct Sums(Mutex<HashMap<FileVersion, Arc<OnceCell<String>>>>);

impl Sums {
    /// The sum of the file at `path`, whose length and time of change are `state`; in hexadecimal.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn of(&self, path: &Path, state: (u64, Option<SystemTime>)) -> anyhow::Result<String> {
        let cell = {
            let mut sums = self.0.lock();
            // A file that was replaced is not asked for again.
            sums.retain(|(known, bytes, modified), _| known != path || (*bytes, *modified) == state);
            sums.entry((path.to_owned(), state.0, state.1)).or_default().clone()
        };
        let file = path.to_owned();
        let sum = cell.get_or_try_init(|| async { tokio::task::spawn_blocking(move || model::sha256(&file)).await? });
        sum.await.cloned()
    }
}
