//! Stores of responses, conversations, prompts and rates. This folder owns their contracts. `memory` stores in the process,
//! `sqlite` in a file, `redis` on a server that all replicas share. `conformance` has a suite of tests for each contract except
//! [`fleet`] and [`inventory`]; every store passes all suites.
//!
//! A response consists of its [`Header`], which is written once when the response is created, and its log of [`Entry`]s, which are
//! appended by the holder of the response's [`Lease`]: see [`Store`]. [`fleet`] is the contract between replicas. All stores fail
//! with one [`StoreError`].

pub mod cache;
#[cfg(test)]
pub(crate) mod conformance;
pub mod conversations;
mod entry;
mod error;
pub mod fleet;
mod header;
pub mod inventory;
pub mod kv_folder;
mod log_entries;
pub mod memory;
mod observed;
pub mod page;
pub mod prompts;
pub mod quota;
pub mod rates;
pub mod redis;
mod responses;
mod retention;
mod shared;
pub mod sharing;
mod spec;
pub mod sqlite;
mod stores;
pub mod transfer;

pub use entry::{Entry, EntryBatch};
pub use error::StoreError;
pub use header::{Header, LOG_VERSION, OnDisconnect, Origin, Transport, TruncatedItems};
pub use observed::ObservedStore;
pub use responses::{Appended, Claim, Created, Followed, Lease, Snapshot, Store};
pub use retention::Retention;
pub use shared::SharedLogs;
pub use sharing::Sharing;
pub use spec::GenerationSpec;
pub use stores::Stores;
