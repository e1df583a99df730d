//! The place in the queue that clients are shown.

use std::time::Duration;

use tokio::time::Instant;

/// The place of a waiting request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePlace {
    /// The position in the order of starts: 1 is next.
    pub position: usize,
    /// When the request is expected to start.
    pub starts: Instant,
}

impl QueuePlace {
    pub fn estimated_wait(&self) -> Duration {
        self.starts.saturating_duration_since(Instant::now())
    }
}
