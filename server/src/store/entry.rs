//! The entries of a response's log.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    engine::{Finish, Logprobs},
    wire::response::Usage,
};

/// One step of a generation. The serialized names are short, because a log has an entry for every token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "k")]
pub enum Entry {
    /// The response waits to run. Absent if the response did not wait.
    #[serde(rename = "q")]
    Queued,
    /// The response runs.
    #[serde(rename = "s")]
    Started,
    /// The engine produced tokens. `text` is the text that can be shown after them.
    #[serde(rename = "d")]
    Delta {
        #[serde(rename = "t")]
        tokens: Vec<u32>,
        #[serde(rename = "x")]
        text: String,
        #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<Logprobs>,
        /// On the first delta: the prompt tokens whose keys and values were cached.
        #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
        cached_tokens: Option<u32>,
    },
    /// One of the responses that share the log ends here as cancelled. The other responses skip this entry.
    #[serde(rename = "e")]
    MemberLeft {
        response: String,
        usage: Usage,
        /// Unix seconds.
        completed_at: u64,
    },
    /// The generation has ended. This entry is the last one of a log.
    #[serde(rename = "f")]
    Finished {
        finish: Finish,
        usage: Usage,
        /// Unix seconds.
        completed_at: u64,
    },
}

impl Entry {
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }
}

/// Consecutive entries of a log, the first at index `first`.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryBatch {
    pub first: u64,
    pub entries: Vec<Arc<Entry>>,
    /// The log had entries after these when they were read.
    pub more: bool,
}
