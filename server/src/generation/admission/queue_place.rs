//! What is told to who waits.

use std::time::Duration;

use tokio::time::Instant;

/// Where a waiting request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePlace {
    /// Requests that start before this one, and this one: 1 is next.
    pub position: usize,
    /// When it is expected to start.
    pub starts: Instant,
}

impl QueuePlace {
    pub fn estimated_wait(&self) -> Duration {
        self.starts.saturating_duration_since(Instant::now())
    }
}
