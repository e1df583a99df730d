//! What a tenant may use in a minute: bounded by the settings, counted in the store for all replicas.

use std::{sync::Arc, time::Duration};

use super::store_error;
use crate::{
    settings::Limits,
    store::rates::{Bucket, Rates, Unit},
    wire::{error::WireError, response::Usage},
};

pub struct Quotas {
    pub limits: Limits,
    pub rates: Arc<dyn Rates>,
}

impl Quotas {
    /// Counts a request, and its first token. Before anything else, so that what is refused costs nothing but this.
    pub async fn enter(&self, tenant: &str) -> Result<(), WireError> {
        if let Some(per_minute) = self.limits.requests_per_minute(tenant)
            && let Some(wait) = self.take(Bucket { tenant, unit: Unit::Requests, per_minute }).await?
        {
            return Err(WireError::RequestRateExceeded { per_minute: per_minute.get(), retry_after_ms: millis(wait) });
        }
        if let Some(per_minute) = self.limits.tokens_per_minute(tenant)
            && let Some(wait) = self.take(Bucket { tenant, unit: Unit::Tokens, per_minute }).await?
        {
            return Err(WireError::TokenRateExceeded { per_minute: per_minute.get(), retry_after_ms: millis(wait) });
        }
        Ok(())
    }

    /// Counts what a response has used, once it is known. In the worst case that is more than there was, and the tenant waits.
    pub async fn used(&self, tenant: &str, usage: &Usage) {
        let Some(per_minute) = self.limits.tokens_per_minute(tenant) else { return };
        let rest = u64::from(usage.total_tokens).saturating_sub(1);
        if let Err(error) = self.rates.spend(Bucket { tenant, unit: Unit::Tokens, per_minute }, rest).await {
            tracing::warn!(%error, rest, "a response's tokens were not counted");
        }
    }

    async fn take(&self, bucket: Bucket<'_>) -> Result<Option<Duration>, WireError> {
        self.rates.take(bucket).await.map_err(|error| store_error(error, "new"))
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
