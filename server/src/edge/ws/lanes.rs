//! A connection's requests: one after the other in a lane, lanes side by side.

use std::collections::{HashMap, VecDeque};

use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};

use super::arrival::Arrival;
use crate::wire::{client::Target, error::WireError};

/// Lanes that have work at once; OpenAI's limit.
pub const MAX_IN_FLIGHT: usize = 16;
/// Requests that may wait in a lane.
const MAX_WAITING: usize = 64;

/// `None` is the lane of requests without a `stream_id`.
pub type Lane = Option<String>;

/// A request that takes its turn in a lane.
#[derive(Debug)]
pub enum LaneJob {
    Create(Arrival),
    Resume { target: Target, starting_after: Option<u64> },
}

/// The lanes that have work. A lane ends with its last job.
#[derive(Default)]
pub struct Lanes {
    waiting: HashMap<Lane, VecDeque<LaneJob>>,
    running: FuturesUnordered<LocalBoxFuture<'static, Lane>>,
}

impl Lanes {
    /// Adds a job to its lane; it is started by `start` now or when its turn comes.
    pub fn push(
        &mut self,
        lane: Lane,
        job: LaneJob,
        start: impl FnOnce(Lane, LaneJob) -> LocalBoxFuture<'static, Lane>,
    ) -> Result<(), WireError> {
        if let Some(waiting) = self.waiting.get_mut(&lane) {
            if waiting.len() >= MAX_WAITING {
                return Err(WireError::StreamLimit(format!("{MAX_WAITING} requests wait in this lane already.")));
            }
            waiting.push_back(job);
            return Ok(());
        }
        if self.running.len() >= MAX_IN_FLIGHT {
            return Err(WireError::StreamLimit(format!(
                "{MAX_IN_FLIGHT} streams are in flight on this connection already."
            )));
        }
        self.waiting.insert(lane.clone(), VecDeque::new());
        self.running.push(start(lane, job));
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Drives the running jobs until one ends, then starts its lane's next.
    pub async fn advance(&mut self, start: impl FnOnce(Lane, LaneJob) -> LocalBoxFuture<'static, Lane>) {
        let Some(lane) = self.running.next().await else { return };
        match self.waiting.get_mut(&lane).and_then(VecDeque::pop_front) {
            Some(job) => self.running.push(start(lane, job)),
            None => {
                self.waiting.remove(&lane);
            }
        }
    }
}
