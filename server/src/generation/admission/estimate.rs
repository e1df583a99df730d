//! Estimates of the cost of work with one model, learnt from work that has ended: seconds per prompt token, seconds per output
//! token, and lengths of outputs. A tenant's own outputs count for its lengths as soon as there are some.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard};

use super::lengths::{Hazard, Lengths};

/// The factor by which each piece of work reduces the weight of earlier work. About the last twenty count.
const MEMORY: f64 = 0.95;
/// Seconds per token while nothing is known.
const UNKNOWN_PREFILL: f64 = 0.005;
const UNKNOWN_DECODE: f64 = 0.05;
/// The maximum of tenants whose lengths of outputs are remembered; a few hundred bytes each.
const MAX_TENANTS: u64 = 10_000;

/// The size of a request.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub prompt_tokens: u32,
    pub max_output_tokens: u32,
}

/// The progress of work. The default: work that has not begun.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkProgress {
    /// Time since the work began to run.
    pub elapsed: Duration,
    /// Time to the first token, if the work has one.
    pub first_token: Option<Duration>,
    pub output_tokens: u32,
}

/// Work that has ended, and how.
#[derive(Debug, Clone, Copy)]
pub struct EndedWork {
    pub work: Work,
    pub progress: WorkProgress,
    /// The output ended by itself, not by its bound, a cancel or an error.
    pub by_itself: bool,
    /// Other requests waited.
    pub busy: bool,
}

pub struct Costs {
    model: Mutex<ModelPace>,
    tenants: Cache<Arc<str>, Lengths>,
}

#[derive(Default)]
struct ModelPace {
    any: MeasuredPace,
    /// The pace of work that ended while others waited. Estimates for waiting requests use this pace.
    busy: MeasuredPace,
    lengths: Lengths,
}

#[derive(Default, Clone, Copy)]
struct MeasuredPace {
    prefill: Rate,
    decode: Rate,
}

/// Seconds per token, as a decaying sum of times over a decaying sum of tokens.
#[derive(Default, Clone, Copy)]
struct Rate {
    seconds: f64,
    tokens: f64,
}

impl Costs {
    pub fn new() -> Self {
        Self { model: Mutex::default(), tenants: Cache::new(MAX_TENANTS) }
    }

    /// Returns the expected number of output tokens.
    pub fn output(&self, tenant: &str, work: Work) -> usize {
        self.known(tenant).1.mean(work.max_output_tokens).ceil() as usize
    }

    /// Returns the mean time that the work runs, in seconds.
    pub fn mean(&self, tenant: &str, work: Work) -> f64 {
        let (pace, hazard) = self.known(tenant);
        pace.prefill() * f64::from(work.prompt_tokens) + pace.decode() * hazard.mean(work.max_output_tokens)
    }

    /// Returns the time that the work still takes. A share of `quantile` of such work takes no longer.
    pub fn rest(&self, tenant: &str, work: Work, progress: WorkProgress, quantile: f64) -> Duration {
        let (pace, hazard) = self.known(tenant);
        let prefill = match progress.first_token {
            Some(_) => 0.0,
            None => pace.prefill() * f64::from(work.prompt_tokens) - progress.elapsed.as_secs_f64(),
        };
        let tokens = hazard.rest(progress.output_tokens, work.max_output_tokens, quantile);
        Duration::try_from_secs_f64(prefill.max(0.0) + tokens * pace.decode()).unwrap_or(Duration::MAX)
    }

    /// Learns from work that has ended.
    pub fn learn(&self, tenant: &Arc<str>, ended: EndedWork) {
        let EndedWork { work, progress, by_itself, busy } = ended;
        let mut model = self.model();
        model.any.learn(work, progress);
        if busy {
            model.busy.learn(work, progress);
        }
        // Work without output that was cut short tells nothing about lengths.
        if progress.output_tokens > 0 || by_itself {
            model.lengths.learn(progress.output_tokens, by_itself);
            let mut own = self.tenants.get(tenant).unwrap_or_default();
            own.learn(progress.output_tokens, by_itself);
            self.tenants.insert(tenant.clone(), own);
        }
    }

    fn known(&self, tenant: &str) -> (MeasuredPace, Hazard) {
        let model = self.model();
        let hazard = model.lengths.hazard(None);
        let pace = model.busy.or(model.any);
        drop(model);
        (pace, self.tenants.get(tenant).map_or(hazard, |own| own.hazard(Some(&hazard))))
    }

    fn model(&self) -> MutexGuard<'_, ModelPace> {
        self.model.lock()
    }
}

impl MeasuredPace {
    fn learn(&mut self, work: Work, progress: WorkProgress) {
        let Some(first_token) = progress.first_token else { return };
        self.prefill.learn(first_token, work.prompt_tokens);
        if progress.output_tokens > 1 {
            // Includes the time after the last token until the run ends, because waiting requests wait for that end.
            self.decode.learn(progress.elapsed.saturating_sub(first_token), progress.output_tokens - 1);
        }
    }

