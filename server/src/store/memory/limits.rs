//! How much is stored in memory.

use crate::store::{Retention, quota::StorageQuotas};

/// Bounds of the memory store.
#[derive(Debug, Clone)]
pub struct MemoryLimits {
    pub retention: Retention,
    /// Bound on the bytes of finished responses.
    pub max_bytes: u64,
    pub quotas: StorageQuotas,
}

/// Bounds the maps of ids, whose values are a few dozen bytes.
pub const MAX_IDS: u64 = 100_000;
