//! `cache` of a request: whether an exact repetition is answered from the prompt cache.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{error::WireError, read::read_field};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheOptions {
    pub mode: CacheMode,
    /// How long the reply may be repeated, in seconds; `None`: as long as it is kept.
    pub ttl_s: Option<u64>,
    pub replay: Replay,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    #[default]
    Off,
    /// Repeats a reply that is there, and leaves none.
    Read,
    ReadWrite,
}

/// How a reply that is there is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replay {
    #[default]
    Instant,
    /// About as fast as it was generated.
    Paced,
}

/// Whether a request that repeats another one word for word is answered with that one's reply.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CacheOptions")]
pub struct CacheBody {
    /// Default `read_write` for requests that are seeded or of temperature 0, `off` for others.
    mode: Option<CacheMode>,
    /// How long the reply may be repeated, in seconds.
    #[schemars(range(min = 1))]
    ttl_s: Option<u64>,
    /// Default `instant`.
    replay: Option<Replay>,
}

impl CacheOptions {
    /// `deterministic`: the request is seeded or picks the likeliest token, so its reply is the only one.
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
