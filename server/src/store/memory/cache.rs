//! The prompt cache's index in memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use moka::{policy::EvictionPolicy, sync::Cache};
use parking_lot::{Mutex, MutexGuard};

use super::limits::MAX_IDS;
use crate::store::{
    StoreError,
    cache::{CacheKey, CacheSize, Cached, MAX_SHARING, PromptCache, WRITTEN_WITHIN},
};

pub struct MemoryCache {
    /// The bound on the bytes of a tenant's completed logs.
    max_bytes: u64,
    tenants: Mutex<HashMap<String, CacheIndex>>,
    /// Log → the responses that share it. Includes logs that are not in an index any more.
    sharing: Cache<String, Arc<Mutex<HashSet<String>>>>,
}

#[derive(Default)]
struct CacheIndex {
    keys: HashMap<CacheKey, CacheSlot>,
    /// Number of the last use → key.
    used: BTreeMap<u64, CacheKey>,
    uses: u64,
    size: CacheSize,
}

struct CacheSlot {
    cached: Cached,
    used: u64,
    bytes: u64,
    ttl: Duration,
    until: Instant,
}

impl MemoryCache {
    /// `retention`: the longest time that a log is stored.
    pub fn new(max_bytes: u64, retention: Duration) -> Self {
        let sharing =
            Cache::builder().max_capacity(MAX_IDS).eviction_policy(EvictionPolicy::lru()).time_to_idle(retention);
        Self { max_bytes, tenants: Mutex::default(), sharing: sharing.build() }
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<String, CacheIndex>> {
        self.tenants.lock()
    }

    /// Adds a response to the log of a key, or frees the key. Changes the index and `sharing`, so the caller holds the lock of the
    /// index.
    fn share(&self, index: &mut CacheIndex, key: &CacheKey, response: &str) -> Option<Cached> {
        let slot = index.keys.get(key)?;
        let sharing = self.sharing.get(&slot.cached.log);
        let shared = sharing.is_some_and(|sharing| {
            let mut sharing = sharing.lock();
            let room = sharing.len() < MAX_SHARING;
            if room {
                sharing.insert(response.to_owned());
            }
            room
        });
        if slot.until <= Instant::now() || !shared {
            index.remove(key);
            return None;
        }
        index.touch(key);
        index.keys.get(key).map(|slot| slot.cached.clone())
    }
}

#[async_trait]
impl PromptCache for MemoryCache {
    async fn join(&self, tenant: &str, key: &CacheKey, response: &str) -> Result<Option<Cached>, StoreError> {
        let mut tenants = self.tenants();
        Ok(tenants.get_mut(tenant).and_then(|index| self.share(index, key, response)))
    }

    async fn lead(
        &self,
        tenant: &str,
        key: &CacheKey,
        log: &str,
        response: &str,
        ttl: Duration,
    ) -> Result<Option<Cached>, StoreError> {
        let mut tenants = self.tenants();
        let index = tenants.entry(tenant.to_owned()).or_default();
        if let Some(cached) = self.share(index, key, response) {
            return Ok(Some(cached));
        }
        let sharing = Arc::new(Mutex::new(HashSet::from([response.to_owned()])));
        self.sharing.insert(log.to_owned(), sharing);
        let cached = Cached { log: log.to_owned(), complete: false };
        // The ttl counts from completion.
        let until = Instant::now() + WRITTEN_WITHIN;
        index.keys.insert(key.clone(), CacheSlot { cached, used: 0, bytes: 0, ttl, until });
        index.touch(key);
        Ok(None)
    }

    async fn complete(&self, tenant: &str, key: &CacheKey, log: &str, bytes: u64) -> Result<(), StoreError> {
        let mut tenants = self.tenants();
        let Some(index) = tenants.get_mut(tenant) else { return Ok(()) };
        if let Some(slot) = index.keys.get_mut(key).filter(|slot| slot.cached.log == log && !slot.cached.complete) {
            slot.cached.complete = true;
            slot.bytes = bytes;
            slot.until = Instant::now() + slot.ttl;
            index.size.bytes += bytes;
            index.touch(key);
        }
        while index.size.bytes > self.max_bytes {
            let oldest = index.used.values().find(|key| index.keys.get(key).is_some_and(|slot| slot.cached.complete));
            let Some(oldest) = oldest.cloned() else { break };
            index.remove(&oldest);
            index.size.evicted += 1;
        }
        Ok(())
    }

    async fn discard(&self, tenant: &str, key: &CacheKey, log: &str) -> Result<(), StoreError> {
        if let Some(index) = self.tenants().get_mut(tenant) {
            index.discard(key, log);
        }
        Ok(())
    }

    async fn leave(&self, tenant: &str, key: &CacheKey, log: &str, response: &str) -> Result<usize, StoreError> {
        let mut tenants = self.tenants();
        let Some(sharing) = self.sharing.get(log) else { return Ok(0) };
        let left = {
            let mut sharing = sharing.lock();
            sharing.remove(response);
            sharing.len()
        };
        if left == 0 {
            self.sharing.invalidate(log);
            if let Some(index) = tenants.get_mut(tenant) {
                index.discard(key, log);
            }
        }
        Ok(left)
    }

    async fn size(&self, tenant: &str) -> Result<CacheSize, StoreError> {
        Ok(self.tenants().get(tenant).map(|index| index.size).unwrap_or_default())
    }
}

impl CacheIndex {
    fn touch(&mut self, key: &CacheKey) {
        let Some(slot) = self.keys.get_mut(key) else { return };
        self.used.remove(&slot.used);
        self.uses += 1;
        slot.used = self.uses;
        self.used.insert(self.uses, key.clone());
    }

    fn discard(&mut self, key: &CacheKey, log: &str) {
        if self.keys.get(key).is_some_and(|slot| slot.cached.log == log) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &CacheKey) {
        if let Some(slot) = self.keys.remove(key) {
            self.used.remove(&slot.used);
            self.size.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::cache as conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::all(async || MemoryCache::new(conformance::MAX_BYTES, Duration::from_secs(60))).await;
    }
}
