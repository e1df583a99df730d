//! The producing half: takes its turn, runs the engine, appends what it says to the log. Waits for the store and for
//! nothing else; knows no follower.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;

use super::{admission::Ticket, clock::unix_seconds, request::request, running::Registration};
use crate::{
    engine::{Delta, Engine, Finish},
    store::{Entry, Header, Store, StoreError},
    wire::response::{InputTokensDetails, OutputTokensDetails, Usage},
};

/// Deltas taken from the engine at once; what arrives while an append is in flight goes together into the next.
const BATCH: usize = 256;

pub struct Job {
    pub engine: Arc<dyn Engine>,
    pub store: Arc<dyn Store>,
    pub header: Header,
    pub ticket: Ticket,
    pub registration: Registration,
}

/// Appends entries in order.
struct Log<'a> {
    store: &'a dyn Store,
    header: &'a Header,
    next: u64,
    output_tokens: u32,
    cached_tokens: u32,
}

impl Job {
    pub async fn run(mut self) {
        let mut log = Log { store: &*self.store, header: &self.header, next: 0, output_tokens: 0, cached_tokens: 0 };
        let generate = Self::generate(&*self.engine, &mut self.ticket, &self.registration, &mut log);
        let outcome = match AssertUnwindSafe(generate).catch_unwind().await {
            Ok(outcome) => outcome,
            // Whatever broke, followers are not left waiting for an end that never comes.
            Err(_) => log.finish(Finish::Failed("the generation panicked".into())).await,
        };
        // Fenced: the response was deleted, and nobody is to see more of it.
        if let Err(error) = outcome {
            tracing::info!(response = self.header.id, %error, "the log takes no more entries");
        }
    }

    async fn generate(
        engine: &dyn Engine,
        ticket: &mut Ticket,
        registration: &Registration,
        log: &mut Log<'_>,
    ) -> Result<(), StoreError> {
        if ticket.waits {
            log.append(vec![Entry::Queued]).await?;
        }
        let permit = tokio::select! {
            biased;
            () = registration.cancel.cancelled() => return log.finish(Finish::Cancelled).await,
            permit = ticket.admitted() => permit,
        };
        let Some(_permit) = permit else {
            return log.finish(Finish::Failed("admission gave no permit".into())).await;
        };
        log.append(vec![Entry::Started]).await?;
        let started = request(log.header, vec![], registration.cancel.clone())
            .map_err(|error| error.to_string())
            .and_then(|request| engine.generate(&log.header.model, request).map_err(|error| error.to_string()));
        let mut deltas = match started {
            Ok(deltas) => deltas,
            Err(reason) => return log.finish(Finish::Failed(reason)).await,
        };
        let mut batch = Vec::with_capacity(BATCH);
        let mut outcome = Ok(());
        let mut finished = false;
        // The channel closes when the slot is free; until then the permit is held, even if the log takes no more.
        while deltas.recv_many(&mut batch, BATCH).await > 0 {
            if outcome.is_ok() {
                finished |= batch.iter().any(|delta| delta.finish.is_some());
                outcome = log.append_deltas(batch.drain(..)).await;
            }
            if outcome.is_err() {
                registration.cancel.cancel();
                batch.clear();
            }
        }
        if outcome.is_ok() && !finished {
            return log.finish(Finish::Failed("the engine ended without a finish".into())).await;
        }
        outcome
    }
}

impl Log<'_> {
    async fn append(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let count = entries.len() as u64;
        self.store.append(&self.header.id, self.next, entries).await?;
        self.next += count;
        Ok(())
    }

    async fn append_deltas(&mut self, deltas: impl Iterator<Item = Delta>) -> Result<(), StoreError> {
        let mut entries = Vec::new();
        for Delta { tokens, text, logprobs, cached_tokens, finish } in deltas {
            self.output_tokens += tokens.len() as u32;
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

    async fn finish(&mut self, finish: Finish) -> Result<(), StoreError> {
        self.append(vec![self.last(finish)]).await
    }

    fn last(&self, finish: Finish) -> Entry {
        if let Finish::Failed(reason) = &finish {
            tracing::error!(response = self.header.id, reason, "the engine failed");
        }
        let input_tokens = self.header.prompt.len() as u32;
        let usage = Usage {
            input_tokens,
            input_tokens_details: InputTokensDetails { cached_tokens: self.cached_tokens },
            output_tokens: self.output_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
            total_tokens: input_tokens + self.output_tokens,
        };
        Entry::Finished { finish, usage, completed_at: unix_seconds() }
    }
}
