//! Whether a run is alive. A step that never ends says nothing, so it is told by time.
//!
//! Two rules, both counted in ticks, so that a process that was stopped for a while is not taken for an engine that hangs:
//!
//! - **asleep**: for [`IDLE`] the threads of the engine slept in the middle of a step without using the processor, and nobody
//!   computed for them. A step is computation and nothing else, so this holds for short prompts, long prompts, fast models and
//!   slow ones.
//! - **late**: a step takes more than [`PATIENCE`] times as long as it should, and at least [`LEAST`]: a decode step as long
//!   as the steps before it, in this run or in those before; a prefill as long as the tokens that are not in
//!   the cache take at the measured rate. This one catches a thread that spins.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use super::threads::{EngineThreads, Seen, lock};

const TICK: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_millis(1500);
const LEAST: Duration = Duration::from_secs(2);
const PATIENCE: u32 = 20;

/// How long a run's steps should take.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// From the request to the first step.
    pub prefill: Duration,
    /// Between two steps.
    pub step: Duration,
}

impl Expected {
    /// In a batch a step waits for what others begin: a long prompt of another.
    pub fn beside_others(self) -> Self {
        const OTHERS: Duration = Duration::from_millis(1500);
        Self { prefill: self.prefill.max(OTHERS), step: self.step.max(OTHERS) }
    }
}

/// The steps of one run, marked by the engine's thread and read by everybody.
pub struct Watch {
    begun: Instant,
    steps: Mutex<Steps>,
    ended_at_once: AtomicBool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Steps {
    count: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Watch {
    pub fn new() -> Self {
        Self { begun: Instant::now(), steps: Mutex::default(), ended_at_once: AtomicBool::new(false) }
    }

    /// A step's logits are there.
    pub fn step(&self) {
        let now = Instant::now();
        let mut steps = lock(&self.steps);
        steps.count += 1;
        steps.first.get_or_insert(now);
        steps.last = Some(now);
    }

    pub fn steps(&self) -> u32 {
        lock(&self.steps).count
    }

    /// The sequence had its end in its first step, so that the engine was given another token before it.
    pub fn end_at_once(&self) {
        self.ended_at_once.store(true, Ordering::Relaxed);
    }

    pub fn ended_at_once(&self) -> bool {
        self.ended_at_once.load(Ordering::Relaxed)
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// From the request to the first step, once it was made.
    pub fn prefill(&self) -> Option<Duration> {
        lock(&self.steps).first.map(|first| first - self.begun)
    }

    /// The mean time between two steps, once there were two.
    pub fn step_time(&self) -> Option<Duration> {
        let steps = *lock(&self.steps);
        let between = steps.last? - steps.first?;
        (steps.count > 1).then(|| between / (steps.count - 1))
    }

    /// Returns, saying why, when the run hangs. Never while it does not.
    pub async fn hangs(&self, threads: Option<&EngineThreads>, expected: Expected) -> String {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut quiet = Quiet::default();
        loop {
            ticks.tick().await;
            let seen = threads.map_or(Seen::Unclear, EngineThreads::see);
            if let Some(reason) = quiet.tick(self.steps(), seen, self.limit(expected)) {
                return reason;
            }
        }
    }

    fn limit(&self, expected: Expected) -> Duration {
        let expected = match self.steps() {
            0 => expected.prefill,
            _ => self.step_time().unwrap_or_default().max(expected.step),
        };
        (expected * PATIENCE).max(LEAST)
    }
}

/// What the ticks since the last step have seen.
#[derive(Default)]
struct Quiet {
    steps: u32,
    ticks: u32,
    used: u64,
    asleep: u32,
}

impl Quiet {
    fn tick(&mut self, steps: u32, seen: Seen, limit: Duration) -> Option<String> {
        if steps != self.steps {
            *self = Self { steps, ..Self::default() };
            return None;
        }
        self.ticks += 1;
        match seen {
            Seen::Awake => self.asleep = 0,
            Seen::Unclear => {}
            Seen::Asleep(used) if used == self.used => self.asleep += 1,
            Seen::Asleep(used) => (self.used, self.asleep) = (used, 0),
        }
        if TICK * self.asleep >= IDLE {
            return Some(format!("its threads sleep in the middle of step {steps}"));
        }
        (TICK * self.ticks >= limit).then(|| format!("step {steps} takes more than {limit:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tick, from 1, at which a run is given up.
    fn given_up(limit: u64, run: impl Fn(u32) -> (u32, Seen)) -> Option<u32> {
        let mut quiet = Quiet::default();
        (1..200).find(|tick| {
            let (steps, seen) = run(*tick);
            quiet.tick(steps, seen, Duration::from_secs(limit)).is_some()
        })
    }

    #[test]
    fn threads_that_sleep_in_a_step_hang() {
        let tick = given_up(1000, |_| (3, Seen::Asleep(70))).unwrap();
        assert!(TICK * tick <= Duration::from_secs(2), "tick {tick}");
        let others = |tick| if tick % 2 == 0 { Seen::Unclear } else { Seen::Asleep(70) };
        assert!(given_up(1000, |tick| (3, others(tick))).is_some(), "other slots compute attention");
    }

    #[test]
    fn a_step_that_is_computed_is_given_the_time_it_should_need() {
        assert_eq!(given_up(10, |_| (0, Seen::Awake)), Some(40), "it spins");
        assert_eq!(given_up(10, |tick| (0, Seen::Asleep(u64::from(tick)))), Some(40), "it naps between computing");
        assert_eq!(given_up(10, |_| (0, Seen::Unclear)), Some(40), "nothing is known");
        assert_eq!(given_up(10, |tick| (tick / 36, Seen::Unclear)), None, "slow, and steady");
        assert_eq!(given_up(10, |tick| (tick, Seen::Asleep(70))), None, "it sleeps between steps");
    }

    #[test]
    fn the_limit_follows_the_steps() {
        let expected = Expected { prefill: Duration::from_secs(3), step: Duration::from_millis(500) };
        let watch = Watch::new();
        assert_eq!(watch.limit(expected), Duration::from_secs(60));
        watch.step();
        assert_eq!(watch.limit(expected), Duration::from_secs(10));
        watch.step();
        assert_eq!(watch.limit(Expected { step: Duration::ZERO, ..expected }), LEAST, "two steps at once");
    }
}
