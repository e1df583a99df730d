//! What the prompt cache did in this process, and what it holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Generations, store_error};
use crate::{store::cache::CacheSize, wire::error::WireError};

/// What the id of a log that the cache may keep begins with.
pub const LOG: &str = "log_";

const REPORT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Counts {
    pub hits: AtomicU64,
    pub joined: AtomicU64,
    pub misses: AtomicU64,
}

/// Requests that were answered by a finished reply, by one that was running, by none; and the runs for the cache that are
/// in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub hits: u64,
    pub joined: u64,
    pub misses: u64,
    pub in_flight: usize,
}

impl Counts {
    /// Says what has changed every minute.
    pub fn start() -> Arc<Self> {
        let counts = Arc::new(Self::default());
        let reported = Arc::downgrade(&counts);
        tokio::spawn(async move {
            let mut last = (0, 0, 0);
            loop {
                tokio::time::sleep(REPORT).await;
                let Some(counts) = reported.upgrade() else { return };
                let now = counts.read();
                if now != last {
                    tracing::info!(hits = now.0, joined = now.1, misses = now.2, "prompt cache");
                    last = now;
                }
            }
        });
        counts
    }

    fn read(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.hits), read(&self.joined), read(&self.misses))
    }
}

impl Generations {
    /// Since this process began.
    pub fn cache_counts(&self) -> Counted {
        let (hits, joined, misses) = self.counts.read();
        let in_flight = self.running.ids().iter().filter(|id| id.starts_with(LOG)).count();
        Counted { hits, joined, misses, in_flight }
    }

    /// What is kept of a tenant, by all replicas together.
    pub async fn cache_size(&self, tenant: &str) -> Result<CacheSize, WireError> {
        self.cache.size(tenant).await.map_err(|error| store_error(error, tenant))
    }
}
