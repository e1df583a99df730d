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

/// What is left of a limit.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    pub unit: Unit,
    /// Per minute.
    pub limit: u64,
    pub remaining: u64,
    /// Until all of it is there again.
    pub reset_ms: u64,
}

impl Quotas {
    /// Counts a request, and its first token. Before anything else, so that what is refused costs nothing but this.
    pub async fn enter(&self, tenant: &str) -> Result<(), WireError> {
        if let Some((per_minute, retry_after_ms)) = self.take(tenant, Unit::Requests).await? {
            return Err(WireError::RequestRateExceeded { per_minute, retry_after_ms });
        }
        if let Some((per_minute, retry_after_ms)) = self.take(tenant, Unit::Tokens).await? {
            return Err(WireError::TokenRateExceeded { per_minute, retry_after_ms });
        }
        Ok(())
    }

    /// Counts what a response has used, once it is known. In the worst case that is more than there was, and the tenant waits.
    pub async fn used(&self, tenant: &str, usage: &Usage) {
        let Some(bucket) = self.bucket(tenant, Unit::Tokens) else { return };
        let rest = u64::from(usage.total_tokens).saturating_sub(1);
        if let Err(error) = self.rates.spend(bucket, rest).await {
            tracing::warn!(%error, rest, "a response's tokens were not counted");
        }
    }

    /// What is left of a tenant's limits; empty for a tenant without, or while the store cannot be reached.
    pub async fn left(&self, tenant: &str) -> Vec<Quota> {
        let mut quotas = vec![];
        for unit in [Unit::Requests, Unit::Tokens] {
            let Some(bucket) = self.bucket(tenant, unit) else { continue };
            let Ok(full_in) = self.rates.full_in(bucket).await else { continue };
            let limit = u64::from(bucket.per_minute.get());
            let used = full_in.as_micros().div_ceil(bucket.refill(1).as_micros().max(1));
            let remaining = limit.saturating_sub(u64::try_from(used).unwrap_or(u64::MAX));
            let reset_ms = u64::try_from(full_in.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
            quotas.push(Quota { unit, limit, remaining, reset_ms });
        }
        quotas
    }

    /// The limit and how many ms until there is one again, where there is none.
    async fn take(&self, tenant: &str, unit: Unit) -> Result<Option<(u32, u64)>, WireError> {
        let Some(bucket) = self.bucket(tenant, unit) else { return Ok(None) };
        let wait = self.rates.take(bucket).await.map_err(|error| store_error(error, "new"))?;
        let millis = |wait: Duration| u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        Ok(wait.map(|wait| (bucket.per_minute.get(), millis(wait))))
    }

    fn bucket<'t>(&self, tenant: &'t str, unit: Unit) -> Option<Bucket<'t>> {
        let per_minute = match unit {
            Unit::Requests => self.limits.requests_per_minute(tenant),
            Unit::Tokens => self.limits.tokens_per_minute(tenant),
        };
        Some(Bucket { tenant, unit, per_minute: per_minute? })
    }
}
