//! How fast a model runs here: measured with every generation, and used to tell how long something will take.

use std::time::Duration;

use super::watchdog::{Expected, Watch};

/// How much the newest measurement counts.
const NEWEST: f64 = 0.2;

/// Seconds a token takes of which nothing is known yet: a first run is not taken for one that hangs.
const SLOW: f64 = 0.2;

/// Seconds a prompt token and a step take, and tokens a reply has, on the average of the last runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    prefill: Mean,
    step: Mean,
    output: Mean,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn add(&mut self, new: f64) {
        self.0 = Some(self.0.map_or(new, |mean| mean + (new - mean) * NEWEST));
    }

    fn or(self, unknown: f64) -> f64 {
        self.0.unwrap_or(unknown)
    }
}

impl Pace {
    /// A run that computed so many tokens of its prompt has ended.
    pub fn measured(&mut self, computed: usize, watch: &Watch) {
        // What a short prompt takes is no measure of a long one's tokens.
        if let Some(took) = watch.prefill().filter(|_| computed >= 8) {
            self.prefill.add(took.as_secs_f64() / computed as f64);
        }
        if let Some(step) = watch.step_time() {
            self.step.add(step.as_secs_f64());
        }
        self.output.add(f64::from(watch.steps()));
    }

    pub fn prefill(&self, tokens: usize) -> Duration {
        Duration::from_secs_f64(self.prefill.or(SLOW) * tokens as f64)
    }

    pub fn expected(&self, computed: usize) -> Expected {
        Expected { prefill: self.prefill(computed), step: Duration::from_secs_f64(self.step.or(SLOW)) }
    }

    /// What is left of a run that computes so many tokens of its prompt and may still make `left` of output: until the mean
    /// length of replies, and past it half as long again as it has become.
    pub fn left(&self, computed: usize, left: u64, watch: &Watch) -> Duration {
        let made = f64::from(watch.steps());
        let tokens = (self.output.or(128.0) - made).max(made / 2.0).min(left as f64 - made).max(0.0);
        let prefill = match watch.steps() {
            0 => self.prefill(computed).saturating_sub(watch.elapsed()),
            _ => Duration::ZERO,
        };
        prefill
            + Duration::from_secs_f64(tokens * watch.step_time().map_or(self.step.or(SLOW), |step| step.as_secs_f64()))
    }
}

#[cfg(test)]
impl Pace {
    pub fn of(prefill: f64, step: f64, output: f64) -> Self {
        let known = |number| Mean(Some(number));
        Self { prefill: known(prefill), step: known(step), output: known(output) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_the_mean_until_it_is_passed() {
        let pace = Pace::of(0.01, 1.0, 10.0);
        let watch = Watch::new();
        assert_eq!(pace.left(100, 50, &watch).as_secs_f64().round(), 11.0);
        assert_eq!(pace.left(100, 4, &watch).as_secs_f64().round(), 5.0, "it may not make more");
        (0..30).for_each(|_| watch.step());
        let tokens = pace.left(100, 50, &watch).as_secs_f64() / watch.step_time().unwrap().as_secs_f64();
        assert_eq!(tokens.round(), 15.0);
    }
}
