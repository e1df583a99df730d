//! The lanes of a connection. Requests of one lane run one after the other; lanes run concurrently.

use std::collections::{HashMap, VecDeque};

use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};

use super::arrival::Arrival;
use crate::wire::{client::Target, error::WireError};

/// Most lanes that have work at the same time; OpenAI's limit.
pub const MAX_IN_FLIGHT: usize = 16;
/// Most requests that wait in a lane.
const MAX_WAITING: usize = 64;

/// The `stream_id` of a lane; `None` for requests without one.
pub type Lane = Option<String>;

/// A request in a lane.
#[derive(Debug)]
pub enum LaneJob {
    Create(Arrival),
    Resume { target: Target, starting_after: Option<u64> },
}

/// The lanes with work. A lane is removed with its last job.
#[derive(Default)]
pub struct Lanes {
    waiting: HashMap<Lane, VecDeque<LaneJob>>,
    running: FuturesUnordered<LocalBoxFuture<'static, Lane>>,
}

impl Lanes {
    /// Adds a job to its lane. Starts it with `start` if the lane has no work; otherwise [`Self::advance`] starts it later.
    pub fn push(
        &mut self,
        lane: Lane,
        job: LaneJob,
        start: impl FnOnce(Lane, LaneJob) -> LocalBoxFuture<'static, Lane>,
    ) -> Result<(), WireError> {
        if let Some(waiting) = self.waiting.get_mut(&lane) {
            if waiting.len() >= MAX_WAITING {
                return Err(WireError::StreamLimit(format!(
                    "{MAX_WAITING} requests are waiting in this lane already. Wait until some are answered."
                )));
            }
            waiting.push_back(job);
            return Ok(());
        }
        if self.running.len() >= MAX_IN_FLIGHT {
            return Err(WireError::StreamLimit(format!(
                "{MAX_IN_FLIGHT} streams are in flight on this connection already. Wait until one has ended."
            )));
        }
        self.waiting.insert(lane.clone(), VecDeque::new());
        self.running.push(start(lane, job));
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Drives the running jobs until one ends, then starts the next job of that lane.
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
