//! What tenants use in a minute, counted for a whole fleet. This module owns the contract; `memory` and `redis` count.

use std::{num::NonZeroU32, time::Duration};

use async_trait::async_trait;

use super::error::StoreError;

/// What a bucket holds: a minute's.
pub const MINUTE: Duration = Duration::from_secs(60);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    Requests,
    Tokens,
}

/// A bucket of a tenant or of a key, full at first, that gives a minute's units at once and fills again evenly.
#[derive(Debug, Clone, Copy)]
pub struct Bucket<'a> {
    /// A tenant, or what names a key of one.
    pub tenant: &'a str,
    pub unit: Unit,
    pub per_minute: NonZeroU32,
}

#[async_trait]
pub trait Rates: Send + Sync + 'static {
    /// Takes one. `None`: it was there. Otherwise nothing was taken, and after that time there is one, if nobody else of the
    /// tenant takes it. Atomic; repeated after a lost answer it takes another.
    async fn take(&self, bucket: Bucket<'_>) -> Result<Option<Duration>, StoreError>;

    /// Takes `count`, whether they are there or not; what was not has to flow back before [`Self::take`] finds one.
    async fn spend(&self, bucket: Bucket<'_>, count: u64) -> Result<(), StoreError>;

    /// How long until the bucket is full again, if nothing is taken meanwhile.
    async fn full_in(&self, bucket: Bucket<'_>) -> Result<Duration, StoreError>;
}

impl Bucket<'_> {
    /// How long `count` take to flow back, in whole µs, so that a full bucket has all that it should.
    pub fn refill(&self, count: u64) -> Duration {
        Duration::from_micros((MINUTE.as_micros() as u64).saturating_mul(count) / u64::from(self.per_minute.get()))
    }
}