    /// Returns this pace, or `other` where this one has learnt nothing.
    fn or(self, other: Self) -> Self {
        Self { prefill: self.prefill.or(other.prefill), decode: self.decode.or(other.decode) }
    }

    fn prefill(&self) -> f64 {
        self.prefill.seconds_per_token().unwrap_or(UNKNOWN_PREFILL)
    }

    fn decode(&self) -> f64 {
        self.decode.seconds_per_token().unwrap_or(UNKNOWN_DECODE)
    }
}

impl Rate {
    fn learn(&mut self, took: Duration, tokens: u32) {
        self.seconds = self.seconds * MEMORY + took.as_secs_f64();
        self.tokens = self.tokens * MEMORY + f64::from(tokens);
    }

    fn or(self, other: Self) -> Self {
        if self.tokens > 0.0 { self } else { other }
    }

    fn seconds_per_token(&self) -> Option<f64> {
        (self.tokens > 0.0).then(|| self.seconds / self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { prompt_tokens: 100, max_output_tokens: 1000 };

    /// A tenth of a second for the prompt's hundred tokens, then a hundredth for each token.
    fn ended(tokens: u32, by_itself: bool) -> EndedWork {
        let first_token = Duration::from_millis(100);
        let elapsed = first_token + Duration::from_millis(10) * (tokens - 1);
        let progress = WorkProgress { elapsed, first_token: Some(first_token), output_tokens: tokens };
        EndedWork { work: WORK, progress, by_itself, busy: false }
    }

    #[track_caller]
    fn assert_near(value: f64, expected: f64) {
        assert!((value / expected - 1.0).abs() < 0.15, "{value} is not about {expected}");
    }

    fn learnt(tenant: &str, seen: EndedWork) -> Costs {
        let costs = Costs::new();
        (0..50).for_each(|_| costs.learn(&tenant.into(), seen));
        costs
    }

    #[test]
    fn learns_what_work_costs() {
        let costs = learnt("t", ended(200, true));
        assert_near(costs.mean("t", WORK), 0.1 + 2.0);
        assert_near(costs.mean("t", Work { prompt_tokens: 1000, ..WORK }), 1.0 + 2.0);
        assert_near(costs.mean("t", Work { max_output_tokens: 20, ..WORK }), 0.1 + 0.2);
        assert_near(costs.mean("another", WORK), 0.1 + 2.0);
    }

    #[test]
    fn a_tenants_replies_are_its_own_matter() {
        let costs = learnt("long", ended(500, true));
        let short = Arc::from("short");
        (0..50).for_each(|_| costs.learn(&short, ended(20, true)));
        assert_near(costs.mean("long", WORK), 0.1 + 5.0);
        assert_near(costs.mean("short", WORK), 0.1 + 0.2);
    }

    #[test]
    fn what_runs_is_reckoned_from_where_it_is() {
        let costs = learnt("t", ended(200, false));
        let rest = |progress| costs.rest("t", Work { max_output_tokens: 100, ..WORK }, progress, 0.5).as_secs_f64();
        assert_near(rest(WorkProgress::default()), 1.1);
        let begun = WorkProgress { elapsed: Duration::from_millis(50), ..WorkProgress::default() };
        assert_near(rest(begun), 1.05);
        assert_near(rest(WorkProgress { elapsed: Duration::from_secs(5), ..WorkProgress::default() }), 1.0);
        let speaks =
            WorkProgress { elapsed: Duration::from_secs(1), first_token: Some(Duration::ZERO), output_tokens: 60 };
        assert_near(rest(speaks), 0.4);
        assert_eq!(rest(WorkProgress { output_tokens: 100, ..speaks }), 0.0);
    }

    #[test]
    fn the_pace_while_others_wait_counts() {
        let costs = learnt("t", ended(200, true));
        let slow = Duration::from_millis(5000);
        let progress = WorkProgress { elapsed: slow, first_token: Some(slow / 5), output_tokens: 201 };
        costs.learn(&"t".into(), EndedWork { work: WORK, progress, by_itself: true, busy: true });
        (0..50).for_each(|_| costs.learn(&"t".into(), ended(200, true)));
        assert_near(costs.mean("t", WORK), 1.0 + 4.0);
    }

    #[test]
    fn work_that_never_spoke_teaches_nothing() {
        let costs = Costs::new();
        let before = costs.mean("t", WORK);
        let progress = WorkProgress { elapsed: Duration::from_secs(100), ..WorkProgress::default() };
        costs.learn(&"t".into(), EndedWork { work: WORK, progress, by_itself: false, busy: true });
        assert_eq!(costs.mean("t", WORK), before);
    }
}
