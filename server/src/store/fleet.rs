//! The contract between replicas that share a store: their heartbeats, the responses that each runs and follows, and their
//! messages. The memory store has no fleet. In the fleet of an SQLite store this process is the only living member.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::{error::StoreError, header::Header, responses::Lease};

/// Another replica, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub replica: String,
    /// Time since its last heartbeat, by the store's clock.
    pub silent: Duration,
    /// The report of its last heartbeat. Empty if the replica's version sends none.
    pub report: Report,
}

/// The report of a replica to the others, sent with each heartbeat: a few KB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Load of each model, by the model's id.
    pub models: BTreeMap<String, Occupancy>,
    /// Names of the beginnings of prompts that it has cached, for all tenants. A name is a hash that includes the tenant.
    pub prompts: Vec<u64>,
}

/// Load of a replica with one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occupancy {
    pub running: usize,
    pub waiting: usize,
    /// Responses that could start at once; 0 while some wait.
    pub idle: usize,
}

/// A message to every replica. A replica that misses a message learns of it later: from its next append or at a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Control {
    /// The replica that runs the response cancels it.
    Cancel { id: String },
    /// The replica that runs the response polls the requests to its writer, with an empty append.
    #[serde(rename = "look")]
    PollRequests { id: String },
    /// The replica that runs the response ends it as steered at its next token. A successor continues from its output.
    Steer { id: String },
    /// Replica `by` has released the response. Replica `to` may claim it, or any replica if `to` is absent.
    Released {
        id: String,
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
}

/// The fleet of a store, as one replica sees it. Every method fails with `Unavailable` if the store cannot be reached.
#[async_trait]
pub trait Fleet: Send + Sync + 'static {
    /// Returns this replica's name. It MUST be unique for ever: a restarted process has another name.
    fn me(&self) -> &str;

    /// Returns whether no other process can use the store at the same time. Then every other member is certainly dead.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// Records a heartbeat with a report. Returns all other replicas that ever did so and were not forgotten, dead ones too.
    async fn beat(&self, report: &Report) -> Result<Vec<Member>, StoreError>;

    /// Records that this replica ends, so that the others see it as dead at once. Returns the others.
    async fn leave(&self) -> Result<Vec<Member>, StoreError>;

    /// Removes a dead replica from the fleet. To be called when it has no response left to take over.
    async fn forget(&self, replica: &str) -> Result<(), StoreError>;

    /// Returns the ids of the responses that a replica runs, or ran when it died. The list MUST contain every response that the
    /// replica owns; it may contain others.
    async fn runs(&self, replica: &str) -> Result<Vec<String>, StoreError>;

    /// Keeps running responses from expiring while nothing is appended. Returns those that a client has cancelled.
    async fn renew(&self, ids: &[String]) -> Result<Vec<String>, StoreError>;

    /// Returns the header of a response of any tenant; `None` if the response is gone.
    async fn header(&self, id: &str) -> Result<Option<Arc<Header>>, StoreError>;

    /// Returns the owner of a response that no living replica runs, for [`super::Store::claim`]. Returns `None` if a living replica
    /// runs the response, or if the response has ended or is gone.
    async fn dead_owner(&self, id: &str) -> Result<Option<String>, StoreError>;

    /// Records which responses of this replica nobody follows any more (`left`), and which are followed again. The replica that
    /// takes one over counts its grace period from then.
    async fn left(&self, left: &[String], followed: &[String]) -> Result<(), StoreError>;

    /// Records which responses are followed at this replica from now on, and which no longer (`left`).
    async fn announce(&self, followed: &[String], left: &[String]) -> Result<(), StoreError>;

    /// Returns those of `ids` that are followed at another living replica.
    async fn followed(&self, ids: &[String]) -> Result<HashSet<String>, StoreError>;

    /// Releases a lease and asks the replica `to` to claim the response. Until a replica has claimed the response, [`Self::runs`]
    /// MUST list it for this replica, so that it is found if this replica dies. The message may be lost without an error.
    async fn offer(&self, lease: &Lease, to: &str) -> Result<(), StoreError>;

    /// Asks the replica that runs the response to end it as steered. The message may be lost without an error.
    async fn steer(&self, id: &str) -> Result<(), StoreError>;

    /// Streams later messages of all replicas, those of this one too. The stream does not end. Messages that are sent while the
    /// store cannot be reached are lost.
    fn control(&self) -> BoxStream<'static, Control>;
}
