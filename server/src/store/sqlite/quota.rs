//! Checks of storage quotas.

use rusqlite::{Connection, OptionalExtension, params};

use super::{handle::SqliteConfig, live::LiveLogs};
use crate::store::{
    Header,
    quota::{Exceeded, StorageQuota},
};

/// The bytes that a conversation counts besides its items.
pub const CONVERSATION_OVERHEAD: u64 = 1024;

/// The storage that a tenant, or a key of a tenant, uses.
struct Usage {
    bytes: u64,
    responses: u64,
}

impl Usage {
    /// Adds up the bytes in the file and in the journal. The table `usage` counts a log's entries when the log ends.
    fn of(db: &Connection, live: &LiveLogs, tenant: &str, key: &str) -> rusqlite::Result<Self> {
        let sql = "SELECT bytes, responses FROM usage WHERE tenant = ?1 AND key = ?2";
        let found: Option<(i64, i64)> =
            db.prepare_cached(sql)?.query_row(params![tenant, key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let (bytes, responses) = found.unwrap_or_default();
        let count = |count| u64::try_from(count).unwrap_or(0);
        Ok(Self { bytes: count(bytes).saturating_add(live.bytes(tenant, key)), responses: count(responses) })
    }
}

impl SqliteConfig {
    pub fn quota(&self, tenant: &str) -> StorageQuota {
        self.quotas.of(tenant, Some(self.max_bytes).filter(|bytes| *bytes > 0))
    }
}

/// Returns the quota that a new response of `bytes` bytes would exceed, if any.
pub fn response(
    db: &Connection,
    live: &LiveLogs,
    (header, bytes): (&Header, u64),
    quota: StorageQuota,
) -> rusqlite::Result<Option<Exceeded>> {
    let used = Usage::of(db, live, &header.tenant, "")?;
    if used.bytes.saturating_add(bytes) > quota.bytes {
        return Ok(Some(Exceeded::TenantBytes(quota.bytes)));
    }
    if used.responses >= quota.responses {
        return Ok(Some(Exceeded::TenantResponses(quota.responses)));
    }
    let Some(key) = &header.key_quota else { return Ok(None) };
    let used = Usage::of(db, live, &header.tenant, &key.key)?;
    Ok((used.bytes.saturating_add(bytes) > key.bytes).then_some(Exceeded::KeyBytes(key.bytes)))
}

/// Returns the quota that `bytes` more bytes of a tenant's conversations would exceed, if any.
pub fn conversation(
    db: &Connection,
    live: &LiveLogs,
    (tenant, bytes): (&str, u64),
    quota: StorageQuota,
) -> rusqlite::Result<Option<Exceeded>> {
    let used = Usage::of(db, live, tenant, "")?;
    Ok((used.bytes.saturating_add(bytes) > quota.bytes).then_some(Exceeded::TenantBytes(quota.bytes)))
}
