//! The header of a response, which is stored when the response is created.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{error::StoreError, quota::KeyQuota, sharing::Sharing, spec::GenerationSpec};
use crate::dialect::{Dialect, schema::Loosened};

/// The version of [`Header`] and [`Entry`](super::entry::Entry) that this build writes. Every later build MUST read older versions
/// and render the same events.
pub const LOG_VERSION: u32 = 1;

/// The parameters of a response. Immutable. Header and entries together determine every event, on every replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub version: u32,
    pub id: String,
    pub tenant: String,
    /// Unix seconds.
    pub created_at: u64,
    /// The id of the model; never an alias or a default.
    pub model: String,
    /// The request. Serialized as `create`, the name in headers of version 1.
    #[serde(rename = "create")]
    pub spec: GenerationSpec,
    /// The tokens of the prompt, so that any replica can continue the generation.
    pub prompt: Vec<u32>,
    pub seed: u64,
    /// The bound on output tokens: the request's bound, or less if the context holds less.
    pub max_output_tokens: u32,
    /// The form in which the model writes thoughts and calls.
    #[serde(default)]
    pub dialect: Dialect,
    /// The parts of the request's schemas that do not constrain the output, by function name; empty name: `text.format`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub holding: BTreeMap<String, Loosened>,
    /// The turns that `truncation: auto` left out of the prompt.
    #[serde(default)]
    pub left_out: TruncatedItems,
    /// Present if the response shares a log with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// What happens to the generation when nobody follows it any more.
    #[serde(default)]
    pub on_disconnect: OnDisconnect,
    #[serde(default)]
    pub origin: Origin,
    /// The key that created the response, if that key has limits of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_quota: Option<KeyQuota>,
}

/// The origin of a request, for logs and traces. No event depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    pub transport: Transport,
    /// The span of the request, in the form of W3C Trace Context. The replica that takes the response over continues its trace.
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
    /// The generation is cancelled half a second later, because its client cannot resume.
    Cancel,
    /// The generation continues for `generation.orphan_grace_ms`, because its client may resume.
    #[default]
    Grace,
    /// The generation runs to its end, because the request had `background: true`.
    Continue,
}

impl Header {
    /// Returns the id of the log that the response shows, if the response has no log of its own.
    pub fn shared_log(&self) -> Option<&str> {
        self.sharing.as_ref().and_then(Sharing::log)
    }

    /// Parses a stored header.
    ///
    /// # Errors
    /// `Unreadable` if a newer version wrote the header, or if it is damaged.
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

/// The number of whole turns, the oldest ones, that were left out of the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruncatedItems {
    pub turns: u32,
}

/// The version field, which every version of the header has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}
