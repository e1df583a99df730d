//! The writer of one response's log: appends in order, with patience while the store cannot be reached.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{clock::unix_seconds, running::Registration};
use crate::{
    engine::{Delta, Finish, GenerateRequest, Sampling},
    store::{Entry, Header, Lease, Store, StoreError},
    wire::response::{InputTokensDetails, OutputTokensDetails, Usage},
};

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(500);

/// Everything that was written, so that what a store loses in a crash can be written again.
pub struct Log {
    store: Arc<dyn Store>,
    header: Arc<Header>,
    lease: Lease,
    /// How long an append waits for a store that cannot be reached.
    patience: Duration,
    entries: Vec<Arc<Entry>>,
    /// Of `entries`, those that the store has.
    stored: usize,
    output: Vec<u32>,
    cached_tokens: u32,
    /// Somebody asked for the end, on whatever replica.
    pub cancelled: bool,
}

impl Log {
    /// A log that has `entries` already when the response was taken over.
    pub fn new(
        store: Arc<dyn Store>,
        header: Arc<Header>,
        lease: Lease,
        entries: Vec<Arc<Entry>>,
        patience: Duration,
    ) -> Self {
        let (mut output, mut cached_tokens) = (Vec::new(), 0);
        for entry in &entries {
            if let Entry::Delta { tokens, cached_tokens: cached, .. } = &**entry {
                output.extend_from_slice(tokens);
                cached_tokens = cached.unwrap_or(cached_tokens);
            }
        }
        let stored = entries.len();
        Self { store, header, lease, patience, entries, stored, output, cached_tokens, cancelled: false }
    }

    pub fn header(&self) -> &Header {
        &self.header
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

    /// What the engine is to generate: the rest, when there is output already.
    pub fn request(&self, registration: &Registration) -> GenerateRequest {
        let create = &self.header.create;
        GenerateRequest {
            prompt: self.header.prompt.clone(),
            scope: self.header.tenant.as_str().into(),
            output: self.output.clone(),
            sampling: Sampling {
                temperature: create.temperature.unwrap_or(1.0),
                top_p: create.top_p.unwrap_or(1.0),
                top_k: create.top_k,
                min_p: create.min_p.unwrap_or(0.0),
                frequency_penalty: create.frequency_penalty,
                presence_penalty: create.presence_penalty,
                repetition_penalty: create.repetition_penalty.unwrap_or(1.0),
                logit_bias: create.logit_bias.clone(),
                seed: self.header.seed,
            },
            stop: create.stop.clone(),
            grammar: None,
            logprobs: None,
            max_output_tokens: self.header.max_output_tokens,
            cancel: registration.stop.clone(),
        }
    }

    pub async fn append(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.entries.extend(entries.into_iter().map(Arc::new));
        let (mut outage, mut retry) = (None, FIRST_RETRY);
        while let Some(new) = self.entries.get(self.stored..).filter(|new| !new.is_empty()) {
            match self.store.append(&self.lease, self.stored as u64, new).await {
                Ok(appended) => {
                    self.cancelled |= appended.cancelled;
                    self.stored = self.entries.len();
                }
                Err(StoreError::Behind(len)) if (len as usize) < self.stored => {
                    tracing::warn!(
                        response = self.header.id,
                        len,
                        stored = self.stored,
                        "the store has lost entries; writing them again"
                    );
                    self.stored = len as usize;
                }
                Err(StoreError::Unavailable(reason)) => {
                    let since = *outage.get_or_insert_with(|| {
                        tracing::warn!(response = self.header.id, reason, "the log cannot be written; trying again");
                        Instant::now()
                    });
                    if since.elapsed() >= self.patience {
                        return Err(StoreError::Unavailable(reason));
                    }
                    sleep(retry).await;
                    retry = LAST_RETRY.min(retry * 2);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub async fn append_deltas(&mut self, deltas: impl Iterator<Item = Delta>) -> Result<(), StoreError> {
        let mut entries = Vec::new();
        for Delta { tokens, text, logprobs, cached_tokens, finish } in deltas {
            self.output.extend_from_slice(&tokens);
            self.cached_tokens = cached_tokens.unwrap_or(self.cached_tokens);
            if !tokens.is_empty() || !text.is_empty() {
                entries.push(Entry::Delta { tokens, text, logprobs, cached_tokens });
            }
            if let Some(finish) = finish {
                entries.push(self.last(finish));
            }
        }
        self.append(entries).await
    }

    pub async fn finish(&mut self, finish: Finish) -> Result<(), StoreError> {
        self.append(vec![self.last(finish)]).await
    }

    /// Gives the response to whoever claims it.
    pub async fn release(&self) -> Result<(), StoreError> {
        self.store.release(&self.lease).await
    }

    /// To be called when nothing more will be appended.
    pub async fn close(&self) {
        // What cannot be said now is found out at a sweep.
        if let Err(error) = self.store.ended(&self.lease).await {
            tracing::debug!(response = self.header.id, %error, "the end could not be said");
        }
    }

    fn last(&self, finish: Finish) -> Entry {
        if let Finish::Failed(reason) = &finish {
            tracing::error!(response = self.header.id, reason, "the engine failed");
        }
        let (input_tokens, output_tokens) = (self.header.prompt.len() as u32, self.output.len() as u32);
        let usage = Usage {
            input_tokens,
            input_tokens_details: InputTokensDetails { cached_tokens: self.cached_tokens },
            output_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
            total_tokens: input_tokens + output_tokens,
        };
        Entry::Finished { finish, usage, completed_at: unix_seconds() }
    }
}
