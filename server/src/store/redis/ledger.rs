//! What each tenant stores in Redis. A response or a conversation is in a slot of its own, and its tenant's ledger is in another:
//! so the object counts its bytes itself, in the script that writes, and the ledger is told when the object has outgrown what it
//! was charged with. That is at its creation, a few times while it grows, and at its end: the ledger is off by a quarter of what
//! runs at most. Each charge has an end, which is the object's own: what has expired is struck, the oldest first, by whichever
//! charge comes next.

use std::{sync::LazyLock, sync::atomic::Ordering, time::Duration};

use ::redis::Script;

use super::{RedisInner, ms, scripts::without_memory};
use crate::store::{
    StoreError,
    quota::{Exceeded, KeyQuota},
};

/// What every script begins with. `KEYS`: ends, held. `held` has `<object>` → `bytes responses key`, `#bytes`, `#responses` and
/// `#key:<key>`: no object's id has a `#`.
const PRELUDE: &str = r"
local ends, held = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function total(name) return tonumber(redis.call('HGET', held, name) or 0) end
local function find(id)
  local bytes, responses, key = string.match(redis.call('HGET', held, id) or '0 0 ', '^(%d+) (%d+) (.*)$')
  return tonumber(bytes), tonumber(responses), key
end
local function count(name, by)
  if by ~= 0 and redis.call('HINCRBY', held, name, string.format('%.0f', by)) <= 0 then redis.call('HDEL', held, name) end
end
local function strike(id)
  local bytes, responses, key = find(id)
  redis.call('ZREM', ends, id)
  redis.call('HDEL', held, id)
  count('#bytes', -bytes)
  count('#responses', -responses)
  if key ~= '' then count('#key:' .. key, -bytes) end
end
local function put(id, bytes, responses, key, keep)
  strike(id)
  if bytes <= 0 then return end
  redis.call('HSET', held, id, string.format('%.0f %.0f %s', bytes, responses, key))
  redis.call('ZADD', ends, string.format('%.0f', now + keep), id)
  count('#bytes', bytes)
  count('#responses', responses)
  if key ~= '' then count('#key:' .. key, bytes) end
  local last = redis.call('ZREVRANGE', ends, 0, 0, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', ends, last)
  redis.call('PEXPIREAT', held, last)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do strike(id) end
";

/// object, bytes more, ms to keep, whether it is a response, key; most bytes, responses, bytes of the key. 0: charged; else which
/// bound it would exceed.
static CHARGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{PRELUDE}{}",
        r"
local id, more, responses, key = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5]
local bytes, counted = find(id)
if total('#bytes') + more > tonumber(ARGV[6]) then return 1 end
if total('#responses') - counted + responses > tonumber(ARGV[7]) then return 2 end
if key ~= '' and total('#key:' .. key) + more > tonumber(ARGV[8]) then return 3 end
put(id, bytes + more, responses, key, tonumber(ARGV[3]))
return 0"
    ))
});

/// object, bytes, ms to keep. Corrects a charge, whatever the bounds; 0 bytes: strikes it.
static CORRECT: LazyLock<Script> = LazyLock::new(|| {
    without_memory(&format!(
        "{PRELUDE}{}",
        r"
local was, responses, key = find(ARGV[1])
if was > 0 then put(ARGV[1], tonumber(ARGV[2]), responses, key, tonumber(ARGV[3])) end
return 0"
    ))
});

/// object, bytes fewer. Takes back a charge for what was not written after all.
static TAKE_BACK: LazyLock<Script> = LazyLock::new(|| {
    without_memory(&format!(
        "{PRELUDE}{}",
        r"
local was, responses, key = find(ARGV[1])
local till = tonumber(redis.call('ZSCORE', ends, ARGV[1]) or 0)
if was > 0 then put(ARGV[1], was - tonumber(ARGV[2]), responses, key, math.max(1, till - now)) end
return 0"
    ))
});

/// object, ms to keep. The charge ends later.
static KEEP: LazyLock<Script> = LazyLock::new(|| {
    without_memory(&format!(
        "{PRELUDE}{}",
        r"
local bytes, responses, key = find(ARGV[1])
if bytes > 0 then put(ARGV[1], bytes, responses, key, tonumber(ARGV[2])) end
return 0"
    ))
});

