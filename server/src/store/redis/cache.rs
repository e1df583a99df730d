//! The prompt cache's index on Redis: all of a tenant's in one slot.

use std::{sync::LazyLock, time::Duration};

use ::redis::{Script, ScriptInvocation, cmd};
use async_trait::async_trait;

use super::{RedisStore, ms, scripts::without_memory};
use crate::store::{
    StoreError,
    cache::{CacheKey, CacheSize, Cached, MAX_SHARING, PromptCache},
};

/// How long a log counts as being written; longer than any run.
const RUNNING: Duration = Duration::from_secs(86400);

pub struct RedisCache {
    store: RedisStore,
    /// Of a tenant's completed logs.
    max_bytes: u64,
    /// How long a log may live.
    retention: Duration,
}

impl RedisStore {
    /// The prompt cache's index in the same Redis, over the same connections.
    pub fn cache(&self, max_bytes: u64, retention: Duration) -> RedisCache {
        RedisCache { store: self.clone(), max_bytes, retention }
    }
}

/// What every script begins with. `ARGV`: key, retention, then its own. An entry of the index is
/// `log complete bytes until ttl`.
const PRELUDE: &str = r"
local index, used, size, sharing = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function find(key)
  local entry = redis.call('HGET', index, key)
  if not entry then return nil end
  local log, complete, bytes, until_, ttl = string.match(entry, '(%S+) (%S+) (%S+) (%S+) (%S+)')
  return {log = log, complete = complete == '1', bytes = tonumber(bytes), until_ = tonumber(until_), ttl = tonumber(ttl)}
end
local function put(key, e)
  redis.call('HSET', index, key,
    string.format('%s %s %.0f %.0f %.0f', e.log, e.complete and '1' or '0', e.bytes, e.until_, e.ttl))
  redis.call('ZADD', used, now * 1000 + math.floor(time[2] % 1000), key)
  for _, k in ipairs({index, used, size}) do redis.call('PEXPIRE', k, ARGV[2]) end
end
local function remove(key, e)
  redis.call('HDEL', index, key)
  redis.call('ZREM', used, key)
  if e.bytes > 0 then redis.call('HINCRBY', size, 'bytes', -e.bytes) end
end
";

fn script(body: &str) -> Script {
    Script::new(&format!("{PRELUDE}{body}"))
}

/// A script for what must be possible in a full Redis too.
fn ending(body: &str) -> Script {
    without_memory(&format!("{PRELUDE}{body}"))
}

/// log, response, how many may share. {1, complete}: shared. {0, 0}: the key has no such log.
static JOIN: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
local e = find(ARGV[1])
if not e or e.log ~= ARGV[3] then return {0, 0} end
if e.until_ <= now or redis.call('EXISTS', sharing) == 0 or redis.call('SCARD', sharing) >= tonumber(ARGV[5]) then
  remove(ARGV[1], e)
  return {0, 0}
end
redis.call('SADD', sharing, ARGV[4])
redis.call('PEXPIRE', sharing, ARGV[2])
put(ARGV[1], e)
return {1, e.complete and 1 or 0}",
    )
});

/// log, response, ttl, how long it may run. The key's log; '' when it is this one now.
static LEAD: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
local e = find(ARGV[1])
if e and e.log ~= ARGV[3] then
  if e.until_ > now then return e.log end
  remove(ARGV[1], e)
end
redis.call('SADD', sharing, ARGV[4])
redis.call('PEXPIRE', sharing, ARGV[2])
put(ARGV[1], {log = ARGV[3], complete = false, bytes = 0, until_ = now + ARGV[6], ttl = tonumber(ARGV[5])})
return ''",
    )
});

/// log, bytes, max bytes.
static COMPLETE: LazyLock<Script> = LazyLock::new(|| {
    ending(
        r"
local e = find(ARGV[1])
if e and e.log == ARGV[3] and not e.complete then
  e.complete, e.bytes, e.until_ = true, tonumber(ARGV[4]), now + e.ttl
  redis.call('HINCRBY', size, 'bytes', e.bytes)
  put(ARGV[1], e)
end
local bytes, at = tonumber(redis.call('HGET', size, 'bytes') or 0), 0
while bytes > tonumber(ARGV[5]) do
  local oldest = redis.call('ZRANGE', used, at, at)[1]
  if not oldest then break end
  local o = find(oldest)
  if not o then
    redis.call('ZREM', used, oldest)
  elseif o.complete then
    remove(oldest, o)
    bytes = bytes - o.bytes
    redis.call('HINCRBY', size, 'evicted', 1)
  else
    at = at + 1
  end
end
return 1",
    )
});

/// log.
static DISCARD: LazyLock<Script> = LazyLock::new(|| {
    ending(
        r"
local e = find(ARGV[1])
if e and e.log == ARGV[3] then remove(ARGV[1], e) end
return 1",
    )
});

/// log, response. How many share it.
static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    ending(
        r"
redis.call('SREM', sharing, ARGV[4])
local left = redis.call('SCARD', sharing)
if left == 0 then
  local e = find(ARGV[1])
  if e and e.log == ARGV[3] then remove(ARGV[1], e) end
end
return left",
    )
});

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
        let mut join = self.prepare(&JOIN, tenant, key, log);
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
            let mut lead = self.prepare(&LEAD, tenant, key, log);
            lead.arg(response).arg(ms(ttl)).arg(ms(RUNNING));
            let first: String = self.store.0.script(&lead).await?;
            if first.is_empty() {
                return Ok(None);
            }
            // It may have been discarded in between; then the key is free.
            if let Some(cached) = self.share(tenant, key, &first, response).await? {
                return Ok(Some(cached));
            }
        }
    }

    async fn complete(&self, tenant: &str, key: &CacheKey, log: &str, bytes: u64) -> Result<(), StoreError> {
        let mut complete = self.prepare(&COMPLETE, tenant, key, log);
        complete.arg(bytes).arg(self.max_bytes);
        self.store.0.script(&complete).await
    }

    async fn discard(&self, tenant: &str, key: &CacheKey, log: &str) -> Result<(), StoreError> {
        self.store.0.script::<()>(&self.prepare(&DISCARD, tenant, key, log)).await
    }

    async fn leave(&self, tenant: &str, key: &CacheKey, log: &str, response: &str) -> Result<usize, StoreError> {
        let mut leave = self.prepare(&LEAVE, tenant, key, log);
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
