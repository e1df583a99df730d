//! The rates of a fleet on Redis: of each tenant one moment, by Redis' clock, since replicas' clocks differ.

use std::{num::NonZeroU32, sync::LazyLock, time::Duration};

use ::redis::Script;
use async_trait::async_trait;

use super::RedisStore;
use crate::store::{
    StoreError,
    rates::{MINUTE, Rates, interval},
};

/// full; µs that a request takes to flow back, µs that fill the bucket. 0: taken; otherwise µs until there is one.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0)) + ARGV[1]
local wait = full - now - ARGV[2]
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return 0",
    )
});

#[async_trait]
impl Rates for RedisStore {
    async fn take(&self, tenant: &str, per_minute: NonZeroU32) -> Result<Option<Duration>, StoreError> {
        let mut take = TAKE.prepare_invoke();
        take.key(self.0.keys.tenant(tenant, "requests"));
        take.arg(interval(per_minute).as_micros() as u64).arg(MINUTE.as_micros() as u64);
        let wait: u64 = self.0.script(&take).await?;
        Ok((wait > 0).then(|| Duration::from_micros(wait)))
    }
}
