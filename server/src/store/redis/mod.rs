//! The store of a fleet, on Redis 7 or Valkey: one server, Sentinel or Cluster. Its keys are described in [`keys`].
//!
//! A change of a response is one script of `lua/` on one slot. So it is atomic, and it may be repeated after a lost answer. A
//! follower reads a log by range, and later entries from shard pub/sub over one connection (`live`, `follow`). A command that Redis
//! refuses or does not answer in time fails with `Unavailable`; callers decide how long they retry.

mod appends;
mod cache;
mod conversations;
mod fleet;
mod follow;
mod handle;
mod inventory;
pub mod keys;
mod kv;
mod ledger;
mod link;
mod live;
mod prompts;
mod rates;
mod responses;
mod scripts;

#[cfg(test)]
mod tests;

pub use handle::{RedisConfig, RedisStore};
pub use kv::{KvConfig, RedisKv};
pub use link::{Credentials, UrlError};
