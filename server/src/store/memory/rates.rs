//! The rates of a single process.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use crate::store::{
    StoreError,
    rates::{MINUTE, Rates, interval},
};

/// When each tenant's bucket will be full again. Tenants are those of the settings, and no more.
#[derive(Default)]
pub struct MemoryRates(Mutex<HashMap<String, Instant>>);

#[async_trait]
impl Rates for MemoryRates {
    async fn take(&self, tenant: &str, per_minute: NonZeroU32) -> Result<Option<Duration>, StoreError> {
        let mut tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let full = tenants.entry(tenant.to_owned()).or_insert(now);
        let then = (*full).max(now) + interval(per_minute);
        match (then - now).checked_sub(MINUTE).filter(|wait| !wait.is_zero()) {
            None => *full = then,
            wait => return Ok(wait),
        }
        Ok(None)
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
