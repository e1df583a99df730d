//! The writer of one response's log: appends in order, with patience while the store cannot be reached.

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

/// What logs are written with.
#[derive(Clone)]
pub struct LogSink {
    pub store: Arc<dyn Store>,
    pub endings: Arc<EndHooks>,
    /// How long an append waits for a store that cannot be reached.
    pub patience: Duration,
    /// Admits one at a time the responses whose last replicas died without progress.
    pub suspects: Arc<Semaphore>,
    /// Who writes, for operators.
    pub replica: Arc<str>,
    /// Is told what is cached.
    pub offers: Arc<Offers>,
}

/// Everything that was written, so that what a store loses in a crash can be written again.
pub struct LogWriter {
    writing: LogSink,
    header: Arc<Header>,
    lease: Lease,
    entries: Vec<Arc<Entry>>,
    /// Of `entries`, those that the store has.
    stored: usize,
    output: Vec<u32>,
    cached_tokens: u32,
    timeline: Timeline,
    /// What ends with the response was told before its last entry.
    told: bool,
    /// Somebody asked for the end, on whatever replica.
    pub cancelled: bool,
    /// Cancelled when the engine is to stop.
    pub stop: CancellationToken,
    /// Attempts to run the response since the log last grew, before this one.
    pub tries: u32,
    /// The bytes of the request that the log was created for; none of a log that was taken over.
    pub held: Option<BudgetShare>,
}

impl LogWriter {
    /// A log that has `entries` already when the response was taken over.
    pub fn new(writing: LogSink, header: Arc<Header>, lease: Lease, entries: Vec<Arc<Entry>>) -> Self {
        let (mut output, mut cached_tokens) = (Vec::new(), 0);
        for entry in &entries {
            if let Entry::Delta { tokens, cached_tokens: cached, .. } = &**entry {
                output.extend_from_slice(tokens);
                cached_tokens = cached.unwrap_or(cached_tokens);
            }
        }
        let replica = writing.replica.clone();
        let timeline = Timeline::new(&writing.endings.metrics, replica, &header, !entries.is_empty());
        let stored = entries.len();
        Self {
            writing,
            header,
            lease,
            entries,
            stored,
            output,
            cached_tokens,
            timeline,
            told: false,
            cancelled: false,
            stop: CancellationToken::new(),
            tries: 0,
            held: None,
        }
    }

    pub fn metrics(&self) -> &Metrics {
        &self.writing.endings.metrics
    }

    /// What lines of the log are said of.
    pub fn log_span(&self) -> tracing::Span {
        let Header { id, tenant, model, .. } = &*self.header;
        tracing::error_span!("response", id, tenant, model)
    }

    pub fn header(&self) -> &Arc<Header> {
        &self.header
    }

    /// Fills in what the header could not know when the response was created.
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

    /// What the engine is to generate: the rest, if there is output already. Made on a thread that may block: a large schema
    /// takes milliseconds to read.
    ///
    /// # Errors
    /// None for a header that `create` made, unless the making panics. For the log.
    pub async fn request(&self, registration: &RunGuard) -> Result<GenerateRequest, String> {
        let (header, output, stop) = (self.header.clone(), self.output.clone(), registration.stop.clone());
        let made = tokio::task::spawn_blocking(move || request(&header, output, stop)).await;
        made.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())
    }

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
                    self.ask().await?;
                    // What is not stored yet goes with the last entry, which needs no room.
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
                    if since.elapsed() >= self.writing.patience {
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
            self.writing.endings.after(&self.header, &self.entries).await;
        }
        Ok(())
    }

    /// Appends what the store has not yet, and learns what was asked of the writer.
    async fn write(&mut self) -> Result<(), StoreError> {
        if self.has_ended() && !self.told {
            self.writing.endings.before(&self.header, &self.entries).await?;
            self.told = true;
        }
        let new = self.entries.get(self.stored..).unwrap_or_default();
        let appended = self.writing.store.append(&self.lease, self.stored as u64, new).await?;
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

    /// Learns whether the end was asked for while the store takes no entries.
    async fn ask(&mut self) -> Result<(), StoreError> {
        match self.writing.store.append(&self.lease, self.stored as u64, &[]).await {
            Ok(appended) => self.cancelled |= appended.cancelled,
            Err(error @ StoreError::Fenced) => return Err(error),
            // The next attempt finds out.
            Err(_) => {}
        }
        Ok(())
    }

    /// Does what was asked of the writer without having anything to append.
    pub async fn look(&mut self) -> Result<(), StoreError> {
        match self.write().await {
            // The next append learns of it too.
            Ok(()) | Err(StoreError::Unavailable(_) | StoreError::StoreFull(_)) => self.append(vec![]).await,
            Err(error) => Err(error),
        }
    }

    /// Appends what the engine said, unless the log was ended while it waited for room.
    pub async fn append_deltas(&mut self, deltas: impl Iterator<Item = Delta>) -> Result<(), StoreError> {
        if self.has_ended() {
            return Ok(());
        }
        let (mut entries, mut is_computed) = (Vec::new(), false);
        for Delta { tokens, text, logprobs, cached_tokens, finish } in deltas {
            self.output.extend_from_slice(&tokens);
            // The prompt is cached when the first token is there, and the output too when the last one is.
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
        // No token waits for this.
        if is_computed {
            self.writing.offers.computed(&self.header, &self.output);
        }
        Ok(())
    }

    pub async fn finish(&mut self, finish: Finish) -> Result<(), StoreError> {
        self.append(vec![self.last(finish)]).await
    }

    /// Counts an attempt to run a response that was taken over. A response whose last attempt killed its replica, or fell with
    /// it, goes on alone: what this returns is held until there is progress.
    ///
    /// # Errors
    /// `Err(None)` when the response was tried too often; else those of the store.
    pub async fn try_again(&mut self) -> Result<Option<OwnedSemaphorePermit>, Option<StoreError>> {
        if self.lease.fence == 1 {
            return Ok(None);
        }
        let alone = match self.tries {
            0 => None,
            // The semaphore is never closed.
            _ => self.writing.suspects.clone().acquire_owned().await.ok(),
        };
        let tries = self.writing.store.try_again(&self.lease).await.map_err(Some)?;
        if tries >= MAX_TRIES { Err(None) } else { Ok(alone) }
    }

    /// Gives the response to whoever claims it.
    pub async fn release(&self) -> Result<(), StoreError> {
        self.writing.store.release(&self.lease).await
    }

    /// To be called when nothing more will be appended.
    pub async fn close(&self) {
        // What cannot be said now is found out at a sweep.
        if let Err(error) = self.writing.store.ended(&self.lease).await {
            tracing::debug!(response = self.header.id, %error, "the end could not be said");
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