/// A key of the fleet, in whose node it is asked. The node's `maxmemory`; 0: none, or it may not be asked for.
static MAXMEMORY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local info = redis.pcall('INFO', 'memory')
return type(info) == 'string' and string.match(info, 'maxmemory:(%d+)') or '0'",
    )
});

/// A charge to be made.
pub struct Charge<'a> {
    pub tenant: &'a str,
    /// The id of a response or a conversation.
    pub object: &'a str,
    /// Beside what it is charged with already.
    pub bytes: u64,
    pub keep: Duration,
    pub is_response: bool,
    pub key: Option<&'a KeyQuota>,
}

impl RedisInner {
    /// Charges a tenant.
    ///
    /// # Errors
    /// `OverQuota`, and nothing is charged; those of the store.
    pub async fn charge(&self, charge: Charge<'_>) -> Result<(), StoreError> {
        let quota = self.config.quotas.of(charge.tenant, self.bound());
        let mut script = CHARGE.prepare_invoke();
        for key in self.ledger(charge.tenant) {
            script.key(key);
        }
        script.arg(charge.object).arg(charge.bytes).arg(ms(charge.keep)).arg(u8::from(charge.is_response));
        script.arg(charge.key.map_or("", |quota| quota.key.as_str())).arg(quota.bytes).arg(quota.responses);
        let of_key = charge.key.map_or(u64::MAX, |quota| quota.bytes);
        script.arg(of_key);
        match self.script::<u8>(&script).await? {
            0 => Ok(()),
            1 => Err(StoreError::OverQuota(Exceeded::TenantBytes(quota.bytes))),
            2 => Err(StoreError::OverQuota(Exceeded::TenantResponses(quota.responses))),
            _ => Err(StoreError::OverQuota(Exceeded::KeyBytes(of_key))),
        }
    }

    /// The object has so many bytes now and ends after `keep`. A ledger that cannot be told is wrong until then.
    pub async fn correct(&self, tenant: &str, object: &str, (bytes, keep): (u64, Duration)) {
        let mut correct = CORRECT.prepare_invoke();
        correct.arg(object).arg(bytes).arg(ms(keep));
        self.note(tenant, correct).await;
    }

    /// The object is gone.
    pub async fn uncharge(&self, tenant: &str, object: &str) {
        self.correct(tenant, object, (0, Duration::ZERO)).await;
    }

    /// What was charged last was not written.
    pub async fn take_back(&self, tenant: &str, object: &str, bytes: u64) {
        let mut take_back = TAKE_BACK.prepare_invoke();
        take_back.arg(object).arg(bytes);
        self.note(tenant, take_back).await;
    }

    pub async fn keep_charge(&self, tenant: &str, object: &str, keep: Duration) {
        let mut later = KEEP.prepare_invoke();
        later.arg(object).arg(ms(keep));
        self.note(tenant, later).await;
    }

    async fn note(&self, tenant: &str, mut script: ::redis::ScriptInvocation<'_>) {
        for key in self.ledger(tenant) {
            script.key(key);
        }
        if let Err(error) = self.script::<u8>(&script).await {
            tracing::debug!(%error, "a tenant's storage is counted wrongly until it expires");
        }
    }

    fn ledger(&self, tenant: &str) -> [String; 2] {
        [self.keys.tenant(tenant, "stored:ends"), self.keys.tenant(tenant, "stored")]
    }

    /// What quotas are parts of; `None`: nothing bounds this Redis.
    fn bound(&self) -> Option<u64> {
        let set = self.config.max_bytes;
        Some(if set > 0 { set } else { self.maxmemory.load(Ordering::Relaxed) }).filter(|bound| *bound > 0)
    }

    /// Asks for Redis' own bound, where quotas are parts of it.
    pub async fn ask_maxmemory(&self) {
        let mut ask = MAXMEMORY.prepare_invoke();
        ask.key(self.keys.replicas());
        if let Ok(bytes) = self.script::<String>(&ask).await {
            self.maxmemory.store(bytes.parse().unwrap_or(0), Ordering::Relaxed);
        }
    }
}
