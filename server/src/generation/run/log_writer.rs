//! The writer of one response's log: appends entries in order, and retries while the store cannot be reached or is full.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{end_hooks::EndHooks, registry::RunGuard, timeline::Timeline};
use crate::{
    clock::unix_seconds,
    engine::{Delta, Finish, GenerateRequest},
    generation::{budget::BudgetShare, create::request::request, offers::Offers},
    limits::MAX_TRIES,
    metrics::Metrics,
    store::{Entry, Header, Lease, Store, StoreError},
    wire::response::{InputTokensDetails, OutputTokensDetails, Usage},
};

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(500);

/// What every [`LogWriter`] of this replica shares.
#[derive(Clone)]
pub struct LogSink {
    pub store: Arc<dyn Store>,
    pub end_hooks: Arc<EndHooks>,
    /// The time for which an append is retried while the store cannot be reached.
    pub patience: Duration,
    /// Admits one response at a time of those whose last replica died before they made progress.
    pub suspects: Arc<Semaphore>,
    /// The name of this replica in logs and traces.
    pub replica: Arc<str>,
    /// Collects the beginnings of prompts that the engine has cached.
    pub offers: Arc<Offers>,
}

/// Appends to one log. Keeps all entries, so that it can append again what a store lost in a crash.
pub struct LogWriter {
    sink: LogSink,
    header: Arc<Header>,
    lease: Lease,
    entries: Vec<Arc<Entry>>,
    /// The number of `entries` that the store has.
    stored: usize,
    output: Vec<u32>,
    cached_tokens: u32,
    timeline: Timeline,
    /// [`EndHooks::before`] has succeeded.
    hooks_ran: bool,
    /// A client has cancelled the response, through any replica.
    pub cancelled: bool,
    /// Cancelled to stop the engine.
    pub stop: CancellationToken,
    /// Earlier attempts to run the response since the log last grew.
    pub tries: u32,
    /// The bytes of the request that the log was created for; `None` if the log was taken over.
    pub held: Option<BudgetShare>,
}

impl LogWriter {
    /// Creates a writer. `entries`: those that the store has already, if the response was taken over.
    pub fn new(sink: LogSink, header: Arc<Header>, lease: Lease, entries: Vec<Arc<Entry>>) -> Self {
        let (mut output, mut cached_tokens) = (Vec::new(), 0);
        for entry in &entries {
            if let Entry::Delta { tokens, cached_tokens: cached, .. } = &**entry {
                output.extend_from_slice(tokens);
                cached_tokens = cached.unwrap_or(cached_tokens);
            }
        }
        let replica = sink.replica.clone();
        let timeline = Timeline::new(&sink.end_hooks.metrics, replica, &header, !entries.is_empty());
        let stored = entries.len();
        Self {
            sink,
            header,
            lease,
            entries,
            stored,
            output,
            cached_tokens,
            timeline,
            hooks_ran: false,
            cancelled: false,
            stop: CancellationToken::new(),
            tries: 0,
            held: None,
        }
    }

    pub fn metrics(&self) -> &Metrics {
        &self.sink.end_hooks.metrics
    }

    /// Returns the span of this response's log lines.
    pub fn log_span(&self) -> tracing::Span {
        let Header { id, tenant, model, .. } = &*self.header;
        tracing::error_span!("response", id, tenant, model)
    }

    pub fn header(&self) -> &Arc<Header> {
        &self.header
    }

    /// Replaces the header by one that has the prompt.
    pub fn prepare(&mut self, header: Header) {
        self.header = Arc::new(header);
    }

    pub fn has_queued(&self) -> bool {
        !self.entries.is_empty()
    }

    pub fn has_started(&self) -> bool {
        self.entries.iter().any(|entry| matches!(**entry, Entry::Started))
    }

    pub fn has_ended(&self) -> bool {
        self.entries.last().is_some_and(|entry| entry.is_last())
    }

