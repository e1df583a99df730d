//! What is stored of a generation as it goes on: the entries of its log.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    engine::{Finish, Logprobs},
    wire::response::Usage,
};

/// One step of a generation. Its names are short where it is stored: there is one for every token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "k")]
pub enum Entry {
    /// It waits to run. Only present when it had to.
    #[serde(rename = "q")]
    Queued,
    /// It runs.
    #[serde(rename = "s")]
    Started,
    /// The engine produced tokens; `text` is what they let be shown.
    #[serde(rename = "d")]
    Delta {
        #[serde(rename = "t")]
        tokens: Vec<u32>,
        #[serde(rename = "x")]
        text: String,
        #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<Logprobs>,
        /// On the first: prompt tokens whose KV was there already.
        #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
        cached_tokens: Option<u32>,
    },
    /// One of the responses that share the log ends here, cancelled; for the others it means nothing.
    #[serde(rename = "e")]
    MemberLeft {
        response: String,
        usage: Usage,
        /// Unix seconds.
        completed_at: u64,
    },
    /// The last entry.
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
    /// The log had more entries than these when they were read.
    pub more: bool,
}
