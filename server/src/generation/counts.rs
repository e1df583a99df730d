//! What the prompt cache did in this process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::store::cache::CacheSize;

const REPORT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Counts {
    pub hits: AtomicU64,
    pub joined: AtomicU64,
    pub misses: AtomicU64,
    bytes: AtomicU64,
    evicted: AtomicU64,
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
                let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
                let now = (get(&counts.hits), get(&counts.joined), get(&counts.misses));
                if now != last {
                    let (bytes, evicted) = (get(&counts.bytes), get(&counts.evicted));
                    tracing::info!(hits = now.0, joined = now.1, misses = now.2, bytes, evicted, "prompt cache");
                    last = now;
                }
            }
        });
        counts
    }

    pub fn size(&self, size: CacheSize) {
        self.bytes.store(size.bytes, Ordering::Relaxed);
        self.evicted.store(size.evicted, Ordering::Relaxed);
    }
}
