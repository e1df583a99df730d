//! The contract of the stores of responses: who may write a log, and what is answered to whom.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::{
    entry::{Entry, EntryBatch},
    error::StoreError,
    header::Header,
};

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
    /// Since nobody followed it, as [`Fleet::left`](super::fleet::Fleet::left) was told, by the store's clock.
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
    /// last entry or does not end at `first`; `Behind` when it has fewer entries than `first`. `StoreFull` when there is no room:
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

    /// Asks for the end of a generation, whoever runs it; one that has ended stays as it is. Never `StoreFull`, as all methods but
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
