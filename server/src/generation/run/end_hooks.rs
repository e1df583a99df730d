//! What follows from the end of a response: its turn in a conversation and its run in the prompt cache end, and its tokens are
//! charged and counted.

use std::sync::Arc;

use crate::{
    engine::Finish,
    generation::{conversation::items::output_items, create::rates::Quotas},
    metrics::Metrics,
    store::{Entry, Header, Sharing, StoreError, cache::PromptCache, conversations::Conversations},
};

pub struct EndHooks {
    pub conversations: Arc<dyn Conversations>,
    pub cache: Arc<dyn PromptCache>,
    pub quotas: Arc<Quotas>,
    pub metrics: Arc<Metrics>,
}

impl EndHooks {
    /// Ends the response's turn in its conversation, and removes a failed run from the prompt cache. To be called before the last
    /// entry is appended, so that a reader of that entry finds both done. If the append fails, the replica that takes the response
    /// over calls this again.
    ///
    /// # Errors
    /// The store cannot be reached or is full.
    pub async fn before(&self, header: &Arc<Header>, entries: &[Arc<Entry>]) -> Result<(), StoreError> {
        if let Some(conversation) = &header.spec.conversation {
            let output = output_items(header, entries);
            match self.conversations.end(&header.tenant, conversation, &header.id, output).await {
                Err(error @ (StoreError::Unavailable(_) | StoreError::StoreFull(_))) => return Err(error),
                Err(error) => tracing::debug!(response = header.id, %error, "cannot end the turn in the conversation"),
                Ok(()) => {}
            }
        }
        if let Some(Sharing::Run { key, .. }) = &header.sharing
            && !ended_well(entries)
        {
            // The next equal request starts a new run.
            self.cache.discard(&header.tenant, key, &header.id).await?;
        }
        Ok(())
    }

    /// Counts the response, charges its tokens and completes its run in the prompt cache. To be called after the last entry was
    /// appended.
    pub async fn after(&self, header: &Header, entries: &[Arc<Entry>]) {
        if let Some(Entry::Finished { finish, usage, .. }) = entries.last().map(|entry| &**entry) {
            self.metrics.ended(&header.model, status(finish), usage);
            self.quotas.used(header, usage).await;
        }
        if let Some(Sharing::Run { key, .. }) = &header.sharing
            && ended_well(entries)
        {
            let completed = self.cache.complete(&header.tenant, key, &header.id, bytes(entries)).await;
            if let Err(error) = completed {
                tracing::debug!(log = header.id, %error, "a log could not be put in the prompt cache");
            }
        }
    }
}

fn status(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop => "completed",
        Finish::Length | Finish::Steered => "incomplete",
        Finish::Cancelled => "cancelled",
        Finish::Refused { .. } | Finish::Failed(_) => "failed",
    }
}

fn ended_well(entries: &[Arc<Entry>]) -> bool {
    let finish = entries.last().and_then(|entry| match &**entry {
        Entry::Finished { finish, .. } => Some(finish),
        _ => None,
    });
    matches!(finish, Some(Finish::Stop | Finish::Length))
}

/// Estimates the size of a log in bytes.
fn bytes(entries: &[Arc<Entry>]) -> u64 {
    let entry = |entry: &Arc<Entry>| match &**entry {
        Entry::Delta { tokens, text, logprobs, .. } => 100 + 4 * tokens.len() + text.len() + 100 * logprobs.len(),
        _ => 100,
    };
    entries.iter().map(|e| entry(e) as u64).sum()
}
