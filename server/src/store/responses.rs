//! The contract of the stores of responses.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::{
    entry::{Entry, EntryBatch},
    error::StoreError,
    header::Header,
};

/// The right to write one response's log. Each claim makes a new lease with a greater `fence`; appends with an older lease fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub id: String,
    pub owner: String,
    pub fence: u64,
}

/// The result of [`Store::create`].
#[derive(Debug)]
pub enum Created {
    /// The response was created. Its log is empty.
    New(Lease),
    /// The tenant has used this `client_request_id` before, for the response with this id. Nothing was created.
    Existing(String),
}

/// The requests to the writer of a log, returned by each successful append. An empty append polls them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// A client has cancelled the generation, through any replica.
    pub cancelled: bool,
    /// The responses that share the log and have requested to leave it.
    pub left: Vec<String>,
}

/// A response that was taken over from another owner, in the state in which the owner left it.
#[derive(Debug)]
pub struct Claim {
    pub lease: Lease,
    pub header: Arc<Header>,
    pub entries: Vec<Arc<Entry>>,
    pub cancelled: bool,
    /// The attempts that [`Store::try_again`] has counted since the log last grew.
    pub tries: u32,
    /// For how long nobody has followed the response, as recorded by [`Fleet::left`](super::fleet::Fleet::left), by the store's
    /// clock.
    pub left: Option<std::time::Duration>,
}

/// A followed response: its first entries and the stream of the others.
pub struct Followed {
    pub header: Arc<Header>,
    /// The first entries, as many as one read returns. A store that reads from disk or network MUST NOT return a whole long log
    /// here: a follower holds these entries until it has rendered them.
    pub entries: Vec<Arc<Entry>>,
    /// The log had entries after these when they were read.
    pub more: bool,
    /// The entries after `entries`, in order. The stream MUST have no gap and no repeat, and MUST end after the last entry. It
    /// waits while the store cannot be reached. It ends early only with an error: `NotFound` if the response was deleted.
    pub rest: BoxStream<'static, Result<EntryBatch, StoreError>>,
}

/// A header and the entries that exist.
pub type Snapshot = (Arc<Header>, Vec<Arc<Entry>>);

/// A store of responses and their logs.
///
/// All methods may be called concurrently. Methods with a tenant MUST fail with `NotFound` for a response of another tenant; they
/// fail with `Expired` if the response had `store: false` and its resume window has ended. Only [`Self::create`] and
/// [`Self::append`] may fail with `StoreFull`. Every method fails with `Unavailable` if the store cannot be reached.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates a response with an empty log, unless the tenant has used the header's `client_request_id` before. Of concurrent
    /// creates with one `client_request_id`, exactly one MUST return `New`. A response that shows a shared log has no log of its
    /// own and counts as ended at once. Fails with `OverQuota` as [`super::quota`] says, and with `StoreFull`.
    async fn create(&self, header: Header) -> Result<Created, StoreError>;

    /// Appends all entries or none at index `first`. When this returns, every follower MUST be able to read them. An append that is
    /// repeated after a lost answer MUST succeed and change nothing. Fails with `Fenced` if the lease is not the latest, if the log
    /// has its last entry, or if it has other entries at `first`; with `Behind` if the log has fewer than `first` entries; with
    /// `StoreFull` if there is no room, then the writer waits and appends again. An append with the last entry MUST NOT fail for
    /// lack of room, so that a cancelled response can end.
    async fn append(&self, lease: &Lease, first: u64, entries: &[Arc<Entry>]) -> Result<Appended, StoreError>;

    /// Takes the response `id` over if `from` owns it or if it was released. Returns `None` if another replica owns the response,
    /// or if it has ended or is gone. Of concurrent claims exactly one MUST succeed. Fails with `Unreadable` if this version cannot
    /// read the log.
    async fn claim(&self, id: &str, from: &str) -> Result<Option<Claim>, StoreError>;

    /// Counts an attempt to run a response that was taken over. Returns the number of attempts since the log last grew or was
    /// released, this one included. Fails with `Fenced` if the lease is not the latest.
    async fn try_again(&self, lease: &Lease) -> Result<u32, StoreError>;

    /// Releases the lease, so that any replica may claim the response. Later appends with the lease MUST fail with `Fenced`.
    /// Changes nothing if the lease is not the latest.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Records that the response does not run at this replica any more.
    async fn ended(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Requests the cancel of a generation, whichever replica runs it. The writer's next append MUST return the request, also after
    /// a claim. Changes nothing if the generation has ended.
    async fn cancel(&self, tenant: &str, id: &str) -> Result<(), StoreError>;

    /// Requests that a response leaves a shared log. The writer then appends [`Entry::MemberLeft`]. Changes nothing if the log has
    /// ended.
    async fn request_leave(&self, tenant: &str, log: &str, response: &str) -> Result<(), StoreError>;

    /// Starts the retention of a finished response anew. Changes nothing if the response runs. Fails with `NotFound` if it is gone.
    async fn touch_retention(&self, tenant: &str, id: &str) -> Result<(), StoreError>;

    /// Returns the header and all entries that exist.
    async fn read(&self, tenant: &str, id: &str) -> Result<Snapshot, StoreError>;

    /// Follows a response: its existing entries, which are read as the follower asks for them, and all later ones.
    async fn follow(&self, tenant: &str, id: &str) -> Result<Followed, StoreError>;

    /// Deletes a response and its log. Followers MUST end with `NotFound`, and later appends MUST fail with `Fenced`.
    async fn delete(&self, tenant: &str, id: &str) -> Result<(), StoreError>;

    /// Returns whether the store was reachable at the last heartbeat or write. A full store is reachable.
    fn is_reachable(&self) -> bool;
}
