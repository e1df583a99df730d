//! `cache` of a request: whether the prompt cache may answer an exact repetition of an earlier request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{error::WireError, read::read_field};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheOptions {
    pub mode: CacheMode,
    /// Seconds for which the stored reply may be replayed. `None`: as long as the store retains the reply.
    pub ttl_s: Option<u64>,
    pub replay: Replay,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    #[default]
    Off,
    /// Replays a stored reply; stores no new one.
    Read,
    ReadWrite,
}

/// How fast a stored reply is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replay {
    #[default]
    Instant,
    /// About as fast as the reply was generated.
    Paced,
}

/// Whether a request that equals an earlier one word for word gets the reply of the earlier one.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CacheOptions")]
pub struct CacheBody {
    /// Default: `read_write` for requests with a seed or with temperature 0, `off` for others.
    mode: Option<CacheMode>,
    /// Seconds for which the stored reply may be replayed.
    #[schemars(range(min = 1))]
    ttl_s: Option<u64>,
    /// Default `instant`.
    replay: Option<Replay>,
}

impl CacheOptions {
    /// Returns the options of a request without `cache`. `deterministic`: the request has a seed or temperature 0, so that every
    /// generation gives the same reply.
    pub fn by_default(deterministic: bool) -> Self {
        let mode = if deterministic { CacheMode::ReadWrite } else { CacheMode::Off };
        Self { mode, ..Self::default() }
    }

    pub fn from_value(value: Value, deterministic: bool) -> Result<Self, WireError> {
        let body: CacheBody = read_field("cache", value)?;
        if body.ttl_s == Some(0) {
            return Err(WireError::invalid("cache.ttl_s", "'cache.ttl_s' must be at least 1."));
        }
        let by_default = Self::by_default(deterministic);
        Ok(Self {
            mode: body.mode.unwrap_or(by_default.mode),
            ttl_s: body.ttl_s,
            replay: body.replay.unwrap_or_default(),
        })
    }
}
