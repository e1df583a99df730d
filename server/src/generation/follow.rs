//! Followers: read a log from any event and render it, at the pace of the reader.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use tokio::time::{Instant, timeout_at};

use super::{
    Generations,
    budget::BudgetShare,
    refusal::{Named, store_error},
    run::registry::FollowerGuard,
};
use crate::{
    limits::{FOLLOWS_OF_TENANT, HELD_RETRY_MS, RENDERED_BESIDE_ENTRIES},
    render::Renderer,
    store::{Entry, EntryBatch, Followed, Header, OnDisconnect, StoreError},
    wire::{error::WireError, event::Event, response::Status},
};

/// An event with its sequence number.
type Numbered = (u64, Event);

/// A follower of a response. It reads and renders only when [`Follow::next`] is called.
pub struct Follow {
    pub id: String,
    /// The conversation that the response is a turn of.
    pub conversation: Option<String>,
    /// The id that waits in the queue and runs: the response, or the run whose log the response shares.
    pub run: String,
    pub start: Start,
    /// Parts of the request that the server accepted and ignored.
    pub ignored: Vec<String>,
    batches: BoxStream<'static, Result<EntryBatch, StoreError>>,
    renderer: Renderer,
    /// Entries that were read and are not rendered yet.
    unread: VecDeque<Arc<Entry>>,
    /// The events of the entry that was rendered last.
    ready: VecDeque<Numbered>,
    after: Option<u64>,
    /// A share of the tenant's streams, and the bytes of the header if this follower has its own copy.
    _held: (BudgetShare, Option<BudgetShare>),
    _followers: (FollowerGuard, Option<FollowerGuard>),
}

/// The state of the response when the follower began.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub status: Status,
    pub last_sequence_number: u64,
}

impl Generations {
    /// Follows a response: all existing and later events after the number `after`, or all events for `None`. `leaving` says what a
    /// disconnect of the follower does to the generation: [`OnDisconnect::Grace`] for a client that can resume.
    ///
    /// # Errors
    /// Those of the store; `rate_limit_exceeded` if the tenant follows too many streams; `invalid_request` if the log does not
    /// reach the event `after` within two seconds.
    pub async fn follow(
        &self,
        tenant: &str,
        id: &str,
        after: Option<u64>,
        leaving: OnDisconnect,
    ) -> Result<Follow, WireError> {
        let held = self.hold_follow(tenant)?;
        let follower = self.running.follower(id, leaving);
        let followed = self.store.follow(tenant, id).await.map_err(|e| store_error(e, Named::Response(id)))?;
        let Followed { header, entries, more, rest } = followed;
        // A follower of a shared log also follows the run that writes it, so that the run is no orphan.
        let run = header.shared_log().unwrap_or(id).to_owned();
        let shared = (run != id).then(|| self.running.follower(&run, leaving));
        let (conversation, ignored) = (header.spec.conversation.clone(), header.spec.ignored.clone());
        // A client that can resume gets the log's state, and `reach_start` compares `after` with the last event.
        let start = match after.is_some() || leaving >= OnDisconnect::Grace {
            true if more => self.measure_all(tenant, id).await?,
            true => self.measure(&header, &entries).await?,
            false => Start::default(),
        };
        // No event shows the input or the prompt, which may be megabytes.
        let (header, copied) = match Arc::try_unwrap(header) {
            Ok(own) => {
                let own = without_input(own);
                let copied = self.hold_request(&own)?;
                (Arc::new(own), Some(copied))
            }
            Err(shared) => (shared, None),
        };
        let (mut renderer, mut ready) = (Renderer::new(header), VecDeque::new());
        renderer.begin(&mut |number, event| push_if_after(after, &mut ready, (number, event)));
        let id = id.to_owned();
        let mut follow = Follow {
            id,
            conversation,
            ignored,
            run,
            start,
            batches: rest,
            renderer,
            unread: entries.into(),
            ready,
            after,
            _held: (held, copied),
            _followers: (follower, shared),
        };
        follow.reach_start().await?;
        Ok(follow)
    }

    /// Counts a stream that a tenant follows.
    fn hold_follow(&self, tenant: &str) -> Result<BudgetShare, WireError> {
        self.follows.of(tenant).hold(1).ok_or_else(|| {
            let refused = WireError::TooManyFollows { most: FOLLOWS_OF_TENANT, retry_after_ms: HELD_RETRY_MS };
            self.metrics.refused(&refused);
            refused
        })
    }

