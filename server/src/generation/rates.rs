//! How often a tenant may create responses: bounded by the settings, counted in the store for all replicas.

use super::{Generations, store_error};
use crate::wire::error::WireError;

impl Generations {
    /// Counts a request. Before anything else, so that what is refused costs nothing but this.
    pub(super) async fn count_request(&self, tenant: &str) -> Result<(), WireError> {
        let Some(per_minute) = self.limits.requests_per_minute(tenant) else { return Ok(()) };
        match self.rates.take(tenant, per_minute).await.map_err(|error| store_error(error, "new"))? {
            None => Ok(()),
            Some(wait) => Err(WireError::RequestRateExceeded {
                per_minute: per_minute.get(),
                retry_after_ms: u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX),
            }),
        }
    }
}
