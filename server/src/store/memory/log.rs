//! The log of a response in memory: what it holds, who may write it, and who waits for more.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{StreamExt, stream, stream::BoxStream};
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::watch;

use crate::store::{Entry, EntryBatch, Header, StoreError, quota::RESPONSE_OVERHEAD};

/// The bookkeeping bytes of an entry beside its text and tokens, roughly.
const ENTRY_OVERHEAD: usize = 120;
const LOGPROB_OVERHEAD: usize = 80;

/// A response in memory.
pub struct MemoryLog {
    pub header: Arc<Header>,
    /// What it counts for its tenant's quota.
    bytes: AtomicU64,
    entries: RwLock<Vec<Arc<Entry>>>,
    lease: Mutex<MemoryLease>,
    state: watch::Sender<MemoryState>,
}

/// Who may append, and what is asked of the writer.
#[derive(Default)]
pub struct MemoryLease {
    pub fence: u64,
    pub cancelled: bool,
    pub left: Vec<String>,
    /// Attempts to run it, and the entries that the log had then.
    pub tries: (u32, usize),
}

impl MemoryLease {
    pub fn tries(&self, len: usize) -> u32 {
        if self.tries.1 == len { self.tries.0 } else { 0 }
    }
}

/// What followers wait on.
#[derive(Clone, Copy, Default)]
struct MemoryState {
    len: usize,
    deleted: bool,
}

impl MemoryLog {
    pub fn new(header: Header, lease: MemoryLease) -> Self {
        Self {
            bytes: AtomicU64::new(header_bytes(&header)),
            header: Arc::new(header),
            entries: RwLock::default(),
            lease: Mutex::new(lease),
            state: watch::Sender::default(),
        }
    }

    pub fn lease(&self) -> MutexGuard<'_, MemoryLease> {
        self.lease.lock()
    }

    /// Appends entries; whether the log has ended with them, and the bytes by which it grew.
    pub fn append(&self, first: u64, new: &[Arc<Entry>]) -> Result<(bool, u64), StoreError> {
        let mut entries = self.entries.write();
        let (len, ended) = (entries.len() as u64, |log: &[Arc<Entry>]| log.last().is_some_and(|last| last.is_last()));
        if first + new.len() as u64 <= len {
            return Ok((false, 0));
        }
        if first > len {
            return Err(StoreError::Behind(len));
        }
        if first < len || ended(&entries) {
            return Err(StoreError::Fenced);
        }
        entries.extend_from_slice(new);
        self.state.send_modify(|state| state.len = entries.len());
        let bytes = new.iter().map(|entry| entry_bytes(entry)).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok((ended(&entries), bytes))
    }

    pub fn from(&self, first: usize) -> Vec<Arc<Entry>> {
        let entries = self.entries.read();
        entries.get(first..).unwrap_or_default().to_vec()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn end_followers(&self) {
        self.state.send_modify(|state| state.deleted = true);
    }

    /// The entries after those that were seen, as they come.
    pub fn follow(self: Arc<Self>, seen: &[Arc<Entry>]) -> BoxStream<'static, Result<EntryBatch, StoreError>> {
        let state = self.state.subscribe();
        let ended = seen.last().is_some_and(|last| last.is_last());
        stream::unfold((self, state, seen.len(), ended), |(log, mut state, next, ended)| async move {
            if ended {
                return None;
            }
            // The sender is in `log`, so waiting cannot fail.
            let now = *state.wait_for(|s| s.len > next || s.deleted).await.ok()?;
            if now.deleted {
                return Some((Err(StoreError::NotFound), (log, state, next, true)));
            }
            let entries = log.from(next);
            let ended = entries.last().is_some_and(|last| last.is_last());
            let batch = EntryBatch { first: next as u64, entries, more: false };
            let next = next + batch.entries.len();
            Some((Ok(batch), (log, state, next, ended)))
        })
        .boxed()
    }
}

fn header_bytes(header: &Header) -> u64 {
    let create = serde_json::to_string(&header.create).map_or(0, |json| json.len());
    RESPONSE_OVERHEAD + (create + 4 * header.prompt.len()) as u64
}

fn entry_bytes(entry: &Entry) -> u64 {
    let bytes = match entry {
        Entry::Delta { tokens, text, logprobs, .. } => {
            let top: usize = logprobs.iter().map(|l| LOGPROB_OVERHEAD * (1 + l.top.len())).sum();
            ENTRY_OVERHEAD + 4 * tokens.len() + text.len() + top
        }
        _ => ENTRY_OVERHEAD,
    };
    bytes as u64
}
