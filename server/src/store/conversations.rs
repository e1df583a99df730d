//! Conversations: items in order, and the line of turns that extend them. This module owns the contract; `memory` and
//! `redis` keep it.
//!
//! One turn runs at a time. A response *enters* the line; when it is the first it *begins*, which appends its input, and
//! *ends*, which appends its output and lets the next one begin. Beginning and ending are idempotent by response, so that
//! whoever takes over a generation can repeat them.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::StoreError,
    page::{Listed, Page},
};

/// A conversation beside its items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    pub id: String,
    pub tenant: String,
    /// Unix seconds.
    pub created_at: u64,
    pub metadata: BTreeMap<String, String>,
}

/// An item in the shape that the wire gives it, so that it can be read as input again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub id: String,
    pub body: Value,
}

impl Item {
    /// What it counts for the bounds.
    pub fn bytes(&self) -> usize {
        self.body.to_string().len()
    }
}

/// A turn in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The response that it is.
    pub response: String,
    /// Since it entered, by the store's clock: those of replicas differ.
    pub waited: Duration,
}

/// Who runs, who waits, and who ended last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The first one runs.
    pub turns: Vec<Turn>,
    /// The response that ended last.
    pub latest: Option<String>,
}

/// What happens to a conversation's turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// This response has begun; it can be followed.
    Began(String),
    /// A turn ended or left, so the line has moved.
    Moved,
}

/// Bounds of one conversation.
#[derive(Debug, Clone, Copy)]
pub struct ConversationBounds {
    pub items: usize,
    /// Of the items' JSON.
    pub bytes: usize,
}

/// Where conversations live. Every method is one atomic step, and every one names the tenant. `create`, `append` and
/// `set_metadata` are refused with `OverQuota` when the tenant would store more than it may; they, `enter` and `begin` with
/// `StoreFull` when there is no room. The others are not: what ends or is deleted needs no room.
#[async_trait]
pub trait Conversations: Send + Sync + 'static {
    async fn create(&self, conversation: Conversation, items: Vec<Item>) -> Result<(), StoreError>;

    async fn get(&self, tenant: &str, id: &str) -> Result<Conversation, StoreError>;

    /// Replaces the metadata.
    async fn set_metadata(
        &self,
        tenant: &str,
        id: &str,
        metadata: BTreeMap<String, String>,
    ) -> Result<Conversation, StoreError>;

    /// Deletes it with its items and its line; tells which responses belonged to it, running and ended.
    async fn delete(&self, tenant: &str, id: &str) -> Result<Vec<String>, StoreError>;

    /// A tenant's conversations by the time they were created. Costs the same however many there are.
    async fn list(&self, tenant: &str, page: &Page) -> Result<Listed<Conversation>, StoreError>;

    /// Appends items, all or none.
    async fn append(&self, tenant: &str, id: &str, items: Vec<Item>) -> Result<(), StoreError>;

    async fn items(&self, tenant: &str, id: &str, page: &Page) -> Result<Listed<Item>, StoreError>;

    async fn item(&self, tenant: &str, id: &str, item: &str) -> Result<Item, StoreError>;

    async fn remove_item(&self, tenant: &str, id: &str, item: &str) -> Result<Conversation, StoreError>;

    /// Puts a response at the end of the line, if at most `patience` turns are before it; tells how many are.
    async fn enter(&self, tenant: &str, id: &str, response: &str, patience: usize) -> Result<usize, StoreError>;

    /// The first in line begins: its input is appended and watchers are told. `Busy` when it is not the first. Again:
    /// nothing happens.
    async fn begin(&self, tenant: &str, id: &str, response: &str, input: Vec<Item>) -> Result<(), StoreError>;

    /// A response leaves the line; what it said is appended if it had begun. Again: nothing happens. Takes output over the
    /// bounds too: what was said is not lost.
    async fn end(&self, tenant: &str, id: &str, response: &str, output: Vec<Item>) -> Result<(), StoreError>;

    async fn line(&self, tenant: &str, id: &str) -> Result<Line, StoreError>;

    /// What happens from now on; nothing that happens after it returned is missed, except by one who lags far behind. Ends
    /// when the conversation is deleted.
    async fn watch(&self, tenant: &str, id: &str) -> Result<BoxStream<'static, Notice>, StoreError>;
}
