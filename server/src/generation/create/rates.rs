//! Rate limits of tenants and keys, per minute. The settings give the limits; the store counts for all replicas.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use crate::{
    generation::refusal::{Named, store_error},
    settings::{KeyLimits, LimitsSettings},
    store::{
        Header,
        quota::KeyQuota,
        rates::{Bucket, Rates, Unit},
    },
    wire::{
        error::{Limited, WireError},
        response::Usage,
    },
};

pub struct Quotas {
    pub limits: LimitsSettings,
    pub rates: Arc<dyn Rates>,
}

/// The key of a request, which has limits of its own.
#[derive(Debug, Clone)]
pub struct LimitedKey {
    pub id: String,
    pub limits: KeyLimits,
}

impl LimitedKey {
    /// Returns the limits that hold after the request, for the response's header.
    pub fn quota(&self) -> KeyQuota {
        let bytes = self.limits.storage_mb.map_or(u64::MAX, |mb| u64::from(mb.get()) << 20);
        KeyQuota { key: self.id.clone(), bytes, tokens_per_minute: self.limits.tokens_per_minute }
    }
}

/// The state of a limit.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    pub unit: Unit,
    /// Per minute.
    pub limit: u64,
    pub remaining: u64,
    /// Milliseconds until the whole limit is available again.
    pub reset_ms: u64,
}

/// Returns the name of a key's buckets. It contains NUL, which no tenant's name contains: settings and key files are text.
fn of_key(tenant: &str, key: &str) -> String {
    format!("{tenant}\0{key}")
}

impl Quotas {
    /// Counts a request and its first token. To be called before any other work on the request, so that a refused request costs
    /// little. The key's limits come first: a request that they refuse takes nothing from the tenant's limits.
    ///
    /// # Errors
    /// `rate_limit_exceeded` with the time to wait; those of the store.
    pub async fn enter(&self, tenant: &str, key: Option<&LimitedKey>) -> Result<(), WireError> {
        if let Some(LimitedKey { id, limits }) = key {
            let name = of_key(tenant, id);
            self.enter_one(&name, [limits.requests_per_minute, limits.tokens_per_minute], Limited::Key).await?;
        }
        let limits = [self.limits.requests_per_minute(tenant), self.limits.tokens_per_minute(tenant)];
        self.enter_one(tenant, limits, Limited::Tenant).await
    }

    async fn enter_one(
        &self,
        name: &str,
        [requests, tokens]: [Option<NonZeroU32>; 2],
        who: Limited,
    ) -> Result<(), WireError> {
        if let Some((per_minute, retry_after_ms)) = self.take(name, Unit::Requests, requests).await? {
            return Err(WireError::RequestRateExceeded { who, per_minute, retry_after_ms });
        }
        if let Some((per_minute, retry_after_ms)) = self.take(name, Unit::Tokens, tokens).await? {
            return Err(WireError::TokenRateExceeded { who, per_minute, retry_after_ms });
        }
        Ok(())
    }

    /// Charges the tokens of a response that has ended. They may exceed the rest of the limit; the tenant then waits until its
    /// bucket refills.
    pub async fn used(&self, header: &Header, usage: &Usage) {
        let tenant = &header.tenant;
        self.spend(tenant, self.limits.tokens_per_minute(tenant), usage).await;
        if let Some(KeyQuota { key, tokens_per_minute, .. }) = &header.key_quota {
            self.spend(&of_key(tenant, key), *tokens_per_minute, usage).await;
        }
    }

    async fn spend(&self, name: &str, per_minute: Option<NonZeroU32>, usage: &Usage) {
        let Some(per_minute) = per_minute else { return };
        let rest = u64::from(usage.total_tokens).saturating_sub(1);
        if let Err(error) = self.rates.spend(Bucket { tenant: name, unit: Unit::Tokens, per_minute }, rest).await {
            tracing::warn!(%error, rest, "a response's tokens were not counted");
        }
    }

    /// Returns the state of the key's limits, or of the tenant's if the key has none. Empty while the store cannot be reached.
    pub async fn left(&self, tenant: &str, key: Option<&LimitedKey>) -> Vec<Quota> {
        let mut quotas = vec![];
        for unit in [Unit::Requests, Unit::Tokens] {
            let of = |limits: &KeyLimits| match unit {
                Unit::Requests => limits.requests_per_minute,
                Unit::Tokens => limits.tokens_per_minute,
            };
            let of_tenant = match unit {
                Unit::Requests => self.limits.requests_per_minute(tenant),
                Unit::Tokens => self.limits.tokens_per_minute(tenant),
            };
            let own = key.and_then(|key| Some((of_key(tenant, &key.id), of(&key.limits)?)));
            let Some((name, per_minute)) = own.or_else(|| Some((tenant.to_owned(), of_tenant?))) else { continue };
            let bucket = Bucket { tenant: &name, unit, per_minute };
            let Ok(full_in) = self.rates.full_in(bucket).await else { continue };
            let limit = u64::from(bucket.per_minute.get());
            let used = full_in.as_micros().div_ceil(bucket.refill(1).as_micros().max(1));
            let remaining = limit.saturating_sub(u64::try_from(used).unwrap_or(u64::MAX));
            let reset_ms = u64::try_from(full_in.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
            quotas.push(Quota { unit, limit, remaining, reset_ms });
        }
        quotas
    }

    /// Takes one from a bucket. Returns `None` on success, or the limit and the milliseconds until the bucket has one again.
    async fn take(
        &self,
        name: &str,
        unit: Unit,
        per_minute: Option<NonZeroU32>,
    ) -> Result<Option<(u32, u64)>, WireError> {
        let Some(per_minute) = per_minute else { return Ok(None) };
        let wait = self.rates.take(Bucket { tenant: name, unit, per_minute }).await;
        let wait = wait.map_err(|error| store_error(error, Named::Response("new")))?;
        let millis = |wait: Duration| u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        Ok(wait.map(|wait| (per_minute.get(), millis(wait))))
    }
}
