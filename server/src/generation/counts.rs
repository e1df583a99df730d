//! Counts and loads of this replica, for operators.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;

use super::{
    Generations,
    refusal::{Named, store_error},
};
use crate::{
    metrics::{Load, Metrics},
    store::cache::CacheSize,
    wire::error::WireError,
};

/// The prefix of the id of a log that the prompt cache may keep.
pub const LOG: &str = "log_";

const REPORT: Duration = Duration::from_secs(60);

/// Counts of the prompt cache since this process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Requests that were answered from a complete log.
    pub hits: u64,
    /// Requests that joined a log that was still being written.
    pub joined: u64,
    /// Requests that found no log.
    pub misses: u64,
    /// Runs of the cache that are active now.
    pub in_flight: usize,
}

/// Logs the counts of the prompt cache every minute if they have changed.
pub fn report(metrics: &Arc<Metrics>) {
    let metrics = Arc::downgrade(metrics);
    tokio::spawn(async move {
        let mut last = (0, 0, 0);
        loop {
            tokio::time::sleep(REPORT).await;
            let Some(metrics) = metrics.upgrade() else { return };
            let now = answers(&metrics);
            if now != last {
                tracing::info!(hits = now.0, joined = now.1, misses = now.2, "prompt cache");
                last = now;
            }
        }
    });
}

fn answers(metrics: &Metrics) -> (u64, u64, u64) {
    let counts = &metrics.prompt_cache;
    (counts.hits.get(), counts.joined.get(), counts.misses.get())
}

impl Generations {
    /// Returns counts, times and loads as OpenMetrics text. `tenants`: those whose prompt caches are summed up.
    pub async fn metrics_text(&self, tenants: &BTreeSet<String>) -> String {
        let sizes = join_all(tenants.iter().map(|tenant| self.cache.size(tenant))).await;
        // If the store cannot be reached, the gauge keeps its last value.
        if let Ok(sizes) = sizes.into_iter().collect::<Result<Vec<_>, _>>() {
            let bytes: u64 = sizes.iter().map(|size| size.bytes).sum();
            self.metrics.prompt_cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let models = self.engine.status().into_iter().map(|status| {
            let (running, waiting) = self.admission.load(&status.id);
            let most = self.engine.capacity(&status.id).sequences;
            let kv = self.engine.kv_blocks(&status.id);
            let fetched = self.engine.fetched_tokens(&status.id);
            Load { model: status.id, most, running, waiting, kv, fetched }
        });
        self.metrics.text(models)
    }

    /// Returns the counts of the prompt cache since this process began.
    pub fn cache_counts(&self) -> Counted {
        let (hits, joined, misses) = answers(&self.metrics);
        let in_flight = self.running.ids().iter().filter(|id| id.starts_with(LOG)).count();
        Counted { hits, joined, misses, in_flight }
    }

    /// Returns the size of a tenant's prompt cache, which all replicas share.
    pub async fn cache_size(&self, tenant: &str) -> Result<CacheSize, WireError> {
        self.cache.size(tenant).await.map_err(|error| store_error(error, Named::Response(tenant)))
    }
}
