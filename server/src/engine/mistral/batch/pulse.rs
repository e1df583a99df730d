//! Detects that an engine's thread hangs: a step takes far longer than expected.
//!
//! Time is counted in checks, so that an engine does not seem to hang after the whole process was stopped for a while.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::throughput::UNKNOWN_RATE;
use crate::engine::KvBlocks;

const CHECK: Duration = Duration::from_millis(250);
/// How much longer than expected a step may take.
const PATIENCE: u32 = 20;
/// Every step may take this long, even if much less is expected.
const LEAST: Duration = Duration::from_secs(3);
/// The first steps may take this long: their speed is unknown, and they touch memory for the first time.
const FIRST: Duration = Duration::from_secs(60);
const FIRST_STEPS: u64 = 3;

/// The state of one engine, as its thread reports it.
#[derive(Default)]
pub struct Pulse(Mutex<PulseState>);

#[derive(Default, Clone)]
struct PulseState {
    /// Steps that have begun.
    steps: u64,
    /// The time that the current step should take; `None` between steps.
    expected: Option<Duration>,
    /// The ids of the sequences that the last step computes.
    sequences: Vec<u64>,
    blocks: KvBlocks,
    /// Prompt tokens that the engine computes per second; `None` before the first.
    reads: Option<f64>,
}

impl Pulse {
    /// Records that a step of these sequences begins.
    pub fn begin(&self, expected: Duration, sequences: Vec<u64>) {
        let mut state = self.0.lock();
        let (blocks, reads) = (state.blocks, state.reads);
        *state = PulseState { steps: state.steps + 1, expected: Some(expected), sequences, blocks, reads };
    }

    /// Records how many blocks the engine holds.
    pub fn holds(&self, blocks: KvBlocks) {
        self.0.lock().blocks = blocks;
    }

    pub fn blocks(&self) -> KvBlocks {
        self.0.lock().blocks
    }

    /// Records how many prompt tokens the engine computes per second.
    pub fn set_prompt_rate(&self, tokens_per_second: f64) {
        self.0.lock().reads = Some(tokens_per_second);
    }

    /// Prompt tokens that the engine computes per second.
    pub fn prompt_rate(&self) -> f64 {
        self.0.lock().reads.unwrap_or(UNKNOWN_RATE)
    }

    /// Records that the step has ended.
    pub fn end(&self) {
        self.0.lock().expected = None;
    }

    /// Steps that have begun.
    pub fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    /// Whether the current step computes a sequence.
    pub fn computes(&self, sequence: u64) -> bool {
        let state = self.0.lock();
        state.expected.is_some() && state.sequences.contains(&sequence)
    }

    /// Waits until a step hangs. Returns a message about it.
    pub async fn stops(self: Arc<Self>) -> String {
        let mut checks = interval(CHECK);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = PulseWatch::default();
        loop {
            checks.tick().await;
            let (steps, expected) = {
                let state = self.0.lock();
                (state.steps, state.expected)
            };
            if let Some(reason) = watch.check(steps, expected) {
                return reason;
            }
        }
    }
}

/// The step of the last check, and how long it has run.
#[derive(Default)]
struct PulseWatch {
    step: u64,
    waited: Duration,
}

impl PulseWatch {
    /// Must be called every [`CHECK`]. Returns a message if the step hangs.
    fn check(&mut self, steps: u64, expected: Option<Duration>) -> Option<String> {
        let Some(expected) = expected.filter(|_| steps == self.step) else {
            *self = Self { step: steps, waited: Duration::ZERO };
            return None;
        };
        self.waited += CHECK;
        let least = if steps <= FIRST_STEPS { FIRST } else { LEAST };
        let gone = self.waited > (expected * PATIENCE).max(least);
        gone.then(|| format!("a step has not returned after {:?}; it should take {expected:?}", self.waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_that_does_not_return_is_found() {
        let mut watch = PulseWatch::default();
        let expected = Some(Duration::from_millis(20));
        for steps in 0..1000 {
            assert_eq!(watch.check(steps, expected), None);
            assert_eq!(watch.check(steps, expected), None);
            assert_eq!(watch.check(steps, None), None);
        }
        let checks = (0..).take_while(|_| watch.check(1000, expected).is_none()).count() as u32;
        assert!((LEAST..LEAST + 3 * CHECK).contains(&(checks * CHECK)), "{checks} checks");
        let slow = Some(Duration::from_secs(2));
        let checks = (0..).take_while(|_| watch.check(1001, slow).is_none()).count() as u32;
        assert!(checks * CHECK >= Duration::from_secs(40), "a slow model is given more time");
    }
}
