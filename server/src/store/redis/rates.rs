//! The rates of a fleet on Redis: of each bucket one moment, by Redis' clock, since replicas' clocks differ.

use std::{sync::LazyLock, time::Duration};

use ::redis::Script;
use async_trait::async_trait;

use super::RedisStore;
use crate::store::{
    StoreError,
    rates::{Bucket, MINUTE, Rates, Unit},
};

/// full; µs that what is taken needs to flow back, µs that the bucket may then need to be full, or nothing for any number.
/// 0: taken; otherwise µs until it may be.
static DRAW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0)) + ARGV[1]
local wait = full - now - (tonumber(ARGV[2]) or math.huge)
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
return 0",
    )
});

/// full. µs until the bucket is full.
static LEVEL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
return math.max(0, tonumber(redis.call('GET', KEYS[1]) or 0) - now)",
    )
});

/// The last part of a bucket's key.
fn name(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
    }
}

#[async_trait]
impl Rates for RedisStore {
    async fn take(&self, bucket: Bucket<'_>) -> Result<Option<Duration>, StoreError> {
        let wait = self.draw(bucket, 1, Some(MINUTE)).await?;
        Ok((!wait.is_zero()).then_some(wait))
    }

    async fn spend(&self, bucket: Bucket<'_>, count: u64) -> Result<(), StoreError> {
        self.draw(bucket, count, None).await.map(drop)
    }

    async fn full_in(&self, bucket: Bucket<'_>) -> Result<Duration, StoreError> {
        let mut level = LEVEL.prepare_invoke();
        level.key(self.0.keys.tenant(bucket.tenant, name(bucket.unit)));
        Ok(Duration::from_micros(self.0.script(&level).await?))
    }
}

impl RedisStore {
    async fn draw(&self, bucket: Bucket<'_>, count: u64, longest: Option<Duration>) -> Result<Duration, StoreError> {
        let mut draw = DRAW.prepare_invoke();
        draw.key(self.0.keys.tenant(bucket.tenant, name(bucket.unit)));
        draw.arg(bucket.refill(count).as_micros() as u64);
        draw.arg(longest.map_or_else(String::new, |longest| longest.as_micros().to_string()));
        Ok(Duration::from_micros(self.0.script(&draw).await?))
    }
}
