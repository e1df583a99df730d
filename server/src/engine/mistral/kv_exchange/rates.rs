//! Whether fetching blocks is faster than computing them: a rule on what was measured here.

use std::time::{Duration, Instant};

/// How much the newest measurement counts.
const NEWEST: f64 = 0.3;
/// Where nothing was measured yet.
const UNKNOWN: TransferRates =
    TransferRates { round_trip: 0.001, bytes_per_second: 200e6, tokens_per_second: 500.0, measured: None };
/// A store that was slow is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Fetching is estimated to take at most this share of computing: the blocks are also checked and copied.
const SHARE: f64 = 0.8;

/// Means of recent measurements.
#[derive(Debug, Clone, Copy)]
pub struct TransferRates {
    /// Seconds.
    round_trip: f64,
    bytes_per_second: f64,
    /// Prompt tokens that the engine computes.
    tokens_per_second: f64,
    /// When blocks were fetched last.
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

    /// How long the engine takes for so many tokens, alone.
    pub fn computing(&self, tokens: usize) -> Duration {
        Duration::from_secs_f64(tokens as f64 / self.tokens_per_second)
    }

    /// Estimates the time to fetch so many bytes.
    pub fn fetching(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64((self.round_trip + bytes as f64 / self.bytes_per_second.max(1.0)).clamp(0.0, 1e6))
    }

    /// Whether so many tokens are fetched faster than they are computed.
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
        // 46 KB a token, as of the default model.
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
