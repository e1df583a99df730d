//! Stores: where generations are logged. This module owns the contract and its guarantees; `memory` keeps everything in
//! the process. `conformance` is one suite that every store passes.
//!
//! A response is its [`Header`], written once when it is created, and its log of [`Entry`]s, each written once.

#[cfg(test)]
pub(crate) mod conformance;
pub mod memory;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    dialect::Dialect,
    engine::{Finish, Logprobs},
    wire::{request::Create, response::Usage},
};

/// The version of [`Header`] and [`Entry`] that this build writes. Older ones stay readable and render as they did.
pub const LOG_VERSION: u32 = 1;

/// What a response was created with. Immutable; with the entries it determines every event, on every replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub version: u32,
    pub id: String,
    pub tenant: String,
    /// Unix seconds.
    pub created_at: u64,
    /// The model's id after defaults were applied.
    pub model: String,
    pub create: Create,
    /// The rendered prompt, so that any replica can continue the generation.
    pub prompt: Vec<u32>,
    pub seed: u64,
    /// Bound on output tokens after the context's end was considered.
    pub max_output_tokens: u32,
    /// How the model writes thoughts and calls.
    #[serde(default)]
    pub dialect: Dialect,
    /// What `truncation: auto` left out of the prompt.
    #[serde(default)]
    pub left_out: LeftOut,
}

/// Whole turns, the oldest first, that had no room in the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub turns: u32,
}

/// One step of a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Entry {
    /// It waits for a slot. Only present when it had to.
    Queued,
    /// It has a slot.
    Started,
    /// The engine produced tokens; `text` is what they let be shown.
    Delta {
        tokens: Vec<u32>,
        text: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<Logprobs>,
        /// On the first: prompt tokens whose KV was there already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cached_tokens: Option<u32>,
    },
    /// The last entry.
    Finished {
        finish: Finish,
        usage: Usage,
        /// Unix seconds.
        completed_at: u64,
    },
}

impl Entry {
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }
}

/// Consecutive entries of a log, the first at index `first`.
#[derive(Debug, Clone)]
pub struct Batch {
    pub first: u64,
    pub entries: Vec<Arc<Entry>>,
}

/// What [`Store::create`] did.
#[derive(Debug)]
pub enum Created {
    /// The log exists now and is empty.
    New,
    /// The tenant used this `client_request_id` before, for the response with this id.
    Existing(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No such response, or another tenant's.
    #[error("not found")]
    NotFound,
    /// It existed, was not to be stored, and its resume window has ended.
    #[error("expired")]
    Expired,
    /// The append's index is not the log's next: somebody else writes it, or it has ended.
    #[error("fenced")]
    Fenced,
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// A header and its entries so far.
pub type Snapshot = (Arc<Header>, Vec<Arc<Entry>>);

/// Where responses live. All methods are safe to call concurrently; ids are unguessable, and every read names the tenant.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates a response with an empty log, unless the tenant already used the header's `client_request_id`. Atomic: of
    /// two creates with one `client_request_id`, one is `New`.
    async fn create(&self, header: Header) -> Result<Created, StoreError>;

    /// Appends entries at index `first`, all or none. Fails with `Fenced` when `first` is not the next index or the log
    /// has its last entry. When it returns, every follower can see them.
    async fn append(&self, id: &str, first: u64, entries: Vec<Entry>) -> Result<(), StoreError>;

    /// The header and the entries that exist now.
    async fn read(&self, tenant: &str, id: &str) -> Result<Snapshot, StoreError>;

    /// All entries, existing and to come, in order, without gap or repeat, ending after the last entry. The stream ends
    /// early only with an error; a response deleted while it is followed ends it with `NotFound`.
    fn follow(&self, tenant: &str, id: &str) -> BoxStream<'static, Result<Batch, StoreError>>;

    /// Deletes a response and its log; followers end with `NotFound`, appends fail with `Fenced`.
    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError>;
}
