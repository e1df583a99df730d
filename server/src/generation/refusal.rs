//! How the store's errors read to clients.

use crate::{
    limits::STORE_FULL_RETRY_MS,
    store::{StoreError, quota::Exceeded},
    wire::error::{Limited, WireError},
};

/// How a store's error reads to the client that asked for response `id`.
pub fn store_error(error: StoreError, id: &str) -> WireError {
    match error {
        StoreError::NotFound | StoreError::Fenced | StoreError::Behind(_) => WireError::ResponseNotFound(id.into()),
        StoreError::Expired => WireError::ResumeWindowExpired(id.into()),
        StoreError::Unreadable(_) => WireError::LogVersion { retry_after_ms: 1000 },
        StoreError::OverQuota(exceeded) => {
            let who = if matches!(exceeded, Exceeded::KeyBytes(_)) { Limited::Key } else { Limited::Tenant };
            WireError::StorageQuotaExceeded { who, most: exceeded.to_string() }
        }
        StoreError::Full(reason) => {
            tracing::warn!(reason, "the store is full");
            WireError::StoreFull { retry_after_ms: STORE_FULL_RETRY_MS }
        }
        StoreError::Unavailable(reason) => {
            tracing::warn!(reason, "the store is unavailable");
            WireError::StoreUnavailable { retry_after_ms: 1000 }
        }
    }
}
