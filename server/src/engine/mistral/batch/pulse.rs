//! Whether an engine's thread is alive: a step that never ends says nothing, so it is found by time.
//!
//! Time is counted in checks, so that a process that was stopped for a while does not take its engine for one that hangs.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use crate::engine::mistral::lock;

const CHECK: Duration = Duration::from_millis(250);
/// How much longer than expected a step may take.
const PATIENCE: u32 = 20;
/// What every step may take, however short it should be.
const LEAST: Duration = Duration::from_secs(3);
/// What the first steps may take: nothing is known of them, and memory is touched for the first time.
const FIRST: Duration = Duration::from_secs(60);
const FIRST_STEPS: u64 = 3;

/// The steps of one engine, marked by its thread.
#[derive(Default)]
pub struct Pulse(Mutex<State>);

#[derive(Default, Clone, Copy)]
struct State {
    steps: u64,
    /// What the step under way should take.
    expected: Option<Duration>,
}

impl Pulse {
    /// A step begins.
    pub fn begin(&self, expected: Duration) {
        let mut state = lock(&self.0);
        state.steps += 1;
        state.expected = Some(expected);
    }

    /// The step has ended.
    pub fn end(&self) {
        lock(&self.0).expected = None;
    }

    /// Steps that have begun.
    pub fn steps(&self) -> u64 {
        lock(&self.0).steps
    }

    /// Whether a step is under way.
    pub fn is_stepping(&self) -> bool {
        lock(&self.0).expected.is_some()
    }

    /// Returns when a step does not return.
    pub async fn stops(self: Arc<Self>) -> String {
        let mut checks = interval(CHECK);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut step, mut waited) = (0, Duration::ZERO);
        loop {
            checks.tick().await;
            let State { steps, expected } = *lock(&self.0);
            let Some(expected) = expected.filter(|_| steps == step) else {
                (step, waited) = (steps, Duration::ZERO);
                continue;
            };
            waited += CHECK;
            let least = if steps <= FIRST_STEPS { FIRST } else { LEAST };
            if waited > (expected * PATIENCE).max(least) {
                return format!("a step has not returned after {waited:?}; {expected:?} were expected");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_step_that_does_not_return_is_found() {
        let pulse = Arc::new(Pulse::default());
        let stops = tokio::spawn(pulse.clone().stops());
        for _ in 0..20 {
            pulse.begin(Duration::from_millis(20));
            tokio::time::sleep(Duration::from_millis(900)).await;
            pulse.end();
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        assert!(!stops.is_finished());
        pulse.begin(Duration::from_millis(20));
        tokio::time::sleep(LEAST / 2).await;
        assert!(!stops.is_finished());
        tokio::time::sleep(LEAST).await;
        assert!(stops.await.unwrap().contains("has not returned"));
    }
}
