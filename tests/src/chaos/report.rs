//! The result of a run.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::stream::Ended;
use crate::load::Quantiles;

/// The shortest gap that counts as a pause, between two tokens that are due every 40 or 50 ms.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seconds: f64,
    /// How often each fault was injected.
    pub faults: BTreeMap<String, usize>,
    /// When each fault was injected, in seconds.
    pub timeline: Vec<(f64, String)>,
    pub responses: usize,
    pub events: usize,
    pub reconnects: usize,
    /// The failures, with the response's id. Empty if every stream was correct.
    pub failures: Vec<String>,
    pub pauses: usize,
    pub pause_ms: Quantiles,
}

impl Report {
    pub(super) fn new(faults: Vec<(Duration, String)>, ended: Vec<Ended>, took: Duration) -> Self {
        let mut counts = BTreeMap::new();
        for (_, fault) in &faults {
            *counts.entry(fault.clone()).or_insert(0) += 1;
        }
        let pauses: Vec<Duration> = ended.iter().flat_map(|e| &e.gaps).copied().filter(|gap| *gap >= PAUSE).collect();
        Self {
            seconds: took.as_secs_f64(),
            faults: counts,
            timeline: faults.into_iter().map(|(at, fault)| (at.as_secs_f64(), fault)).collect(),
            responses: ended.len(),
            events: ended.iter().map(|e| e.events).sum(),
            reconnects: ended.iter().map(|e| e.reconnects).sum(),
            failures: ended.iter().filter_map(|e| e.failure.clone()).collect(),
            pauses: pauses.len(),
            pause_ms: Quantiles::of(pauses.into_iter()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seconds           {:.0}", self.seconds)?;
        for (fault, times) in &self.faults {
            writeln!(f, "  {times:>3} × {fault}")?;
        }
        writeln!(f, "responses         {} ({} failed)", self.responses, self.failures.len())?;
        for failure in &self.failures {
            writeln!(f, "  failure         {failure}")?;
        }
        writeln!(f, "events            {}", self.events)?;
        writeln!(f, "reconnects        {}", self.reconnects)?;
        let Quantiles { p50, p99, max } = self.pause_ms;
        write!(
            f,
            "pauses            {} of {} ms and more: p50 {p50:.0}, p99 {p99:.0}, max {max:.0} ms",
            self.pauses,
            PAUSE.as_millis()
        )
    }
}
