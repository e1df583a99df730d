//! The log of a response in memory: its entries and its lease.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::{Mutex, MutexGuard};

use crate::store::{Entry, Header, StoreError, log_entries::LogEntries, quota::RESPONSE_OVERHEAD};

/// Estimated bookkeeping bytes of an entry besides its text and tokens.
const ENTRY_OVERHEAD: usize = 120;
const LOGPROB_OVERHEAD: usize = 80;

/// A response in memory.
pub struct MemoryLog {
    pub header: Arc<Header>,
    /// The bytes that the response counts for its tenant's quota.
    bytes: AtomicU64,
    pub entries: Arc<LogEntries>,
    lease: Mutex<MemoryLease>,
}

/// The lease, and the requests to the writer.
#[derive(Default)]
pub struct MemoryLease {
    pub fence: u64,
    pub cancelled: bool,
    pub left: Vec<String>,
    /// The number of attempts to run the response, and the length of the log at the last one.
    pub tries: (u32, usize),
}

impl MemoryLease {
    pub fn tries(&self, len: usize) -> u32 {
        if self.tries.1 == len { self.tries.0 } else { 0 }
    }
}

impl MemoryLog {
    pub fn new(header: Header, lease: MemoryLease) -> Self {
        Self {
            bytes: AtomicU64::new(header_bytes(&header)),
            header: Arc::new(header),
            entries: Arc::default(),
            lease: Mutex::new(lease),
        }
    }

    pub fn lease(&self) -> MutexGuard<'_, MemoryLease> {
        self.lease.lock()
    }

    /// Appends entries. The caller proves with the locked lease that it has checked the fence. Returns whether the log has ended
    /// with these entries, and the bytes by which it grew.
    pub fn append(&self, _: &MemoryLease, first: u64, new: &[Arc<Entry>]) -> Result<(bool, u64), StoreError> {
        let len = self.entries.len() as u64;
        if first + new.len() as u64 <= len {
            return Ok((false, 0));
        }
        if first > len {
            return Err(StoreError::Behind(len));
        }
        if first < len || self.entries.has_ended() {
            return Err(StoreError::Fenced);
        }
        self.entries.push(new);
        let bytes = new.iter().map(|entry| entry_bytes(entry)).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok((self.entries.has_ended(), bytes))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn header_bytes(header: &Header) -> u64 {
    let spec = serde_json::to_string(&header.spec).map_or(0, |json| json.len());
    RESPONSE_OVERHEAD + (spec + 4 * header.prompt.len()) as u64
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
