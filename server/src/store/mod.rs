//! Stores: where generations are logged. This module owns the contract and its guarantees; `memory` keeps everything in
//! the process, `redis` shares it between replicas. `conformance` is one suite that every store passes.
//!
//! A response is its [`Header`], written once when it is created, and its log of [`Entry`]s, each written once, by whoever
//! holds the response's [`Lease`]. What replicas need to know of each other is [`fleet`].

pub mod cache;
#[cfg(test)]
pub(crate) mod conformance;
pub mod conversations;
pub mod fleet;
pub mod kv_folder;
pub mod memory;
mod observed;
pub mod page;
pub mod prompts;
pub mod quota;
pub mod rates;
pub mod redis;
mod retention;
pub mod shared;
pub mod sqlite;
pub mod transfer;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use self::{
    cache::PromptCache,
    conversations::Conversations,
    fleet::Fleet,
    prompts::Prompts,
    quota::{Exceeded, KeyQuota},
    rates::Rates,
    transfer::Inventory,
};
use crate::{
    dialect::{Dialect, schema::Loosened},
    engine::{Finish, Logprobs},
    wire::{request::Create, response::Usage},
};

pub use observed::ObservedStore;
pub use retention::Retention;
pub use shared::{SharedLogs, Sharing};

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
    /// What of the request's schemas the output is not held to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub holding: BTreeMap<String, Loosened>,
    /// What `truncation: auto` left out of the prompt.
    #[serde(default)]
    pub left_out: TruncatedItems,
    /// Where the log is not this response's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// What happens to the generation when nobody follows it any more.
    #[serde(default)]
    pub on_disconnect: OnDisconnect,
    #[serde(default)]
    pub origin: Origin,
    /// The key that created it, where that key has limits of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_quota: Option<KeyQuota>,
}

/// How a response was asked for. For operators: no event depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    pub transport: Transport,
    /// The span of the request, as W3C Trace Context has it. Whoever takes the response over goes on with its trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    #[default]
    Http,
    Websocket,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Websocket => "websocket",
        }
    }
}

/// What happens to a generation when its last follower has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// The generation is cancelled within two seconds: its client cannot resume.
    Cancel,
    /// The generation goes on for `generation.orphan_grace_ms`: its client may resume.
    #[default]
    Grace,
    /// The generation goes on to its end: the request had `background: true`.
    Continue,
}

impl Header {
    /// The log that it shows, where that is not its own.
    pub fn shared_log(&self) -> Option<&str> {
        self.sharing.as_ref().and_then(Sharing::log)
    }
}

/// Whole turns, the oldest first, that had no room in the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruncatedItems {
    pub turns: u32,
}

/// One step of a generation. Its names are short where it is stored: there is one for every token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "k")]
pub enum Entry {
    /// It waits to run. Only present when it had to.
    #[serde(rename = "q")]
    Queued,
    /// It runs.
    #[serde(rename = "s")]
    Started,
    /// The engine produced tokens; `text` is what they let be shown.
    #[serde(rename = "d")]
    Delta {
        #[serde(rename = "t")]
        tokens: Vec<u32>,
        #[serde(rename = "x")]
        text: String,
        #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<Logprobs>,
        /// On the first: prompt tokens whose KV was there already.
        #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
        cached_tokens: Option<u32>,
    },
    /// One of the responses that share the log ends here, cancelled; for the others it means nothing.
    #[serde(rename = "e")]
    MemberLeft {
        response: String,
        usage: Usage,
        /// Unix seconds.
        completed_at: u64,
    },
    /// The last entry.
    #[serde(rename = "f")]
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
#[derive(Debug, Clone, PartialEq)]
pub struct EntryBatch {
    pub first: u64,
    pub entries: Vec<Arc<Entry>>,
    /// The log had more entries than these when they were read.
    pub more: bool,
}

/// The right to write one response's log. A claim takes it away: the greater `fence` is the younger lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub id: String,
    pub owner: String,
    pub fence: u64,
}

/// What [`Store::create`] did.
#[derive(Debug)]
pub enum Created {
    /// The log exists now and is empty.
    New(Lease),
    /// The tenant used this `client_request_id` before, for the response with this id.
    Existing(String),
}

/// What a successful append tells its writer. An append of nothing asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// Somebody asked for the generation's end, wherever they were connected.
    pub cancelled: bool,
    /// The responses that shared the log and asked to leave it.
    pub left: Vec<String>,
}

/// A response taken over from another owner, as that one left it.
#[derive(Debug)]
pub struct Claim {
    pub lease: Lease,
    pub header: Arc<Header>,
    pub entries: Vec<Arc<Entry>>,
    pub cancelled: bool,
    /// What [`Store::try_again`] counted since the log last grew.
    pub tries: u32,
    /// Since nobody followed it, as [`fleet::Fleet::left`] was told, by the store's clock.
    pub left: Option<std::time::Duration>,
}

