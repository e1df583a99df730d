//! The role of a response in a shared log.

use serde::{Deserialize, Serialize};

use super::cache::CacheKey;

/// The role of a response in a shared log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Sharing {
    /// The response is the run that writes the log of this cache key. No client knows its id.
    Run { key: CacheKey, ttl_s: u64 },
    /// The response shows the log with id `log` and has no entries of its own.
    Member { key: CacheKey, log: String, role: MemberRole },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum MemberRole {
    /// The run was started for this response.
    First,
    /// The run had begun when this response joined.
    Joined,
    /// The run had ended: the log is replayed, with a pace if the request asked for one.
    Replayed { pace: Option<ReplayPace> },
}

/// The pace of a replay: entry n is shown at `from_ms + n * interval_ms`, in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayPace {
    pub from_ms: u64,
    pub interval_ms: u64,
}

impl Sharing {
    /// Returns the id of the log that a member shows.
    pub fn log(&self) -> Option<&str> {
        match self {
            Self::Member { log, .. } => Some(log),
            Self::Run { .. } => None,
        }
    }
}