    /// Finds the state of a log that is too long to read at once: reads it batch by batch, renders each batch and drops the events.
    async fn measure_all(&self, tenant: &str, id: &str) -> Result<Start, WireError> {
        let failed = |error| store_error(error, Named::Response(id));
        let Followed { header, entries, mut more, mut rest } = self.store.follow(tenant, id).await.map_err(failed)?;
        let mut measure = Measure::new(header);
        measure.add(&entries);
        while more {
            let Some(batch) = rest.next().await else { break };
            let batch = batch.map_err(failed)?;
            measure.add(&batch.entries);
            more = batch.more;
        }
        Ok(measure.start)
    }

    /// Finds the state of a log: renders its entries and drops the events.
    async fn measure(&self, header: &Arc<Header>, entries: &[Arc<Entry>]) -> Result<Start, WireError> {
        if entries.len() < RENDERED_BESIDE_ENTRIES {
            return Ok(measure(header, entries));
        }
        let (header, entries) = (header.clone(), entries.to_vec());
        // Off the connection's thread: a long log takes milliseconds of computation.
        self.runtime.spawn_blocking(move || measure(&header, &entries)).await.map_err(|error| {
            tracing::error!(%error, "rendering a log panicked");
            WireError::EngineFailed
        })
    }
}

fn measure(header: &Arc<Header>, entries: &[Arc<Entry>]) -> Start {
    let mut measure = Measure::new(header.clone());
    measure.add(entries);
    measure.start
}

/// Finds the state of a log.
struct Measure {
    renderer: Renderer,
    start: Start,
}

impl Measure {
    fn new(header: Arc<Header>) -> Self {
        let (mut renderer, mut start) = (Renderer::new(header), Start::default());
        renderer.begin(&mut |number, event| start.pass(number, &event));
        Self { renderer, start }
    }

    fn add(&mut self, entries: &[Arc<Entry>]) {
        let Self { renderer, start } = self;
        entries.iter().for_each(|entry| renderer.entry(entry, &mut |number, event| start.pass(number, &event)));
    }
}

impl Default for Start {
    fn default() -> Self {
        Self { status: Status::InProgress, last_sequence_number: 0 }
    }
}

impl Start {
    fn pass(&mut self, number: u64, event: &Event) {
        self.last_sequence_number = number;
        self.status = status(event).unwrap_or(self.status);
    }
}

/// Removes from a header what no event shows.
fn without_input(mut header: Header) -> Header {
    header.prompt = vec![];
    header.spec.input = vec![];
    header
}

/// The time for which a follower waits for the event that it starts after. Within this time the writer appends again what a store lost in a
/// crash.
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

fn push_if_after(after: Option<u64>, ready: &mut VecDeque<Numbered>, numbered: Numbered) {
    if after.is_none_or(|after| numbered.0 > after) {
        ready.push_back(numbered);
    }
}

impl Follow {
    /// Waits until the log has an event with the number `after`. Without this check a follower with a number that never comes would
    /// wait for ever and miss the end.
    async fn reach_start(&mut self) -> Result<(), WireError> {
        let Some(after) = self.after else { return Ok(()) };
        let deadline = Instant::now() + CATCH_UP;
        let mut last = self.start.last_sequence_number;
        while last < after {
            let Ok(Some(batch)) = timeout_at(deadline, self.batches.next()).await else {
                let message = format!("'starting_after' is {after}, and the last event so far is {last}.");
                return Err(WireError::invalid("starting_after", message));
            };
            let batch = batch.map_err(|error| store_error(error, Named::Response(&self.id)))?;
            self.unread.extend(batch.entries);
            while let Some(number) = self.render_next() {
                last = number.max(last);
            }
        }
        Ok(())
    }

    /// Renders the next unread entry. Returns the number of its last event, or 0 if it has no event; `None` if no entry is unread.
    fn render_next(&mut self) -> Option<u64> {
        let entry = self.unread.pop_front()?;
        let (after, ready, mut last) = (self.after, &mut self.ready, 0);
        self.renderer.entry(&entry, &mut |number, event| {
            last = number;
            push_if_after(after, ready, (number, event));
        });
        Some(last)
    }

    /// Waits for the next event. Returns `None` after the last one.
    pub async fn next(&mut self) -> Option<Result<Numbered, WireError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.render_next().is_some() {
                continue;
            }
            match self.batches.next().await? {
                Ok(batch) => self.unread.extend(batch.entries),
                Err(error) => return Some(Err(store_error(error, Named::Response(&self.id)))),
            }
        }
    }
}
