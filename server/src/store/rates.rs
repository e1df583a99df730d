//! How often tenants ask, counted for a whole fleet. This module owns the contract; `memory` and `redis` count.

use std::{num::NonZeroU32, time::Duration};

use async_trait::async_trait;

use super::StoreError;

/// What a bucket holds: a minute's requests.
pub const MINUTE: Duration = Duration::from_secs(60);

/// A bucket for each tenant, full at first, that gives a minute's requests at once and fills again evenly.
#[async_trait]
pub trait Rates: Send + Sync + 'static {
    /// Takes a request from the tenant's bucket. `None`: it may be served. Otherwise nothing was taken, and after that
    /// time there is one, if nobody else of the tenant takes it. Atomic; repeated after a lost answer it takes another.
    async fn take(&self, tenant: &str, per_minute: NonZeroU32) -> Result<Option<Duration>, StoreError>;
}

/// How long a request takes to flow back into the bucket, in whole µs, so that a full bucket has all of its requests.
pub fn interval(per_minute: NonZeroU32) -> Duration {
    Duration::from_micros(MINUTE.as_micros() as u64 / u64::from(per_minute.get()))
}
