//! The logs that run or wait in this process, and their bytes for the quotas of tenants and keys.

use std::{collections::HashMap, sync::Arc};

use super::log::MemoryLog;
use crate::store::{
    StoreError,
    quota::{Exceeded, StorageQuota},
};

#[derive(Default)]
pub struct RunningLogs {
    logs: HashMap<String, Arc<MemoryLog>>,
    tenants: HashMap<String, Used>,
    /// (tenant, key) → use.
    keys: HashMap<(String, String), Used>,
}

#[derive(Clone, Copy, Default)]
struct Used {
    bytes: u64,
    responses: u64,
}

impl RunningLogs {
    pub fn get(&self, id: &str) -> Option<Arc<MemoryLog>> {
        self.logs.get(id).cloned()
    }

    /// Returns the bytes of a tenant's running logs.
    pub fn bytes(&self, tenant: &str) -> u64 {
        self.tenants.get(tenant).map_or(0, |used| used.bytes)
    }

    /// Refuses a log that would exceed the quota of its tenant or key together with the running logs. Finished logs do not count:
    /// they are evicted if needed.
    pub fn check(&self, log: &MemoryLog, quota: StorageQuota) -> Result<(), StoreError> {
        let tenant = self.tenants.get(&log.header.tenant).copied().unwrap_or_default();
        if tenant.bytes.saturating_add(log.bytes()) > quota.bytes {
            return Err(StoreError::OverQuota(Exceeded::TenantBytes(quota.bytes)));
        }
        if tenant.responses >= quota.responses {
            return Err(StoreError::OverQuota(Exceeded::TenantResponses(quota.responses)));
        }
        if let Some((key, most)) = key(log) {
            let used = self.keys.get(&key).copied().unwrap_or_default();
            if used.bytes.saturating_add(log.bytes()) > most {
                return Err(StoreError::OverQuota(Exceeded::KeyBytes(most)));
            }
        }
        Ok(())
    }

    pub fn insert(&mut self, id: &str, log: Arc<MemoryLog>) {
        self.count(&log, |used| {
            used.bytes += log.bytes();
            used.responses += 1;
        });
        self.logs.insert(id.to_owned(), log);
    }

    /// Counts bytes by which a running log has grown.
    pub fn grew(&mut self, log: &MemoryLog, bytes: u64) {
        if bytes > 0 && self.logs.contains_key(&log.header.id) {
            self.count(log, |used| used.bytes += bytes);
        }
    }

    pub fn remove(&mut self, id: &str) {
        let Some(log) = self.logs.remove(id) else { return };
        self.count(&log, |used| {
            used.bytes = used.bytes.saturating_sub(log.bytes());
            used.responses -= 1;
        });
        let tenant = &log.header.tenant;
        if self.tenants.get(tenant).is_some_and(|used| used.responses == 0) {
            self.tenants.remove(tenant);
        }
        if let Some((key, _)) = key(&log)
            && self.keys.get(&key).is_some_and(|used| used.responses == 0)
        {
            self.keys.remove(&key);
        }
    }

    fn count(&mut self, log: &MemoryLog, count: impl Fn(&mut Used)) {
        match self.tenants.get_mut(&log.header.tenant) {
            Some(used) => count(used),
            None => count(self.tenants.entry(log.header.tenant.clone()).or_default()),
        }
        if let Some((key, _)) = key(log) {
            count(self.keys.entry(key).or_default());
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.logs.len()
    }
}

/// The key of a log that has a quota of its own, and its bytes.
fn key(log: &MemoryLog) -> Option<((String, String), u64)> {
    let quota = log.header.key_quota.as_ref()?;
    Some(((log.header.tenant.clone(), quota.key.clone()), quota.bytes))
}