/// A followed response: what exists, and what comes.
pub struct Followed {
    pub header: Arc<Header>,
    /// The first entries, as many as one read gives: a follower MUST NOT hold a whole log of which it has rendered little.
    pub entries: Vec<Arc<Entry>>,
    /// The log had more entries than these when they were read.
    pub more: bool,
    /// The entries after those, in order, without gap or repeat, ending after the last. It waits while the store cannot
    /// be reached, and ends early only with an error: `NotFound` when the response was deleted.
    pub rest: BoxStream<'static, Result<EntryBatch, StoreError>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No such response, or another tenant's.
    #[error("not found")]
    NotFound,
    /// It existed, was not to be stored, and its resume window has ended.
    #[error("expired")]
    Expired,
    /// The lease is no longer held, the log has ended, or it is gone.
    #[error("fenced")]
    Fenced,
    /// The log has only so many entries: the store lost the latest. Append again from there.
    #[error("behind, at {0}")]
    Behind(u64),
    /// A newer version of the server wrote it.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// The tenant, or the key, stores as much as it may: see [`quota`].
    #[error("over quota: {0}")]
    OverQuota(Exceeded),
    /// The store can be reached and has no room. What exists is read, cancelled and deleted as ever.
    #[error("full: {0}")]
    Full(String),
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// A header and its entries so far.
pub type Snapshot = (Arc<Header>, Vec<Arc<Entry>>);

/// Where responses live. All methods are safe to call concurrently; ids are unguessable, and every read names the tenant.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates a response with an empty log, unless the tenant already used the header's `client_request_id`. Atomic: of
    /// two creates with one `client_request_id`, one is `New`. One that shows another's log has no log of its own: it has
    /// ended as soon as it is there.
    async fn create(&self, header: Header) -> Result<Created, StoreError>;

    /// Appends entries at index `first`, all or none. When it returns, every follower can see them. Repeating an append
    /// whose answer was lost changes nothing and succeeds. `Fenced` when somebody else holds the lease, the log has its
    /// last entry or does not end at `first`; `Behind` when it has fewer entries than `first`. `Full` when there is no room:
    /// the writer waits and appends again. An append with the last entry needs no room: what was cancelled ends.
    async fn append(&self, lease: &Lease, first: u64, entries: &[Arc<Entry>]) -> Result<Appended, StoreError>;

    /// Takes the response `id` over from its owner `from`, or from whoever released it. `None` when it is neither's, has
    /// ended or is gone: of concurrent claims one succeeds.
    async fn claim(&self, id: &str, from: &str) -> Result<Option<Claim>, StoreError>;

    /// Counts an attempt to run a response that was taken over: the attempts since the log last grew or was released, this one
    /// included. `Fenced` when somebody else holds the lease.
    async fn try_again(&self, lease: &Lease) -> Result<u32, StoreError>;

    /// Gives the lease back, so that anybody may claim the response. Later appends with it are `Fenced`.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Says that the lease's response no longer runs here.
    async fn ended(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Asks for the end of a generation, whoever runs it; one that has ended stays as it is. Never `Full`, as all methods but
    /// [`Self::create`] and [`Self::append`].
    async fn cancel(&self, tenant: &str, id: &str) -> Result<(), StoreError>;

    /// Asks the writer of a shared log to say where this response leaves it; in one that has ended nothing happens.
    async fn request_leave(&self, tenant: &str, log: &str, response: &str) -> Result<(), StoreError>;

    /// Keeps a finished response as if it had ended now. `NotFound` when it is gone; nothing happens to one that runs.
    async fn touch_retention(&self, tenant: &str, id: &str) -> Result<(), StoreError>;

    /// The header and the entries that exist now.
    async fn read(&self, tenant: &str, id: &str) -> Result<Snapshot, StoreError>;

    /// The entries that exist and those to come. What exists is read as it is asked for.
    async fn follow(&self, tenant: &str, id: &str) -> Result<Followed, StoreError>;

    /// Deletes a response and its log; followers end with `NotFound`, appends fail with `Fenced`.
    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError>;

    /// Whether it could be reached when it was last asked. A full store is reached.
    fn is_reachable(&self) -> bool;
}

/// All that one kind of store keeps.
#[derive(Clone)]
pub struct Stores {
    pub responses: Arc<dyn Store>,
    pub conversations: Arc<dyn Conversations>,
    pub prompts: Arc<dyn Prompts>,
    pub cache: Arc<dyn PromptCache>,
    pub rates: Arc<dyn Rates>,
    /// Where replicas share them.
    pub fleet: Option<Arc<dyn Fleet>>,
    /// Where everything can be listed, to be copied to another store.
    pub inventory: Option<Arc<dyn Inventory>>,
}

/// The version alone, which every version of the header has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Reads a header as stores write it: as JSON.
///
/// # Errors
/// `Unreadable` when a newer version wrote it, or when it is damaged.
fn header_from_json(json: &str) -> Result<Arc<Header>, StoreError> {
    let unreadable = |error: serde_json::Error| StoreError::Unreadable(format!("a header that is not valid: {error}"));
    let Version { version } = serde_json::from_str(json).map_err(unreadable)?;
    if version > LOG_VERSION {
        let what = format!("a log of version {version}, and this server reads versions up to {LOG_VERSION}");
        return Err(StoreError::Unreadable(what));
    }
    serde_json::from_str(json).map_err(unreadable)
}
