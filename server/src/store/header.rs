//! What is stored of a response when it is created.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{error::StoreError, quota::KeyQuota, sharing::Sharing, spec::GenerationSpec};
use crate::dialect::{Dialect, schema::Loosened};

/// The version of [`Header`] and [`Entry`](super::entry::Entry) that this build writes. Older ones stay readable and render as they did.
pub const LOG_VERSION: u32 = 1;

/// What a response was created with. Immutable; with the entries it determines every event, on every replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub version: u32,
    pub id: String,
    pub tenant: String,
    /// Unix seconds.
    pub created_at: u64,
    /// The model's id after defaults were applied.
    pub model: String,
    /// Under the name that headers of version 1 have.
    #[serde(rename = "create")]
    pub spec: GenerationSpec,
    /// The rendered prompt, so that any replica can continue the generation.
    pub prompt: Vec<u32>,
    pub seed: u64,
    /// Bound on output tokens after the context's end was considered.
    pub max_output_tokens: u32,
    /// How the model writes thoughts and calls.
    #[serde(default)]
    pub dialect: Dialect,
    /// What of the request's schemas the output is not held to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub holding: BTreeMap<String, Loosened>,
    /// What `truncation: auto` left out of the prompt.
    #[serde(default)]
    pub left_out: TruncatedItems,
    /// Where the log is not this response's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// What happens to the generation when nobody follows it any more.
    #[serde(default)]
    pub on_disconnect: OnDisconnect,
    #[serde(default)]
    pub origin: Origin,
    /// The key that created it, where that key has limits of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_quota: Option<KeyQuota>,
}

/// How a response was asked for. For operators: no event depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    pub transport: Transport,
    /// The span of the request, as W3C Trace Context has it. Whoever takes the response over goes on with its trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    #[default]
    Http,
    Websocket,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Websocket => "websocket",
        }
    }
}

/// What happens to a generation when its last follower has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// The generation is cancelled within two seconds: its client cannot resume.
    Cancel,
    /// The generation goes on for `generation.orphan_grace_ms`: its client may resume.
    #[default]
    Grace,
    /// The generation goes on to its end: the request had `background: true`.
    Continue,
}

impl Header {
    /// The log that it shows, where that is not its own.
    pub fn shared_log(&self) -> Option<&str> {
        self.sharing.as_ref().and_then(Sharing::log)
    }

    /// Reads a header as stores write it: as JSON.
    ///
    /// # Errors
    /// `Unreadable` when a newer version wrote it, or when it is damaged.
    pub fn from_json(json: &str) -> Result<Arc<Self>, StoreError> {
        let unreadable =
            |error: serde_json::Error| StoreError::Unreadable(format!("a header that is not valid: {error}"));
        let Version { version } = serde_json::from_str(json).map_err(unreadable)?;
        if version > LOG_VERSION {
            let what = format!("a log of version {version}, and this server reads versions up to {LOG_VERSION}");
            return Err(StoreError::Unreadable(what));
        }
        serde_json::from_str(json).map_err(unreadable)
    }
}

/// Whole turns, the oldest first, that had no room in the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruncatedItems {
    pub turns: u32,
}

/// The version alone, which every version of the header has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}
