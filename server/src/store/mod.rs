//! Stores: where generations are logged, and conversations, prompts and counts are kept. This folder owns the contracts and their
//! guarantees. `memory` keeps everything in the process, `sqlite` in a file, `redis` shares it between replicas. `conformance` is one
//! suite that every store passes.
//!
//! A response is its [`Header`], written once when it is created, and its log of [`Entry`]s, each written once, by whoever
//! holds the response's [`Lease`]: see [`Store`]. What replicas need to know of each other is [`fleet`]. All stores fail with
//! one [`StoreError`].

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
