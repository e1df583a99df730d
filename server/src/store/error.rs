//! Why a store did not do what it was asked to.

use super::quota::Exceeded;

/// The error of every store. Each variant says what the caller can do about it; who answers a client names what the client
/// asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such response, conversation, prompt or version, or it is another tenant's.
    #[error("not found")]
    NotFound,
    /// The conversation has no such item.
    #[error("item not found")]
    ItemNotFound,
    /// The page's `after` names nothing in the list.
    #[error("cursor not found")]
    CursorNotFound,
    /// The response existed, was not to be stored, and its resume window has ended.
    #[error("expired")]
    Expired,
    /// The lease is no longer held, the log has ended, or it is gone.
    #[error("fenced")]
    Fenced,
    /// The log has only so many entries: the store lost the latest. Append again from there.
    #[error("behind, at {0}")]
    Behind(u64),
    /// More turns are in line than the one who enters wants to wait for, or the turn is not the first.
    #[error("busy")]
    Busy,
    /// A newer version of the server wrote the log.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// A conversation would have more items or bytes than its bounds allow; or a tenant's prompts more prompts, versions or bytes.
    #[error("over its bounds")]
    OverBounds,
    /// The tenant, or the key, stores as much as it may: see [`super::quota`].
    #[error("over quota: {0}")]
    OverQuota(Exceeded),
    /// The store can be reached and has no room for anybody. What exists is read, cancelled and deleted as ever.
    #[error("the store is full: {0}")]
    StoreFull(String),
    #[error("unavailable: {0}")]
    Unavailable(String),
}
