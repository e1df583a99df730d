//! What replicas that share a store know of each other: who lives, what each runs and follows, and what they tell each
//! other. The memory store has no fleet; of the embedded store this process is the only living member.

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
    /// Since it was last heard, by the store's clock.
    pub silent: Duration,
    /// The report of its last heartbeat. Empty if the replica is of a version that sends none.
    pub report: Report,
}

/// The report of a replica to the others, sent with each heartbeat: a few KB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Load of each model, by the model's id.
    pub models: BTreeMap<String, Occupancy>,
    /// Names of the beginnings of prompts that it has cached, of any tenant. The tenant is part of a name, which cannot be read.
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

/// What is told to every replica. Whoever misses it learns of it later, from the log or at a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Control {
    /// Whoever runs the response is to end it.
    Cancel { id: String },
    /// Whoever runs the response is to look what was asked of it.
    #[serde(rename = "look")]
    PollRequests { id: String },
    /// Whoever runs the response is to end it at its next token: a successor goes on from there.
    Steer { id: String },
    /// `by` has released the response: it waits to be claimed, by `to` if that is named, else by anybody.
    Released {
        id: String,
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
}

/// The replicas of one store, seen by one of them.
#[async_trait]
pub trait Fleet: Send + Sync + 'static {
    /// This replica's name, which no other ever had.
    fn me(&self) -> &str;

    /// Whether nobody else can use the store while this process does: every other member is dead for certain.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// Says that this replica lives and how, and returns the others that ever said so and were not forgotten.
    async fn beat(&self, report: &Report) -> Result<Vec<Member>, StoreError>;

    /// Says that this replica ends, so that nobody waits for its lease to run out, and returns the others.
    async fn leave(&self) -> Result<Vec<Member>, StoreError>;

    /// Forgets a dead replica that has nothing left to take over.
    async fn forget(&self, replica: &str) -> Result<(), StoreError>;

    /// The responses that a replica runs, or ran when it died.
    async fn runs(&self, replica: &str) -> Result<Vec<String>, StoreError>;

    /// Keeps what runs here from expiring while it waits. Returns those whose end was asked for.
    async fn renew(&self, ids: &[String]) -> Result<Vec<String>, StoreError>;

    /// The header of a response of any tenant; `None` when it is gone.
    async fn header(&self, id: &str) -> Result<Option<Arc<Header>>, StoreError>;

    /// The owner of a response that no living replica runs, as [`super::Store::claim`] wants it; `None` when one does, or when
    /// the response has ended or is gone.
    async fn dead_owner(&self, id: &str) -> Result<Option<String>, StoreError>;

    /// Says which of the responses that run here nobody follows any more, and which are followed again: whoever takes one over
    /// grants it no second grace.
    async fn left(&self, left: &[String], followed: &[String]) -> Result<(), StoreError>;

    /// Says which responses are followed here from now on, and which no longer.
    async fn announce(&self, followed: &[String], left: &[String]) -> Result<(), StoreError>;

    /// Of `ids`, those that are followed on another living replica.
    async fn followed(&self, ids: &[String]) -> Result<HashSet<String>, StoreError>;

    /// Gives the lease of a response back for the replica `to` to claim, as from nobody. Until somebody has claimed the response, it
    /// is listed as one that this replica runs: whoever buries this replica finds it. Whether the offer is heard is not known.
    async fn offer(&self, lease: &Lease, to: &str) -> Result<(), StoreError>;

    /// Asks whoever runs the response to end it as steered. Nothing happens if nobody hears it.
    async fn steer(&self, id: &str) -> Result<(), StoreError>;

    /// What replicas tell each other from now on; does not end. Messages sent while the store cannot be reached are lost.
    fn control(&self) -> BoxStream<'static, Control>;
}
