//! Which log a response shows, if others show the log too.

use serde::{Deserialize, Serialize};

use super::cache::CacheKey;

/// How a response has to do with a shared log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Sharing {
    /// It is the run that writes one, for this key. No client knows it.
    Run { key: CacheKey, ttl_s: u64 },
    /// It shows one, and has no entries of its own.
    Member { key: CacheKey, log: String, role: MemberRole },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum MemberRole {
    /// The run was started for it.
    First,
    /// The run had begun.
    Joined,
    /// The run had ended.
    Replayed { pace: Option<ReplayPace> },
}

/// When entry n of a replay is shown: `from_ms + n * interval_ms`, in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayPace {
    pub from_ms: u64,
    pub interval_ms: u64,
}

impl Sharing {
    /// The log that a member shows.
    pub fn log(&self) -> Option<&str> {
        match self {
            Self::Member { log, .. } => Some(log),
            Self::Run { .. } => None,
        }
    }
}
