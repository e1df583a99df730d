//! The contract of rate counters: requests and tokens per minute, counted for all replicas of a store.

use std::{num::NonZeroU32, time::Duration};

use async_trait::async_trait;

use super::error::StoreError;

/// The time in which an empty bucket refills.
pub const MINUTE: Duration = Duration::from_secs(60);

/// The unit of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    Requests,
    Tokens,
}

/// A token bucket of a tenant or a key. It is full at first, holds the units of one minute and refills evenly.
#[derive(Debug, Clone, Copy)]
pub struct Bucket<'a> {
    /// The tenant, or the name of a tenant's key.
    pub tenant: &'a str,
    pub unit: Unit,
    pub per_minute: NonZeroU32,
}

/// Rate counters. Every method MUST be atomic, and fails with `Unavailable` if the store cannot be reached.
#[async_trait]
pub trait Rates: Send + Sync + 'static {
    /// Takes one unit. Returns `None` on success. Otherwise takes nothing and returns the time until the bucket has a unit, if no
    /// other request takes it. A call that is repeated after a lost answer takes a second unit.
    async fn take(&self, bucket: Bucket<'_>) -> Result<Option<Duration>, StoreError>;

    /// Takes `count` units, even if the bucket has fewer. [`Self::take`] succeeds again when the deficit has refilled.
    async fn spend(&self, bucket: Bucket<'_>, count: u64) -> Result<(), StoreError>;

    /// Returns the time until the bucket is full again, if nothing is taken meanwhile.
    async fn full_in(&self, bucket: Bucket<'_>) -> Result<Duration, StoreError>;
}

impl Bucket<'_> {
    /// Returns the time in which `count` units refill, rounded down to whole µs so that a full bucket never has too few units.
    pub fn refill(&self, count: u64) -> Duration {
        Duration::from_micros((MINUTE.as_micros() as u64).saturating_mul(count) / u64::from(self.per_minute.get()))
    }
}