    /// Returns the engine's request. If the log has output already, the engine generates the rest. Runs on a thread that may block,
    /// because reading a large schema takes milliseconds.
    ///
    /// # Errors
    /// A text for the log. Only a panic, or a header that `create` did not make, causes an error.
    pub async fn request(&self, registration: &RunGuard) -> Result<GenerateRequest, String> {
        let (header, output, stop) = (self.header.clone(), self.output.clone(), registration.stop.clone());
        let made = tokio::task::spawn_blocking(move || request(&header, output, stop)).await;
        made.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())
    }

    /// Appends entries. Retries while the store is full, and for [`LogSink::patience`] while it cannot be reached.
    ///
    /// # Errors
    /// `Fenced` if another replica writes the log or the response was deleted; `Unavailable` after the patience.
    pub async fn append(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let (before, begun) = (self.entries.len(), Instant::now());
        self.entries.extend(entries.into_iter().map(Arc::new));
        let (mut outage, mut retry, mut paused) = (None, FIRST_RETRY, None);
        while self.stored < self.entries.len() {
            match self.write().await {
                Ok(()) => {}
                Err(StoreError::Behind(len)) if (len as usize) < self.stored => {
                    tracing::warn!(
                        response = self.header.id,
                        len,
                        stored = self.stored,
                        "the store has lost entries; writing them again"
                    );
                    self.stored = len as usize;
                }
                Err(StoreError::StoreFull(reason)) => {
                    if paused.is_none() {
                        tracing::warn!(response = self.header.id, reason, "the stream pauses until there is room");
                        paused = Some(self.metrics().paused());
                    }
                    self.check_cancelled().await?;
                    // A cancelled response ends now: `finish` appends what is not stored yet together with the last entry, which
                    // needs no room.
                    if (self.cancelled || self.stop.is_cancelled()) && !self.has_ended() {
                        break;
                    }
                    let _ = timeout(retry, self.stop.cancelled()).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
                Err(StoreError::Unavailable(reason)) => {
                    let since = *outage.get_or_insert_with(|| {
                        tracing::warn!(response = self.header.id, reason, "the log cannot be written; trying again");
                        Instant::now()
                    });
                    if since.elapsed() >= self.sink.patience {
                        return Err(StoreError::Unavailable(reason));
                    }
                    sleep(retry).await;
                    retry = LAST_RETRY.min(retry * 2);
                }
                Err(error) => return Err(error),
            }
        }
        self.timeline.appended(&self.header, self.entries.get(before..).unwrap_or_default(), begun);
        if self.has_ended() {
            self.sink.end_hooks.after(&self.header, &self.entries).await;
        }
        Ok(())
    }

    /// Appends the entries that the store does not have. Takes in the requests to cancel, and of members to leave.
    async fn write(&mut self) -> Result<(), StoreError> {
        if self.has_ended() && !self.hooks_ran {
            self.sink.end_hooks.before(&self.header, &self.entries).await?;
            self.hooks_ran = true;
        }
        let new = self.entries.get(self.stored..).unwrap_or_default();
        let appended = self.sink.store.append(&self.lease, self.stored as u64, new).await?;
        self.cancelled |= appended.cancelled;
        self.stored = self.entries.len();
        if !self.has_ended() {
            let has_left = |id: &str| {
                self.entries.iter().any(|e| matches!(&**e, Entry::MemberLeft { response, .. } if response == id))
            };
            let left: Vec<String> = appended.left.into_iter().filter(|id| !has_left(id)).collect();
            for response in left {
                let entry = Entry::MemberLeft { response, usage: self.usage(), completed_at: unix_seconds() };
                self.entries.push(Arc::new(entry));
            }
        }
        Ok(())
    }

    /// Asks a store that is full whether the response was cancelled, with an empty append.
    async fn check_cancelled(&mut self) -> Result<(), StoreError> {
        match self.sink.store.append(&self.lease, self.stored as u64, &[]).await {
            Ok(appended) => self.cancelled |= appended.cancelled,
            Err(error @ StoreError::Fenced) => return Err(error),
            // The next attempt asks again.
            Err(_) => {}
        }
        Ok(())
    }

    /// Takes in requests to the writer (cancel, leave) when there is no entry to append.
    pub async fn poll_requests(&mut self) -> Result<(), StoreError> {
        match self.write().await {
            // `append` retries.
            Ok(()) | Err(StoreError::Unavailable(_) | StoreError::StoreFull(_)) => self.append(vec![]).await,
            Err(error) => Err(error),
        }
    }

    /// Appends deltas of the engine, unless the log has ended while it waited for room.
    pub async fn append_deltas(&mut self, deltas: impl Iterator<Item = Delta>) -> Result<(), StoreError> {
        if self.has_ended() {
            return Ok(());
        }
        let (mut entries, mut is_computed) = (Vec::new(), false);
        for Delta { tokens, text, logprobs, cached_tokens, finish } in deltas {
            self.output.extend_from_slice(&tokens);
            // The engine has cached the prompt with the first token, and the output with the last one.
            is_computed |= cached_tokens.is_some() || finish.is_some() && !self.output.is_empty();
            self.cached_tokens = cached_tokens.unwrap_or(self.cached_tokens);
            if !tokens.is_empty() || !text.is_empty() {
                entries.push(Entry::Delta { tokens, text, logprobs, cached_tokens });
            }
            if let Some(finish) = finish {
                entries.push(self.last(finish));
            }
        }
        self.append(entries).await?;
        // After the append, so that no token waits for this.
        if is_computed {
            self.sink.offers.computed(&self.header, &self.output);
        }
        Ok(())
    }

    pub async fn finish(&mut self, finish: Finish) -> Result<(), StoreError> {
        self.append(vec![self.last(finish)]).await
    }

    /// Counts an attempt to run a response that was taken over. If the last replica died before the response made progress, the
    /// response may have killed it. Then this waits for a permit, and at most one such response runs at a time. The caller holds
    /// the permit until the response makes progress.
    ///
    /// # Errors
    /// `Err(None)` if this is attempt number [`MAX_TRIES`] without progress: it must not run. Else those of the store.
    pub async fn try_again(&mut self) -> Result<Option<OwnedSemaphorePermit>, Option<StoreError>> {
        if self.lease.fence == 1 {
            return Ok(None);
        }
        let permit = match self.tries {
            0 => None,
            // The semaphore is never closed.
            _ => self.sink.suspects.clone().acquire_owned().await.ok(),
        };
        let tries = self.sink.store.try_again(&self.lease).await.map_err(Some)?;
        if tries >= MAX_TRIES { Err(None) } else { Ok(permit) }
    }

    /// Releases the lease, so that another replica can claim the response.
    pub async fn release(&self) -> Result<(), StoreError> {
        self.sink.store.release(&self.lease).await
    }

    /// Removes the response from those that this replica runs. To be called after the last append.
    pub async fn close(&self) {
        // If this call fails, a sweep finds that the response does not run here.
        if let Err(error) = self.sink.store.ended(&self.lease).await {
            tracing::debug!(response = self.header.id, %error, "cannot report the end to the store; a sweep finds it");
        }
    }

    fn last(&self, finish: Finish) -> Entry {
        if let Finish::Failed(reason) = &finish {
            tracing::error!(response = self.header.id, reason, "the engine failed");
        }
        Entry::Finished { finish, usage: self.usage(), completed_at: unix_seconds() }
    }

    fn usage(&self) -> Usage {
        let (input_tokens, output_tokens) = (self.header.prompt.len() as u32, self.output.len() as u32);
        Usage {
            input_tokens,
            input_tokens_details: InputTokensDetails { cached_tokens: self.cached_tokens },
            output_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
            total_tokens: input_tokens + output_tokens,
        }
    }
}
