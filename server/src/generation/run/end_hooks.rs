//! What ends with a response: its turn in a conversation, its run in the prompt cache, its share of a tenant's tokens; and it
//! is counted.

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
    /// To be called before the last entry is appended, so that whoever sees it finds everything done; and again by whoever
    /// takes the response over when it could not be appended.
    pub async fn before(&self, header: &Arc<Header>, entries: &[Arc<Entry>]) -> Result<(), StoreError> {
        if let Some(conversation) = &header.spec.conversation {
            let output = output_items(header, entries);
            match self.conversations.end(&header.tenant, conversation, &header.id, output).await {
                Err(error @ (StoreError::Unavailable(_) | StoreError::StoreFull(_))) => return Err(error),
                Err(error) => tracing::debug!(response = header.id, %error, "its conversation takes no turn's end"),
                Ok(()) => {}
            }
        }
        if let Some(Sharing::Run { key, .. }) = &header.sharing
            && !ended_well(entries)
        {
            // Whoever asks the same from now on starts afresh.
            self.cache.discard(&header.tenant, key, &header.id).await?;
        }
        Ok(())
    }

    /// To be called after the last entry was appended.
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

/// What a log takes, roughly.
fn bytes(entries: &[Arc<Entry>]) -> u64 {
    let entry = |entry: &Arc<Entry>| match &**entry {
        Entry::Delta { tokens, text, logprobs, .. } => 100 + 4 * tokens.len() + text.len() + 100 * logprobs.len(),
        _ => 100,
    };
    entries.iter().map(|e| entry(e) as u64).sum()
}
