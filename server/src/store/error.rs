//! Errors of stores.

use super::quota::Exceeded;

/// The error of every store. Each variant tells the caller how to react. It does not name the object: the caller knows what it
/// asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such response, conversation, prompt or version, or it belongs to another tenant.
    #[error("not found")]
    NotFound,
    /// The conversation has no such item.
    #[error("item not found")]
    ItemNotFound,
    /// The page's `after` names nothing in the list.
    #[error("cursor not found")]
    CursorNotFound,
    /// The response was created with `store: false`, and its resume window has ended.
    #[error("expired")]
    Expired,
    /// The caller does not hold the lease any more, or the log has ended or is gone.
    #[error("fenced")]
    Fenced,
    /// The store has lost the latest entries of the log. It has this many; append again from there.
    #[error("behind, at {0}")]
    Behind(u64),
    /// `enter`: more turns are in line than the response may wait for. `begin`: the response is not first in line.
    #[error("busy")]
    Busy,
    /// A newer version of the server wrote the log, or the log is damaged.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// A conversation would have more items or bytes than its bounds allow; or a tenant's prompts more prompts, versions or bytes.
    #[error("over its bounds")]
    OverBounds,
    /// The tenant or the key would exceed its storage quota: see [`super::quota`].
    #[error("over quota: {0}")]
    OverQuota(Exceeded),
    /// The store has no room for any tenant. Reads, cancels and deletes still work.
    #[error("the store is full: {0}")]
    StoreFull(String),
    /// The store cannot be reached, or has not answered in time. Try again.
    #[error("unavailable: {0}")]
    Unavailable(String),
}
