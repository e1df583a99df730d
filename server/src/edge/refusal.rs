//! Refused requests: the reason for the log, and the number of refusals of each address, which delays the next ones.

use std::{net::IpAddr, time::Duration};

use actix_web::{HttpMessage, HttpRequest};
use moka::sync::Cache;

use crate::wire::error::WireError;

/// The time after which the count of an address starts again.
const MINUTE: Duration = Duration::from_secs(60);
/// Most addresses with a count. The cache evicts the count of another address when it is full.
const ADDRESSES: u64 = 10_000;
/// Refusals of an address in a minute that are answered without delay and all logged.
const FREE: u32 = 20;
/// The delay that each later refusal adds, and the longest delay.
const SLOWER: Duration = Duration::from_millis(50);
const SLOWEST: Duration = Duration::from_secs(2);

/// The reason of a refusal. The extractor stores it in the request's extensions.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: &'static str,
    pub tenant: Option<String>,
}

/// Stores the reason in the request's extensions, for the log, and returns `error`.
pub fn refuse(request: &HttpRequest, reason: &'static str, tenant: Option<String>, error: WireError) -> WireError {
    request.extensions_mut().insert(Refusal { reason, tenant });
    error
}

/// The number of refusals of each address in this minute.
pub struct Refusals(Cache<IpAddr, u32>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(ADDRESSES).time_to_live(MINUTE).build())
    }
}

impl Refusals {
    /// Counts a refusal. Returns the number of refusals of the address in this minute, including this one.
    pub fn count(&self, address: Option<IpAddr>) -> u32 {
        let Some(address) = address else { return 1 };
        let entry = self
            .0
            .entry(address)
            .and_upsert_with(|entry| entry.map_or(1, |entry| entry.into_value().saturating_add(1)));
        entry.into_value()
    }
}

/// Returns whether refusal number `count` of a minute is logged: each of the first ones, then every hundredth.
pub fn is_logged(count: u32) -> bool {
    count <= FREE || count.is_multiple_of(100)
}

/// Returns the delay of the answer to refusal number `count` of a minute.
pub fn delay(count: u32) -> Duration {
    (SLOWER * count.saturating_sub(FREE)).min(SLOWEST)
}
