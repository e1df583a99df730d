//! What this replica does and did: for operators.

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

/// What the id of a log that the cache may keep begins with.
pub const LOG: &str = "log_";

const REPORT: Duration = Duration::from_secs(60);

/// Requests that were answered by a finished reply, by one that was running, by none; and the runs for the cache that are
/// in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub hits: u64,
    pub joined: u64,
    pub misses: u64,
    pub in_flight: usize,
}

/// Says every minute what the prompt cache did, where that has changed.
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
    /// Counts, times and loads as OpenMetrics text.
    pub async fn metrics_text(&self, tenants: &BTreeSet<String>) -> String {
        let sizes = join_all(tenants.iter().map(|tenant| self.cache.size(tenant))).await;
        // A size that cannot be asked for now leaves the last one in place.
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

    /// Since this process began.
    pub fn cache_counts(&self) -> Counted {
        let (hits, joined, misses) = answers(&self.metrics);
        let in_flight = self.running.ids().iter().filter(|id| id.starts_with(LOG)).count();
        Counted { hits, joined, misses, in_flight }
    }

    /// What is kept of a tenant, by all replicas together.
    pub async fn cache_size(&self, tenant: &str) -> Result<CacheSize, WireError> {
        self.cache.size(tenant).await.map_err(|error| store_error(error, Named::Response(tenant)))
    }
}
