//! The result of a load run, as a table and as JSON.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{Options, Timed};

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub options: Options,
    pub responses: usize,
    pub failed: usize,
    /// How often each failure occurred.
    pub failures: BTreeMap<String, usize>,
    pub lost: u64,
    pub out_of_order: u64,
    pub tokens: u64,
    pub wall_s: f64,
    pub tokens_per_second: f64,
    pub ttft_ms: Quantiles,
    pub gap_ms: Quantiles,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// Returns the smallest value that a share `q` of the sorted values does not exceed.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl Quantiles {
    pub fn of(durations: impl Iterator<Item = Duration>) -> Self {
        let mut ms: Vec<f64> = durations.map(|d| d.as_secs_f64() * 1000.0).collect();
        ms.sort_by(f64::total_cmp);
        Self { p50: quantile(&ms, 0.5), p99: quantile(&ms, 0.99), max: quantile(&ms, 1.0) }
    }
}

impl Report {
    pub(super) fn new(options: &Options, wall: Duration, timed: Vec<Timed>) -> Self {
        let mut failures = BTreeMap::new();
        for failure in timed.iter().filter_map(|t| t.failure.clone()) {
            *failures.entry(failure).or_insert(0) += 1;
        }
        let tokens: u64 = timed.iter().map(|t| t.tokens).sum();
        Self {
            options: options.clone(),
            responses: timed.len(),
            failed: failures.values().sum(),
            failures,
            lost: timed.iter().map(|t| t.lost).sum(),
            out_of_order: timed.iter().map(|t| t.out_of_order).sum(),
            tokens,
            wall_s: wall.as_secs_f64(),
            tokens_per_second: tokens as f64 / wall.as_secs_f64(),
            ttft_ms: Quantiles::of(timed.iter().filter_map(|t| t.first)),
            gap_ms: Quantiles::of(timed.iter().flat_map(|t| t.gaps.iter().copied())),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ttft_ms: ttft, gap_ms: gap, .. } = self;
        writeln!(f, "responses         {} ({} failed)", self.responses, self.failed)?;
        for (failure, times) in &self.failures {
            writeln!(f, "  failure         {times} × {failure}")?;
        }
        writeln!(f, "lost events       {}", self.lost)?;
        writeln!(f, "out of order      {}", self.out_of_order)?;
        writeln!(f, "tokens            {} in {:.1} s, {:.0} tok/s", self.tokens, self.wall_s, self.tokens_per_second)?;
        writeln!(f, "                  {:>9} {:>9} {:>9}", "p50", "p99", "max")?;
        writeln!(f, "first token ms    {:>9.1} {:>9.1} {:>9.1}", ttft.p50, ttft.p99, ttft.max)?;
        write!(f, "between tokens ms {:>9.1} {:>9.1} {:>9.1}", gap.p50, gap.p99, gap.max)
    }
}
