//! Estimates from measurements whether fetching blocks is faster than computing them.

use std::time::{Duration, Instant};

/// The weight of the newest measurement in a mean.
const NEWEST: f64 = 0.3;
/// Assumed before the first measurements.
const UNKNOWN: TransferRates =
    TransferRates { round_trip: 0.001, bytes_per_second: 200e6, tokens_per_second: 500.0, measured: None };
/// If nothing was fetched for this long, a slow store is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Blocks are fetched if that takes less than this share of the time to compute them. The rest is for checking and copying.
const SHARE: f64 = 0.8;

/// Means of recent measurements.
#[derive(Debug, Clone, Copy)]
pub struct TransferRates {
    /// Seconds from a request to the store's answer.
    round_trip: f64,
    bytes_per_second: f64,
    /// Prompt tokens that the engine computes per second.
    tokens_per_second: f64,
    /// The time of the last fetch; `None` before the first.
    measured: Option<Instant>,
}

impl Default for TransferRates {
    fn default() -> Self {
        UNKNOWN
    }
}

impl TransferRates {
    pub fn looked_up(&mut self, took: Duration) {
        mean(&mut self.round_trip, took.as_secs_f64());
    }

    pub fn fetched(&mut self, bytes: usize, took: Duration) {
        mean(&mut self.bytes_per_second, bytes as f64 / took.as_secs_f64().max(1e-6));
        self.measured = Some(Instant::now());
    }

    pub fn computes(&mut self, tokens_per_second: f64) {
        self.tokens_per_second = tokens_per_second.max(1.0);
    }

    /// Estimates how long the engine takes to compute a prompt of `tokens` tokens alone.
    pub fn computing(&self, tokens: usize) -> Duration {
        Duration::from_secs_f64(tokens as f64 / self.tokens_per_second)
    }

    /// Estimates how long it takes to fetch `bytes` bytes.
    pub fn fetching(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64((self.round_trip + bytes as f64 / self.bytes_per_second.max(1.0)).clamp(0.0, 1e6))
    }

    /// Whether to fetch `tokens` tokens, whose blocks have `bytes` bytes, instead of computing them.
    pub fn pays(&self, tokens: usize, bytes: usize) -> bool {
        let fetching = self.fetching(bytes);
        let is_stale = self.measured.is_some_and(|at| at.elapsed() > TRY_AGAIN);
        tokens > 0 && (is_stale || fetching < self.computing(tokens).mul_f64(SHARE))
    }
}

fn mean(mean: &mut f64, new: f64) {
    *mean += (new - *mean) * NEWEST;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_computes_faster_than_it_travels_is_computed() {
        let mut rates = TransferRates::default();
        rates.computes(1000.0);
        // 46 KB for each token, as with the default model.
        let pays = |rates: &TransferRates, tokens: usize| rates.pays(tokens, tokens * 46_080);
        assert!(pays(&rates, 64));
        assert!(!pays(&rates, 0));
        for _ in 0..20 {
            rates.fetched(10 << 20, Duration::from_secs(1));
        }
        assert!(!pays(&rates, 1000), "10 MB a second");
        for _ in 0..20 {
            rates.fetched(500 << 20, Duration::from_secs(1));
            rates.looked_up(Duration::from_millis(30));
        }
        assert!(pays(&rates, 1000));
        assert!(!pays(&rates, 16), "the round trip takes longer than 16 tokens");
    }
}
