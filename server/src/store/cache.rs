//! The index of the exact prompt cache: which log answers a key, and which responses share a log. This module owns the
//! contract; `memory` and `redis` keep it. The logs themselves are in the [`Store`](super::Store).
//!
//! A key has at most one log. It is *led* by the run that writes it, *completed* when that run ended well, and *discarded*
//! when it did not: nobody joins a log that will not be whole.

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
    /// Whether it has ended well; otherwise it is being written.
    pub complete: bool,
}

/// What the index of a tenant holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CacheSize {
    /// Of completed logs.
    pub bytes: u64,
    /// Logs that were struck to make room.
    pub evicted: u64,
}

/// The time for which a log counts as being written; longer than any run.
pub const WRITTEN_WITHIN: Duration = Duration::from_secs(86400);

/// Responses that may share a log; the next one starts afresh.
pub const MAX_SHARING: usize = 10_000;

/// Every method is one atomic step, and every one names the tenant.
#[async_trait]
pub trait PromptCache: Send + Sync + 'static {
    /// The log of a key, which the response shares from now on.
    async fn join(&self, tenant: &str, key: &CacheKey, response: &str) -> Result<Option<Cached>, StoreError>;

    /// Makes `log` the key's for `ttl` and `response` the first to share it; `None`. Where the key has one already, joins
    /// that one: of many who lead at once, one does.
    async fn lead(
        &self,
        tenant: &str,
        key: &CacheKey,
        log: &str,
        response: &str,
        ttl: Duration,
    ) -> Result<Option<Cached>, StoreError>;

    /// The log has ended well, so it is replayed until its time is over or until the room is needed for others that were
    /// used later.
    async fn complete(&self, tenant: &str, key: &CacheKey, log: &str, bytes: u64) -> Result<(), StoreError>;

    /// The log is no answer to the key. Nothing happens where the key has another by now.
    async fn discard(&self, tenant: &str, key: &CacheKey, log: &str) -> Result<(), StoreError>;

    /// The response no longer shares the log; how many do. With the last one the log is discarded too.
    async fn leave(&self, tenant: &str, key: &CacheKey, log: &str, response: &str) -> Result<usize, StoreError>;

    async fn size(&self, tenant: &str) -> Result<CacheSize, StoreError>;
}
