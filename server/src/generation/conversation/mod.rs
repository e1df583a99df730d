//! The operations on conversations that clients request: create, fork, append, delete, resume and watch. `turns` runs the
//! responses of a conversation one after the other.

mod compact;
pub mod items;
mod turns;

use futures::stream::BoxStream;

use crate::{
    clock::unix_seconds,
    generation::{
        Generations,
        refusal::{Named, store_error},
    },
    random::random_hex,
    store::{
        StoreError,
        conversations::{Conversation, Item, Notice},
        page::Page,
    },
    wire::{
        conversation::{Fork, NewConversation},
        error::WireError,
        input::InputItem,
    },
};
use items::{copied_items, new_items};

impl Generations {
    /// Creates a conversation with its first items.
    ///
    /// # Errors
    /// `item_not_found` for a reference to an item that does not exist; `invalid_request` if there are more items than a
    /// conversation holds.
    pub async fn create_conversation(&self, tenant: &str, mut new: NewConversation) -> Result<Conversation, WireError> {
        self.resolve(tenant, None, None, &mut new.items).await.map_err(|error| error.renamed("input", "items"))?;
        let conversation = Conversation {
            id: format!("conv_{}", random_hex()),
            tenant: tenant.to_owned(),
            created_at: unix_seconds(),
            metadata: new.metadata,
        };
        let created = self.conversations.create(conversation.clone(), new_items(&conversation.id, &new.items)).await;
        created.map_err(|error| store_error(error, Named::Conversation(&conversation.id)))?;
        Ok(conversation)
    }

    /// Copies a conversation into a new one: all items, or those before `fork.before`. The original does not change.
    ///
    /// # Errors
    /// `conversation_not_found`, and `item_not_found` if the original has no such item.
    pub async fn fork_conversation(&self, tenant: &str, id: &str, fork: Fork) -> Result<Conversation, WireError> {
        let original = self.conversations.get(tenant, id).await.map_err(|e| store_error(e, Named::Conversation(id)))?;
        let listed = self
            .conversations
            .items(tenant, id, &Page::all())
            .await
            .map_err(|e| store_error(e, Named::Conversation(id)))?;
        let items = match fork.before {
            Some(before) => {
                let end = listed.data.iter().position(|item| item.id == before);
                listed.data.get(..end.ok_or(WireError::ItemNotFound(before))?).unwrap_or_default()
            }
            None => &listed.data,
        };
        let copy = Conversation {
            id: format!("conv_{}", random_hex()),
            tenant: tenant.to_owned(),
            created_at: unix_seconds(),
            metadata: fork.metadata.unwrap_or(original.metadata),
        };
        let created = self.conversations.create(copy.clone(), copied_items(&copy.id, items)).await;
        created.map_err(|error| store_error(error, Named::Conversation(id)))?;
        Ok(copy)
    }

    /// Appends items to a conversation. Returns the stored items, with their ids.
    ///
    /// # Errors
    /// As [`Self::create_conversation`], and `conversation_not_found`.
    pub async fn append_items(
        &self,
        tenant: &str,
        id: &str,
        mut items: Vec<InputItem>,
    ) -> Result<Vec<Item>, WireError> {
        self.resolve(tenant, Some(id), None, &mut items).await.map_err(|error| error.renamed("input", "items"))?;
        let items = new_items(id, &items);
        let appended = self.conversations.append(tenant, id, items.clone()).await;
        appended.map_err(|error| store_error(error, Named::Conversation(id)))?;
        Ok(items)
    }

    /// Deletes a conversation with its items, its responses and their logs. Cancels the responses that run.
    pub async fn delete_conversation(&self, tenant: &str, id: &str) -> Result<(), WireError> {
        let responses =
            self.conversations.delete(tenant, id).await.map_err(|e| store_error(e, Named::Conversation(id)))?;
        for response in responses {
            match self.store.delete(tenant, &response).await {
                Ok(()) | Err(StoreError::NotFound | StoreError::Expired) => self.running.cancel(&response),
                Err(error) => return Err(store_error(error, Named::Response(&response))),
            }
        }
        Ok(())
    }

    /// Returns the id of the response that runs in a conversation, or of the one that ended last.
    ///
    /// # Errors
    /// `response_not_found` if the conversation has no response that can be read.
    pub async fn current(&self, tenant: &str, id: &str) -> Result<String, WireError> {
        let line = self.conversations.line(tenant, id).await.map_err(|e| store_error(e, Named::Conversation(id)))?;
        let candidates = line.turns.into_iter().map(|turn| turn.response).chain(line.latest);
        for response in candidates {
            match self.store.read(tenant, &response).await {
                Ok(_) => return Ok(response),
                // The turn's response does not exist yet, or is gone.
                Err(StoreError::NotFound | StoreError::Expired) => {}
                Err(error) => return Err(store_error(error, Named::Response(&response))),
            }
        }
        Err(WireError::NothingToResume(id.into()))
    }

    /// Streams the later events of a conversation.
    pub async fn watch(&self, tenant: &str, id: &str) -> Result<BoxStream<'static, Notice>, WireError> {
        self.conversations.watch(tenant, id).await.map_err(|e| store_error(e, Named::Conversation(id)))
    }
}
