//! How much of a store each tenant may fill. This module owns the numbers and what exceeding them means; every store keeps them.
//!
//! What a store MUST do:
//! - [`Store::create`](super::Store::create) is refused with [`StoreError::OverQuota`](super::StoreError::OverQuota) when the
//!   tenant, or the key in the header, would hold more than its quota. A store that loses everything with its process may
//!   instead evict finished responses of the same tenant (of the same key), the least recently used first.
//! - What one tenant writes never evicts a response of a tenant that holds fewer bytes.
//! - An append is never refused for a quota: what runs is written to its end, and counts.
//! - Deletion and the end of the retention give bytes back. A tenant over its quota reads, cancels and deletes as ever.
//! - A response counts [`RESPONSE_OVERHEAD`] and the bytes of its header and its entries, as the store encodes them;
//!   conversations count against the same bytes, or against as many of their own.

use std::{collections::HashMap, fmt, num::NonZeroU32, sync::Arc};

use serde::{Deserialize, Serialize};

/// What a response or a conversation counts beside its texts: bookkeeping, indexes, the record of its `client_request_id`.
pub const RESPONSE_OVERHEAD: u64 = 1024;

/// What one tenant may store. `u64::MAX`: any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageQuota {
    /// Of responses and conversations.
    pub bytes: u64,
    pub responses: u64,
}

/// What the settings say of a quota; `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuotaSetting {
    pub bytes: Option<u64>,
    pub responses: Option<u64>,
}

/// The quotas of all tenants. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StorageQuotas {
    /// Of a tenant without settings of its own.
    pub default: QuotaSetting,
    pub tenants: Arc<HashMap<String, QuotaSetting>>,
    /// Where no setting gives bytes, a tenant may fill one of so many parts of the store's bound.
    pub parts: u64,
}

impl StorageQuotas {
    /// A tenant's quota in a store that holds `bound` bytes; `None`: the store has no bound that is known.
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
    /// `u64::MAX`: any number.
    pub bytes: u64,
    /// What its responses may use in a minute, prompts and outputs together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<NonZeroU32>,
}

/// The quota that a create would exceed, and its bound. Displayed as what may be stored.
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
