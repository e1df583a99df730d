//! The contract of the stores of conversations. A conversation is a list of items and a line of turns that extend the list.
//!
//! One turn runs at a time. A response *enters* the line. When it is first in line, it *begins*: its input is appended. Then it
//! *ends*: its output is appended, and the next response may begin. `begin` and `end` are idempotent by response, so that the
//! replica that takes a generation over can repeat them.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::StoreError,
    page::{Listed, Page},
};

/// A conversation without its items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    pub id: String,
    pub tenant: String,
    /// Unix seconds.
    pub created_at: u64,
    pub metadata: BTreeMap<String, String>,
}

/// An item, as JSON in the form of the wire, so that it can be parsed as input again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub id: String,
    pub body: Value,
}

impl Item {
    /// Returns the bytes that the item counts for the bounds.
    pub fn bytes(&self) -> usize {
        self.body.to_string().len()
    }
}

/// A turn in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The id of the response that runs this turn.
    pub response: String,
    /// Time since the response entered the line, by the store's clock: the clocks of replicas differ.
    pub waited: Duration,
}

/// The line of a conversation: the turns that run or wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// In order; only the first one may run.
    pub turns: Vec<Turn>,
    /// The response that ended last.
    pub latest: Option<String>,
}

/// An event of a conversation's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The turn of this response has begun. The response can be followed.
    Began(String),
    /// A turn has ended or left the line.
    Moved,
}

/// Bounds of one conversation.
#[derive(Debug, Clone, Copy)]
pub struct ConversationBounds {
    pub items: usize,
    /// Bytes of the items' JSON.
    pub bytes: usize,
}

/// A store of conversations.
///
/// Every method MUST be atomic. A method with an `id` MUST fail with `NotFound` if the tenant has no such conversation. Every
/// change MUST start the conversation's retention anew. `create`, `append` and `set_metadata` fail with `OverQuota` if the tenant
/// would store more than its quota; these three, `enter` and `begin` fail with `StoreFull` if the store has no room. The other
/// methods MUST NOT fail for lack of room: they end or delete something. Every method fails with `Unavailable` if the store cannot
/// be reached.
#[async_trait]
pub trait Conversations: Send + Sync + 'static {
    /// Creates a conversation with its first items, or nothing: `OverBounds` if there are too many items or bytes.
    async fn create(&self, conversation: Conversation, items: Vec<Item>) -> Result<(), StoreError>;

    /// Returns a conversation.
    async fn get(&self, tenant: &str, id: &str) -> Result<Conversation, StoreError>;

    /// Replaces the metadata. Returns the changed conversation.
    async fn set_metadata(
        &self,
        tenant: &str,
        id: &str,
        metadata: BTreeMap<String, String>,
    ) -> Result<Conversation, StoreError>;

    /// Deletes a conversation with its items and its line, and ends its watches. Returns the ids of its responses: those that have
    /// ended and those in line. Their logs are deleted by the caller.
    async fn delete(&self, tenant: &str, id: &str) -> Result<Vec<String>, StoreError>;

    /// Returns a page of the tenant's conversations, ordered by creation; `CursorNotFound` if `page.after` is not among them. The
    /// cost MUST NOT grow with the number of conversations.
    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<Conversation>, StoreError>;

    /// Appends all items or none: `OverBounds` if there would be too many items or bytes.
    async fn append(&self, tenant: &str, id: &str, items: Vec<Item>) -> Result<(), StoreError>;

    /// Returns a page of the items in order; `CursorNotFound` if `page.after` is not among them.
    async fn items(&self, tenant: &str, id: &str, page: &Page) -> Result<Listed<Item>, StoreError>;

    /// Returns an item; `ItemNotFound` if the conversation does not have it.
    async fn item(&self, tenant: &str, id: &str, item: &str) -> Result<Item, StoreError>;

    /// Deletes an item; `ItemNotFound` if the conversation does not have it. Returns the conversation.
    async fn remove_item(&self, tenant: &str, id: &str, item: &str) -> Result<Conversation, StoreError>;

    /// Puts a response at the end of the line. Returns the number of turns before it; `Busy` if more than `patience` are.
    async fn enter(&self, tenant: &str, id: &str, response: &str, patience: usize) -> Result<usize, StoreError>;

    /// Begins the turn of the response that is first in line: appends its input and notifies watchers. Fails with `Busy` if the
    /// response is not first, and with `OverBounds` if the input exceeds the bounds. MUST succeed and change nothing if the turn
    /// has begun or ended.
    async fn begin(&self, tenant: &str, id: &str, response: &str, input: Vec<Item>) -> Result<(), StoreError>;

    /// Removes a response from the line and notifies watchers. If its turn had begun, appends its output, even beyond the bounds:
    /// output MUST NOT be lost. MUST succeed and change nothing if the response is not in line.
    async fn end(&self, tenant: &str, id: &str, response: &str, output: Vec<Item>) -> Result<(), StoreError>;

    /// Returns the line.
    async fn line(&self, tenant: &str, id: &str) -> Result<Line, StoreError>;

    /// Streams later events. The stream MUST contain every event after this method has returned, unless its reader lags far behind.
    /// It ends when the conversation is deleted.
    async fn watch(&self, tenant: &str, id: &str) -> Result<BoxStream<'static, Notice>, StoreError>;
}
