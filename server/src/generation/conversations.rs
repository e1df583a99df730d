//! Conversations as clients use them: what is created, deleted and resumed, beside the turns of `turns`.

use std::sync::Arc;

use futures::stream::BoxStream;
use serde_json::Value;

use super::{Generations, clock::unix_seconds, create::random_hex, store_error};
use crate::{
    engine::Finish,
    render,
    store::{
        Entry, Header, StoreError,
        conversations::{Conversation, ConversationError, Item, Notice},
    },
    wire::{conversation::NewConversation, error::WireError, input::InputItem},
};

/// How a store's error reads to the client that named conversation `id`.
pub fn conversation_error(error: ConversationError, id: &str) -> WireError {
    match error {
        ConversationError::NotFound => WireError::ConversationNotFound(id.into()),
        ConversationError::ItemNotFound => WireError::ItemNotFound(id.into()),
        ConversationError::CursorNotFound => {
            WireError::invalid("after", "'after' names nothing in this list; it may have been deleted.")
        }
        ConversationError::Busy => WireError::ConversationBusy(id.into()),
        ConversationError::Full => WireError::invalid(
            "conversation",
            "The conversation is full: it has as many items, or bytes, as it may have. Begin a new one, or delete items.",
        ),
        ConversationError::Unavailable(reason) => {
            tracing::warn!(reason, "the store is unavailable");
            WireError::StoreUnavailable { retry_after_ms: 1000 }
        }
    }
}

/// Items of a request, as a conversation keeps them.
pub fn new_items(items: &[InputItem]) -> Vec<Item> {
    named(render::items_of(items, &random_hex()))
}

/// The items of a response's input.
pub fn input_items(header: &Header) -> Vec<Item> {
    named(render::input_items(header))
}

/// What a response said, as far as it is kept: all but what failed, and nothing that is empty.
pub fn output_items(header: &Arc<Header>, entries: &[Arc<Entry>]) -> Vec<Item> {
    let failed = entries.last().is_some_and(|last| {
        matches!(&**last, Entry::Finished { finish: Finish::Failed(_) | Finish::Refused { .. }, .. })
    });
    if failed {
        return vec![];
    }
    let (response, _) = render::response(header, entries.iter().map(|entry| &**entry));
    let items = response.output.into_iter().filter_map(|item| serde_json::to_value(item).ok());
    named(items.filter(|item| !is_empty(item)).collect())
}

fn is_empty(item: &Value) -> bool {
    let parts = item["content"].as_array();
    item["type"] == "message" && parts.is_none_or(|parts| parts.iter().all(|part| part["text"] == ""))
}

fn named(bodies: Vec<Value>) -> Vec<Item> {
    let named = bodies.into_iter().map(|body| Item { id: body["id"].as_str().unwrap_or_default().to_owned(), body });
    named.collect()
}

impl Generations {
    pub async fn create_conversation(&self, tenant: &str, new: NewConversation) -> Result<Conversation, WireError> {
        let conversation = Conversation {
            id: format!("conv_{}", random_hex()),
            tenant: tenant.to_owned(),
            created_at: unix_seconds(),
            metadata: new.metadata,
        };
        let created = self.conversations.create(conversation.clone(), new_items(&new.items)).await;
        created.map_err(|error| conversation_error(error, &conversation.id))?;
        Ok(conversation)
    }

    /// Deletes a conversation and all that was said in it: its responses with their logs; what runs is cancelled.
    pub async fn delete_conversation(&self, tenant: &str, id: &str) -> Result<(), WireError> {
        let responses = self.conversations.delete(tenant, id).await.map_err(|e| conversation_error(e, id))?;
        for response in responses {
            match self.store.delete(tenant, &response).await {
                Ok(()) | Err(StoreError::NotFound | StoreError::Expired) => self.running.cancel(&response),
                Err(error) => return Err(store_error(error, &response)),
            }
        }
        Ok(())
    }

    /// The response that runs in a conversation, else the one that ended last.
    pub async fn current(&self, tenant: &str, id: &str) -> Result<String, WireError> {
        let line = self.conversations.line(tenant, id).await.map_err(|e| conversation_error(e, id))?;
        let candidates = line.turns.into_iter().map(|turn| turn.response).chain(line.latest);
        for response in candidates {
            match self.store.read(tenant, &response).await {
                Ok(_) => return Ok(response),
                // A turn that is about to be created, or a response that is gone.
                Err(StoreError::NotFound | StoreError::Expired) => {}
                Err(error) => return Err(store_error(error, &response)),
            }
        }
        Err(WireError::NothingToResume(id.into()))
    }

    /// What happens in a conversation from now on.
    pub async fn watch(&self, tenant: &str, id: &str) -> Result<BoxStream<'static, Notice>, WireError> {
        self.conversations.watch(tenant, id).await.map_err(|e| conversation_error(e, id))
    }
}
