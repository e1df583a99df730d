//! Why a store did not do what it was asked to.

use super::quota::Exceeded;

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
    /// The tenant, or the key, stores as much as it may: see [`super::quota`].
    #[error("over quota: {0}")]
    OverQuota(Exceeded),
    /// The store can be reached and has no room. What exists is read, cancelled and deleted as ever.
    #[error("full: {0}")]
    Full(String),
    #[error("unavailable: {0}")]
    Unavailable(String),
}
