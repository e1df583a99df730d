//! Rate counters in memory.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::store::{
    StoreError,
    rates::{Bucket, MINUTE, Rates, Unit},
};

/// When each bucket will be full again. The map is bounded, because only tenants and keys of the settings have buckets.
#[derive(Default)]
pub struct MemoryRates(Mutex<HashMap<(String, Unit), Instant>>);

#[async_trait]
impl Rates for MemoryRates {
    async fn take(&self, bucket: Bucket<'_>) -> Result<Option<Duration>, StoreError> {
        Ok(self.draw(bucket, 1, Some(MINUTE)))
    }

    async fn spend(&self, bucket: Bucket<'_>, count: u64) -> Result<(), StoreError> {
        self.draw(bucket, count, None);
        Ok(())
    }

    async fn full_in(&self, bucket: Bucket<'_>) -> Result<Duration, StoreError> {
        let buckets = self.0.lock();
        let full = buckets.get(&(bucket.tenant.to_owned(), bucket.unit));
        Ok(full.map_or(Duration::ZERO, |full| full.saturating_duration_since(Instant::now())))
    }
}

impl MemoryRates {
    /// Takes `count` units, unless the bucket would then need more than `longest` to be full again. Returns the excess over
    /// `longest` if nothing was taken.
    fn draw(&self, bucket: Bucket, count: u64, longest: Option<Duration>) -> Option<Duration> {
        let mut buckets = self.0.lock();
        let now = Instant::now();
        let full = buckets.entry((bucket.tenant.to_owned(), bucket.unit)).or_insert(now);
        let then = (*full).max(now) + bucket.refill(count);
        let wait = longest.and_then(|longest| (then - now).checked_sub(longest)).filter(|wait| !wait.is_zero());
        if wait.is_none() {
            *full = then;
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::rates as conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::all(async || MemoryRates::default()).await;
    }
}
