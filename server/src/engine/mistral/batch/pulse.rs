//! Whether an engine's thread is alive: a step that never ends says nothing, so it is found by time.
//!
//! Time is counted in checks, so that a process that was stopped for a while does not take its engine for one that hangs.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::throughput::UNKNOWN_RATE;
use crate::engine::KvBlocks;

const CHECK: Duration = Duration::from_millis(250);
/// How much longer than expected a step may take.
const PATIENCE: u32 = 20;
/// What every step may take, however short it should be.
const LEAST: Duration = Duration::from_secs(3);
/// What the first steps may take: nothing is known of them, and memory is touched for the first time.
const FIRST: Duration = Duration::from_secs(60);
const FIRST_STEPS: u64 = 3;

/// The steps of one engine and its blocks, marked by its thread.
#[derive(Default)]
pub struct Pulse(Mutex<PulseState>);

#[derive(Default, Clone)]
struct PulseState {
    steps: u64,
    /// How long the step under way should take.
    expected: Option<Duration>,
    /// The sequences that the last step computed.
    sequences: Vec<u64>,
    blocks: KvBlocks,
    /// Prompt tokens that the engine computes in a second, if it has computed some.
    reads: Option<f64>,
}

impl Pulse {
    /// A step of these sequences begins.
    pub fn begin(&self, expected: Duration, sequences: Vec<u64>) {
        let mut state = self.0.lock();
        let (blocks, reads) = (state.blocks, state.reads);
        *state = PulseState { steps: state.steps + 1, expected: Some(expected), sequences, blocks, reads };
    }

    /// The engine holds these blocks now.
    pub fn holds(&self, blocks: KvBlocks) {
        self.0.lock().blocks = blocks;
    }

    pub fn blocks(&self) -> KvBlocks {
        self.0.lock().blocks
    }

    /// The engine computes so many tokens of prompts in a second.
    pub fn reads_at(&self, tokens_per_second: f64) {
        self.0.lock().reads = Some(tokens_per_second);
    }

    /// Prompt tokens that the engine computes in a second.
    pub fn reads(&self) -> f64 {
        self.0.lock().reads.unwrap_or(UNKNOWN_RATE)
    }

    /// The step has ended.
    pub fn end(&self) {
        self.0.lock().expected = None;
    }

    /// Steps that have begun.
    pub fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    /// Whether the step under way computes a sequence.
    pub fn computes(&self, sequence: u64) -> bool {
        let state = self.0.lock();
        state.expected.is_some() && state.sequences.contains(&sequence)
    }

    /// Returns when a step does not return.
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

/// What is known of the step that was under way at the last check.
#[derive(Default)]
struct PulseWatch {
    step: u64,
    waited: Duration,
}

impl PulseWatch {
    /// To be called every [`CHECK`]. Returns why the engine is given up, if it is.
    fn check(&mut self, steps: u64, expected: Option<Duration>) -> Option<String> {
        let Some(expected) = expected.filter(|_| steps == self.step) else {
            *self = Self { step: steps, waited: Duration::ZERO };
            return None;
        };
        self.waited += CHECK;
        let least = if steps <= FIRST_STEPS { FIRST } else { LEAST };
        let gone = self.waited > (expected * PATIENCE).max(least);
        gone.then(|| format!("a step has not returned after {:?}; {expected:?} were expected", self.waited))
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
