//! Forecast of when each waiting request starts, if no other request arrives and all work takes its expected time.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::queue::{Queue, QueuedRequest};

/// Returns the numbers of the waiting requests in the order in which they start, each with the time until its start. `ends`: the
/// time until each running request ends; `takes`: how long a request runs.
pub fn starts(
    mut queue: Queue,
    ends: Vec<Duration>,
    takes: impl Fn(&QueuedRequest) -> Duration,
) -> Vec<(u64, Duration)> {
    let mut ends: BinaryHeap<_> = ends.into_iter().map(Reverse).collect();
    let mut starts = Vec::new();
    while let Some(Reverse(free)) = ends.pop() {
        let Some(next) = queue.pop() else { break };
        ends.push(Reverse(free.saturating_add(takes(&next))));
        starts.push((next.number, free));
    }
    starts
}

/// Returns the quantile of the length that the forecast assumes for a request. Not all work takes the mean length: of several
/// requests, one ends early. The quantiles of consecutive numbers are spread evenly, and a number always has the same quantile.
pub fn quantile(number: u64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    (number as f64 * GOLDEN).fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{generation::admission::estimate::Work, wire::response::ServiceTier};

    #[test]
    fn places_are_taken_in_turn() {
        let mut queue = Queue::default();
        for (number, seconds) in [5, 5, 1].into_iter().enumerate() {
            let work = Work { prompt_tokens: 0, max_output_tokens: seconds };
            let cost = 1.0;
            queue.push(QueuedRequest {
                number: number as u64,
                tenant: "t".into(),
                tier: ServiceTier::Default,
                work,
                cost,
            });
        }
        let seconds = Duration::from_secs;
        let takes = |waiting: &QueuedRequest| seconds(waiting.work.max_output_tokens.into());
        let expected = [(0, seconds(2)), (1, seconds(3)), (2, seconds(7))];
        assert_eq!(starts(queue.clone(), vec![seconds(3), seconds(2)], takes), expected);
        assert_eq!(starts(queue, vec![], takes), []);
    }

    #[test]
    fn quantiles_are_spread_evenly() {
        for first in [0, 1000, 123_456_789] {
            let mut eight: Vec<f64> = (first..first + 8).map(quantile).collect();
            eight.sort_by(f64::total_cmp);
            assert!(eight.windows(2).all(|pair| pair[1] - pair[0] < 0.25) && eight[0] < 0.25 && eight[7] > 0.75);
        }
    }
}
