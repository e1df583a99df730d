//! Limits of the memory store.

use crate::store::{Retention, quota::StorageQuotas};

/// Bounds of the memory store.
#[derive(Debug, Clone)]
pub struct MemoryLimits {
    pub retention: Retention,
    /// The bound on the bytes of finished responses, and as much again for conversations.
    pub max_bytes: u64,
    pub quotas: StorageQuotas,
}

/// The bound on each map of ids. An entry takes a few dozen bytes.
pub const MAX_IDS: u64 = 100_000;
