//! Storage quotas of tenants and keys. This module owns the numbers and the contract:
//!
//! - [`Store::create`](super::Store::create) MUST fail with [`StoreError::OverQuota`](super::StoreError::OverQuota) if the tenant,
//!   or the key in the header, would exceed its quota. A store that loses everything with its process may instead evict finished
//!   responses of the same tenant or key, least recently used first.
//! - A write of one tenant MUST NOT evict a response of a tenant that stores fewer bytes.
//! - An append MUST NOT fail for a quota: a running response is written to its end, and its bytes count.
//! - Deletion and the end of the retention MUST return bytes. A tenant over its quota can still read, cancel and delete.
//! - A response counts [`RESPONSE_OVERHEAD`] and the bytes of its header and its entries, as the store encodes them.
//!   Conversations count against the same bytes, or against an equal number of their own.

use std::{collections::HashMap, fmt, num::NonZeroU32, sync::Arc};

use serde::{Deserialize, Serialize};

/// The bytes that a response or a conversation counts besides its texts: bookkeeping, indexes, the record of its
/// `client_request_id`.
pub const RESPONSE_OVERHEAD: u64 = 1024;

/// The quota of one tenant. `u64::MAX`: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageQuota {
    /// Bytes of responses and conversations.
    pub bytes: u64,
    pub responses: u64,
}

/// The settings of a quota; `None`: not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuotaSetting {
    pub bytes: Option<u64>,
    pub responses: Option<u64>,
}

/// The quotas of all tenants. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StorageQuotas {
    /// The quota of tenants without settings of their own.
    pub default: QuotaSetting,
    pub tenants: Arc<HashMap<String, QuotaSetting>>,
    /// Without a setting for bytes, a tenant may fill this fraction (1/`parts`) of the store's bound.
    pub parts: u64,
}

impl StorageQuotas {
    /// Returns a tenant's quota in a store that holds `bound` bytes; `None`: the store's bound is not known.
    pub fn of(&self, tenant: &str, bound: Option<u64>) -> StorageQuota {
        let own = self.tenants.get(tenant).copied().unwrap_or_default();
        let share = bound.map_or(u64::MAX, |bound| bound / self.parts.max(1));
        StorageQuota {
            bytes: own.bytes.or(self.default.bytes).unwrap_or(share),
            responses: own.responses.or(self.default.responses).unwrap_or(u64::MAX),
        }
    }

    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self { default: QuotaSetting::default(), tenants: Arc::default(), parts: 1 }
    }
}

/// A key with limits of its own: the responses that it creates count against both quotas, the key's and the tenant's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyQuota {
    /// The key's id.
    pub key: String,
    /// `u64::MAX`: no bound.
    pub bytes: u64,
    /// Tokens per minute of its responses, prompts and outputs together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<NonZeroU32>,
}

/// The quota that would be exceeded, with its bound. Displayed as the amount that may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    TenantBytes(u64),
    TenantResponses(u64),
    KeyBytes(u64),
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TenantBytes(most) => write!(f, "{most} bytes of responses and conversations"),
            Self::TenantResponses(most) => write!(f, "{most} responses"),
            Self::KeyBytes(most) => write!(f, "{most} bytes of responses"),
        }
    }
}
