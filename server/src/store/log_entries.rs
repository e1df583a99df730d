//! The entries of a log in the memory of this process, and the followers that wait for more.

use std::sync::Arc;

use futures::{StreamExt, stream, stream::BoxStream};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{
    entry::{Entry, EntryBatch},
    error::StoreError,
};

#[derive(Default)]
pub struct LogEntries {
    entries: RwLock<Vec<Arc<Entry>>>,
    progress: watch::Sender<LogProgress>,
}

/// The state that followers wait for.
#[derive(Clone, Copy, Default)]
struct LogProgress {
    len: usize,
    deleted: bool,
}

impl LogEntries {
    pub fn len(&self) -> usize {
        self.entries.read().len()
    }

    pub fn has_ended(&self) -> bool {
        has_ended(&self.entries.read())
    }

    /// Returns the entries from an index on.
    pub fn from(&self, first: usize) -> Vec<Arc<Entry>> {
        self.entries.read().get(first..).unwrap_or_default().to_vec()
    }

    /// Appends entries. Followers see them when this returns.
    pub fn push(&self, new: &[Arc<Entry>]) {
        let mut entries = self.entries.write();
        entries.extend_from_slice(new);
        let len = entries.len();
        drop(entries);
        self.progress.send_modify(|progress| progress.len = len);
    }

    /// Ends all followers with `NotFound`, because the log was deleted.
    pub fn end_followers(&self) {
        self.progress.send_modify(|progress| progress.deleted = true);
    }

    /// Streams the entries after `seen`, existing and later ones, up to the last.
    pub fn follow(self: &Arc<Self>, seen: &[Arc<Entry>]) -> BoxStream<'static, Result<EntryBatch, StoreError>> {
        let (log, progress) = (self.clone(), self.progress.subscribe());
        stream::unfold((log, progress, seen.len(), has_ended(seen)), |(log, mut progress, next, ended)| async move {
            if ended {
                return None;
            }
            // This cannot fail: `log` holds the sender.
            let now = *progress.wait_for(|progress| progress.len > next || progress.deleted).await.ok()?;
            if now.deleted {
                return Some((Err(StoreError::NotFound), (log, progress, next, true)));
            }
            let entries = log.from(next);
            let (ended, after) = (has_ended(&entries), next + entries.len());
            let batch = EntryBatch { first: next as u64, entries, more: false };
            Some((Ok(batch), (log, progress, after, ended)))
        })
        .boxed()
    }
}

fn has_ended(entries: &[Arc<Entry>]) -> bool {
    entries.last().is_some_and(|last| last.is_last())
}
