//! Which slot runs a prompt.
//!
//! A prompt goes where it starts soonest: to the slot for which waiting until it is free and computing what it has not in its
//! cache take least together. A free slot is waited for by nobody; a busy one only as long as the prefill that it saves would
//! have taken on the best of the free ones, so that the choice costs at most twice what the better one would have.

use std::time::Duration;

use super::pace::Pace;

pub enum Choice {
    Take(u64),
    /// It is busy, and worth waiting for as long as this.
    WaitFor(u64, Duration),
    Wait,
}

/// What a seat can do for a prompt.
pub struct Offer {
    pub number: u64,
    /// Until it is free, where it is not.
    pub wait: Option<Duration>,
    /// Tokens of the prompt that it would have to compute; beginnings that all prompts share do not count as cached.
    pub computes: usize,
    pub foreign: bool,
    pub last_used: u64,
}

impl Offer {
    fn starts_in(&self, pace: &Pace) -> Duration {
        self.wait.unwrap_or_default() + pace.prefill(self.computes)
    }
}

/// A busy slot only where its caller still has patience.
pub fn choose(offers: &[Offer], pace: &Pace, patient: bool) -> Choice {
    let rank = |offer: &&Offer| (offer.starts_in(pace), offer.foreign, offer.last_used, offer.number);
    let Some(free) = offers.iter().filter(|offer| offer.wait.is_none()).min_by_key(rank) else { return Choice::Wait };
    let busy = offers.iter().filter(|offer| offer.wait.is_some()).min_by_key(rank);
    match busy.filter(|busy| patient && busy.starts_in(pace) < free.starts_in(pace)) {
        Some(busy) => Choice::WaitFor(busy.number, pace.prefill(free.computes - busy.computes)),
        None => Choice::Take(free.number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(number: u64, wait_ms: Option<u64>, computes: usize) -> Offer {
        Offer { number, wait: wait_ms.map(Duration::from_millis), computes, foreign: false, last_used: number }
    }

    /// The seat, and how many milliseconds it may be waited for.
    fn chosen(offers: &[Offer], patient: bool) -> Option<(u64, u128)> {
        // Ten milliseconds a prompt token.
        let pace = Pace::of(0.01, 0.01, 100.0);
        match choose(offers, &pace, patient) {
            Choice::Take(number) => Some((number, 0)),
            Choice::WaitFor(number, at_most) => Some((number, at_most.as_millis())),
            Choice::Wait => None,
        }
    }

    #[test]
    fn a_prompt_goes_where_it_starts_soonest() {
        assert_eq!(chosen(&[offer(0, None, 300), offer(1, None, 20), offer(2, None, 300)], true), Some((1, 0)));
        assert_eq!(
            chosen(&[offer(0, None, 300), offer(1, Some(1000), 20)], true),
            Some((1, 2800)),
            "worth waiting for"
        );
        assert_eq!(chosen(&[offer(0, None, 300), offer(1, Some(3000), 20)], true), Some((0, 0)), "busy for too long");
        assert_eq!(chosen(&[offer(0, None, 300), offer(1, Some(1000), 20)], false), Some((0, 0)), "waited in vain");
        assert_eq!(chosen(&[offer(0, Some(9), 300), offer(1, Some(1000), 20)], true), None, "none is free");
    }

    #[test]
    fn among_equals_the_least_recently_used_is_taken_and_a_foreign_one_last() {
        let foreign = Offer { foreign: true, ..offer(0, None, 50) };
        assert_eq!(chosen(&[foreign, offer(2, None, 50), offer(1, None, 50)], true), Some((1, 0)));
    }
}
