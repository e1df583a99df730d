//! Rate counters on Redis. Each bucket has one time: when it will be full, by Redis' clock, because the clocks of replicas differ.

use std::time::Duration;

use async_trait::async_trait;

use super::{handle::RedisStore, scripts::rate};
use crate::store::{
    StoreError,
    rates::{Bucket, MINUTE, Rates, Unit},
};

/// Returns the last part of a bucket's key.
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
        let mut level = rate::READ_LEVEL.prepare_invoke();
        level.key(self.0.keys.tenant(bucket.tenant, name(bucket.unit)));
        Ok(Duration::from_micros(self.0.script(&level).await?))
    }
}

impl RedisStore {
    async fn draw(&self, bucket: Bucket<'_>, count: u64, longest: Option<Duration>) -> Result<Duration, StoreError> {
        let mut draw = rate::DRAW.prepare_invoke();
        draw.key(self.0.keys.tenant(bucket.tenant, name(bucket.unit)));
        draw.arg(bucket.refill(count).as_micros() as u64);
        draw.arg(longest.map_or_else(String::new, |longest| longest.as_micros().to_string()));
        Ok(Duration::from_micros(self.0.script(&draw).await?))
    }
}
