//! The speed of steps, measured with every step.

use std::time::Duration;

use crate::engine::kv::BLOCK;

/// The weight of the newest measurement in a mean.
const NEWEST: f64 = 0.2;
/// Prompt tokens per second that are assumed before the first prompt was computed.
pub const UNKNOWN_RATE: f64 = 500.0;

/// The work of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepSize {
    /// Sequences that compute one token.
    pub decoding: usize,
    /// Tokens of prompts.
    pub prompt_tokens: usize,
}

/// The means of recent steps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Throughput {
    /// Seconds for each sequence of a step that only decodes.
    decode: Option<f64>,
    /// Prompt tokens per second, without the time for the sequences that decode.
    rate: Option<f64>,
}

impl Throughput {
    pub fn measured(&mut self, size: StepSize, took: Duration) {
        let took = took.as_secs_f64();
        if size.prompt_tokens == 0 {
            mean(&mut self.decode, took / size.decoding.max(1) as f64);
        } else if size.prompt_tokens >= BLOCK {
            let computing = (took - self.decoding(size.decoding)).max(took / 10.0);
            mean(&mut self.rate, size.prompt_tokens as f64 / computing);
        }
    }

    /// The number of prompt tokens that a step can compute within `limit`, beside `decoding` sequences.
    pub fn tokens_within(&self, limit: Duration, decoding: usize) -> usize {
        let left = (limit.as_secs_f64() - self.decoding(decoding)).max(0.0);
        (left * self.rate.unwrap_or(UNKNOWN_RATE)) as usize
    }

    /// Prompt tokens per second; `None` before the first measurement.
    pub fn prompt_rate(&self) -> Option<f64> {
        self.rate
    }

    /// The time that a step should take.
    pub fn expected(&self, size: StepSize) -> Duration {
        let prompts = size.prompt_tokens as f64 / self.rate.unwrap_or(UNKNOWN_RATE);
        Duration::from_secs_f64((self.decoding(size.decoding) + prompts).clamp(0.0, 1e6))
    }

    fn decoding(&self, sequences: usize) -> f64 {
        self.decode.unwrap_or(0.0) * sequences as f64
    }
}

fn mean(mean: &mut Option<f64>, new: f64) {
    *mean = Some(mean.map_or(new, |mean| mean + (new - mean) * NEWEST));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fit_the_limit() {
        let mut throughput = Throughput::default();
        for _ in 0..50 {
            throughput.measured(StepSize { decoding: 4, prompt_tokens: 0 }, Duration::from_millis(8));
            throughput.measured(StepSize { decoding: 4, prompt_tokens: 100 }, Duration::from_millis(108));
        }
        let tokens = throughput.tokens_within(Duration::from_millis(50), 4);
        assert!((40..=44).contains(&tokens), "{tokens}");
        let expected = throughput.expected(StepSize { decoding: 4, prompt_tokens: 100 });
        assert!((100..=116).contains(&expected.as_millis()), "{expected:?}");
        assert_eq!(throughput.tokens_within(Duration::from_millis(5), 4), 0, "decoding alone takes longer");
    }
}
