//! The following half: reads a log and renders it, from any point, at the pace of whoever asks.

use std::{collections::VecDeque, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use tokio::time::{Instant, timeout_at};

use super::{Follower, Generations, store_error};
use crate::{
    render::Renderer,
    store::{Batch, Followed, OnDisconnect, StoreError},
    wire::{error::WireError, event::Event, response::Status},
};

/// An event with its sequence number.
type Numbered = (u64, Event);

/// A response being followed. Pull-driven: a follower that does not ask costs nothing but its place.
pub struct Follow {
    pub id: String,
    /// The conversation that it is a turn of.
    pub conversation: Option<String>,
    /// What waits in the queue and runs: the response, or the run whose log it shares.
    pub run: String,
    pub start: Start,
    /// What of the request was ignored.
    pub ignored: Vec<String>,
    batches: BoxStream<'static, Result<Batch, StoreError>>,
    renderer: Renderer,
    ready: VecDeque<Numbered>,
    after: Option<u64>,
    _followers: (Follower, Option<Follower>),
}

/// Where the response stood when following began.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub status: Status,
    pub last_sequence_number: u64,
}

impl Generations {
    /// Follows a response: every event after `after`, existing and to come, all of them with `None`. `leaving` is what
    /// the follower's disconnect means: [`OnDisconnect::Grace`] for one that can resume.
    pub async fn follow(
        &self,
        tenant: &str,
        id: &str,
        after: Option<u64>,
        leaving: OnDisconnect,
    ) -> Result<Follow, WireError> {
        let follower = self.running.follower(id, leaving);
        let Followed { header, entries, rest } = self.store.follow(tenant, id).await.map_err(|e| store_error(e, id))?;
        // Who follows a shared log keeps its run from being an orphan.
        let run = header.shows().unwrap_or(id).to_owned();
        let shared = (run != id).then(|| self.running.follower(&run, leaving));
        let (conversation, ignored) = (header.create.conversation.clone(), header.create.ignored.clone());
        let (mut renderer, mut ready) = (Renderer::new(header), VecDeque::new());
        let mut start = Start { status: Status::InProgress, last_sequence_number: 0 };
        let mut keep = |number, event: Event| {
            start.last_sequence_number = number;
            start.status = status(&event).unwrap_or(start.status);
            keep_after(after, &mut ready, (number, event));
        };
        renderer.begin(&mut keep);
        entries.iter().for_each(|entry| renderer.entry(entry, &mut keep));
        let id = id.to_owned();
        let mut follow = Follow {
            id,
            conversation,
            ignored,
            run,
            start,
            batches: rest,
            renderer,
            ready,
            after,
            _followers: (follower, shared),
        };
        follow.reach_start().await?;
        Ok(follow)
    }
}

/// How long a follower waits for the event that it wants to start after. What a store lost in a crash is written again
/// within this time.
const CATCH_UP: Duration = Duration::from_secs(2);

fn status(event: &Event) -> Option<Status> {
    match event {
        Event::Created { response }
        | Event::Queued { response }
        | Event::InProgress { response }
        | Event::Completed { response }
        | Event::Incomplete { response }
        | Event::Failed { response } => Some(response.status),
        _ => None,
    }
}

fn keep_after(after: Option<u64>, ready: &mut VecDeque<Numbered>, numbered: Numbered) {
    if after.is_none_or(|after| numbered.0 > after) {
        ready.push_back(numbered);
    }
}

impl Follow {
    /// Makes sure that there is an event with the number `after`: a follower that waits for a number which never comes
    /// would not even see the end.
    async fn reach_start(&mut self) -> Result<(), WireError> {
        let Some(after) = self.after else { return Ok(()) };
        let deadline = Instant::now() + CATCH_UP;
        let mut last = self.start.last_sequence_number;
        while last < after {
            let Ok(Some(batch)) = timeout_at(deadline, self.batches.next()).await else {
                let message = format!("'starting_after' is {after}, and the last event so far is {last}.");
                return Err(WireError::invalid("starting_after", message));
            };
            let batch = batch.map_err(|error| store_error(error, &self.id))?;
            let ready = &mut self.ready;
            let mut keep = |number, event| {
                last = number;
                keep_after(Some(after), ready, (number, event));
            };
            batch.entries.iter().for_each(|entry| self.renderer.entry(entry, &mut keep));
        }
        Ok(())
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Numbered, WireError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            match self.batches.next().await? {
                Ok(batch) => {
                    let (after, ready) = (self.after, &mut self.ready);
                    let mut keep = |number, event| keep_after(after, ready, (number, event));
                    batch.entries.iter().for_each(|entry| self.renderer.entry(entry, &mut keep));
                }
                Err(error) => return Some(Err(store_error(error, &self.id))),
            }
        }
    }
}
