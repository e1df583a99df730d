//! The contract of the prompt cache's index: which log answers a key, and which responses share a log. The logs themselves are in
//! the [`Store`](super::Store).
//!
//! A key has at most one log. A run *leads* the key while it writes the log. The log is *completed* if the run ends well, and
//! *discarded* otherwise, so that no response joins an incomplete log.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// The hash of everything that determines a reply, as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(pub String);

/// A log that answers a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    pub log: String,
    /// `true`: the log has ended well; `false`: it is being written.
    pub complete: bool,
}

/// The size of a tenant's index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CacheSize {
    /// Bytes of completed logs.
    pub bytes: u64,
    /// Logs that were evicted to make room.
    pub evicted: u64,
}

/// The time for which a log counts as being written. Longer than any run.
pub const WRITTEN_WITHIN: Duration = Duration::from_secs(86400);

/// The maximum of responses that share a log. The next response starts a new log.
pub const MAX_SHARING: usize = 10_000;

/// An index of the prompt cache. Every method MUST be atomic, and fails with `Unavailable` if the store cannot be reached.
#[async_trait]
pub trait PromptCache: Send + Sync + 'static {
    /// Returns the log of a key and adds the response to those that share it. Returns `None` if the key has no log, if the log's
    /// time is over, or if [`MAX_SHARING`] responses share it; the key is then free.
    async fn join(&self, tenant: &str, key: &CacheKey, response: &str) -> Result<Option<Cached>, StoreError>;

    /// Makes `log` the log of the key, with `response` as the first to share it, and returns `None`. If the key has a log already,
    /// joins that log as [`Self::join`] does. Of concurrent calls exactly one MUST lead. `ttl` counts from the log's completion.
    async fn lead(
        &self,
        tenant: &str,
        key: &CacheKey,
        log: &str,
        response: &str,
        ttl: Duration,
    ) -> Result<Option<Cached>, StoreError>;

    /// Records that the log has ended well. The log can be joined until its `ttl` is over, or until it is evicted as the least
    /// recently used one of the tenant.
    async fn complete(&self, tenant: &str, key: &CacheKey, log: &str, bytes: u64) -> Result<(), StoreError>;

    /// Frees the key of a log. Changes nothing if the key has another log.
    async fn discard(&self, tenant: &str, key: &CacheKey, log: &str) -> Result<(), StoreError>;

    /// Removes the response from those that share the log. Returns how many still share it. The last one that leaves frees the key.
    async fn leave(&self, tenant: &str, key: &CacheKey, log: &str, response: &str) -> Result<usize, StoreError>;

    /// Returns the size of a tenant's index.
    async fn size(&self, tenant: &str) -> Result<CacheSize, StoreError>;
}
