//! Refused requests: why, for the log, and how often each address was refused, to slow it.

use std::{net::IpAddr, time::Duration};

use actix_web::{HttpMessage, HttpRequest};
use moka::sync::Cache;

use crate::wire::error::WireError;

/// How long the refusals of an address are counted together.
const MINUTE: Duration = Duration::from_secs(60);
/// Addresses that are counted; the least recently refused is forgotten.
const ADDRESSES: u64 = 10_000;
/// Refusals of an address in a minute that are answered at once, and logged one by one.
const FREE: u32 = 20;
/// What each later refusal waits longer, and at most.
const SLOWER: Duration = Duration::from_millis(50);
const SLOWEST: Duration = Duration::from_secs(2);

/// Why a request was refused; its extractor leaves this with the request.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: &'static str,
    pub tenant: Option<String>,
}

/// Leaves the reason with the request, for the log, and returns `error`.
pub fn refuse(request: &HttpRequest, reason: &'static str, tenant: Option<String>, error: WireError) -> WireError {
    request.extensions_mut().insert(Refusal { reason, tenant });
    error
}

/// Refusals of each address in this minute.
pub struct Refusals(Cache<IpAddr, u32>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(ADDRESSES).time_to_live(MINUTE).build())
    }
}

impl Refusals {
    /// Counts a refusal: how often the address was refused in this minute, this time included.
    pub fn count(&self, address: Option<IpAddr>) -> u32 {
        let Some(address) = address else { return 1 };
        let entry = self
            .0
            .entry(address)
            .and_upsert_with(|entry| entry.map_or(1, |entry| entry.into_value().saturating_add(1)));
        entry.into_value()
    }
}

/// Whether a minute's refusal number `count` is logged: each of the first, then every hundredth.
pub fn is_logged(count: u32) -> bool {
    count <= FREE || count.is_multiple_of(100)
}

/// How long the answer to a minute's refusal number `count` waits.
pub fn delay(count: u32) -> Duration {
    (SLOWER * count.saturating_sub(FREE)).min(SLOWEST)
}
