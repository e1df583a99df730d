//! The prompt cache's index on Redis. All keys of a tenant are in one slot.

use std::time::Duration;

use ::redis::{Script, ScriptInvocation, cmd};
use async_trait::async_trait;

use super::{
    handle::{RedisStore, ms},
    scripts::cache,
};
use crate::store::{
    StoreError,
    cache::{CacheKey, CacheSize, Cached, MAX_SHARING, PromptCache, WRITTEN_WITHIN},
};

pub struct RedisCache {
    store: RedisStore,
    /// The bound on the bytes of a tenant's completed logs.
    max_bytes: u64,
    /// The longest time that a log is stored.
    retention: Duration,
}

impl RedisStore {
    /// Opens the prompt cache's index in the same Redis, over the same connections.
    pub fn cache(&self, max_bytes: u64, retention: Duration) -> RedisCache {
        RedisCache { store: self.clone(), max_bytes, retention }
    }
}

impl RedisCache {
    fn prepare<'s>(&self, script: &'s Script, tenant: &str, key: &CacheKey, log: &str) -> ScriptInvocation<'s> {
        let keys = &self.store.0.keys;
        let mut invocation = script.prepare_invoke();
        for part in ["cache", "cache:used", "cache:size"] {
            invocation.key(keys.tenant(tenant, part));
        }
        invocation.key(keys.tenant(tenant, &format!("sharing:{log}")));
        invocation.arg(&key.0).arg(ms(self.retention)).arg(log);
        invocation
    }

    async fn share(
        &self,
        tenant: &str,
        key: &CacheKey,
        log: &str,
        response: &str,
    ) -> Result<Option<Cached>, StoreError> {
        let mut join = self.prepare(&cache::JOIN, tenant, key, log);
        join.arg(response).arg(MAX_SHARING);
        let (shared, complete): (u8, u8) = self.store.0.script(&join).await?;
        Ok((shared == 1).then(|| Cached { log: log.into(), complete: complete == 1 }))
    }
}

#[async_trait]
impl PromptCache for RedisCache {
    async fn join(&self, tenant: &str, key: &CacheKey, response: &str) -> Result<Option<Cached>, StoreError> {
        let mut get = cmd("HGET");
        get.arg(self.store.0.keys.tenant(tenant, "cache")).arg(&key.0);
        let entry: Option<String> = self.store.0.query(&get).await?;
        match entry.as_deref().and_then(|entry| entry.split(' ').next()) {
            Some(log) => self.share(tenant, key, log, response).await,
            None => Ok(None),
        }
    }

    async fn lead(
        &self,
        tenant: &str,
        key: &CacheKey,
        log: &str,
        response: &str,
        ttl: Duration,
    ) -> Result<Option<Cached>, StoreError> {
        loop {
            let mut lead = self.prepare(&cache::LEAD, tenant, key, log);
            lead.arg(response).arg(ms(ttl)).arg(ms(WRITTEN_WITHIN));
            let first: String = self.store.0.script(&lead).await?;
            if first.is_empty() {
                return Ok(None);
            }
            // If the other log was discarded meanwhile, the key is free: try again.
            if let Some(cached) = self.share(tenant, key, &first, response).await? {
                return Ok(Some(cached));
            }
        }
    }

    async fn complete(&self, tenant: &str, key: &CacheKey, log: &str, bytes: u64) -> Result<(), StoreError> {
        let mut complete = self.prepare(&cache::COMPLETE, tenant, key, log);
        complete.arg(bytes).arg(self.max_bytes);
        self.store.0.script(&complete).await
    }

    async fn discard(&self, tenant: &str, key: &CacheKey, log: &str) -> Result<(), StoreError> {
        self.store.0.script::<()>(&self.prepare(&cache::DISCARD, tenant, key, log)).await
    }

    async fn leave(&self, tenant: &str, key: &CacheKey, log: &str, response: &str) -> Result<usize, StoreError> {
        let mut leave = self.prepare(&cache::LEAVE, tenant, key, log);
        leave.arg(response);
        self.store.0.script(&leave).await
    }

    async fn size(&self, tenant: &str) -> Result<CacheSize, StoreError> {
        let mut get = cmd("HMGET");
        get.arg(self.store.0.keys.tenant(tenant, "cache:size")).arg(&["bytes", "evicted"]);
        let (bytes, evicted): (Option<u64>, Option<u64>) = self.store.0.query(&get).await?;
        Ok(CacheSize { bytes: bytes.unwrap_or(0), evicted: evicted.unwrap_or(0) })
    }
}
