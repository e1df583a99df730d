//! Lengths of outputs: a life table over their tokens. An output that was cut short by its bound or a cancel counts as one that
//! reached this length, not as one that ended there. So bounds are not taken for lengths. Within a bucket of lengths the chance
//! that an output ends at the next token is assumed to be constant.

const BUCKETS: usize = 18;
/// The end of the first bucket in tokens. Each later bucket is as long as all before it together; the last one has no end.
const FIRST: f64 = 16.0;
/// The factor by which each output reduces the weight of earlier ones. About the last fifty count.
const MEMORY: f64 = 0.98;
/// The chance to end at each token while nothing is known: a mean of 256 tokens.
const UNKNOWN: f64 = 1.0 / 256.0;
/// The weight of the prior, in observed tokens.
const PRIOR_TOKENS: f64 = 32.0;

/// Observed outputs by bucket: tokens that were produced in the bucket, and outputs that ended in it by themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lengths([Seen; BUCKETS]);

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    tokens: f64,
    ended: f64,
}

/// The chance that an output ends at the next token, by bucket.
#[derive(Debug, Clone, Copy)]
pub struct Hazard([f64; BUCKETS]);

/// Returns the start and end of each bucket, in tokens.
fn bounds() -> impl Iterator<Item = (f64, f64)> {
    let end = |bucket| if bucket + 1 == BUCKETS { f64::INFINITY } else { FIRST * f64::from(1u32 << bucket) };
    (0..BUCKETS).map(move |bucket| (if bucket == 0 { 0.0 } else { end(bucket - 1) }, end(bucket)))
}

impl Lengths {
    /// Learns from an output of `tokens` tokens. `ended`: the output ended by itself and was not cut short.
    pub fn learn(&mut self, tokens: u32, ended: bool) {
        let length = f64::from(tokens);
        for (seen, (start, end)) in self.0.iter_mut().zip(bounds()) {
            let here = (start..end).contains(&length);
            seen.tokens = seen.tokens * MEMORY + (length.min(end) - start).max(0.0);
            seen.ended = seen.ended * MEMORY + f64::from(u8::from(here && ended));
        }
    }

    /// Returns the chances, blended with `prior` in buckets with few observations. Without a prior, each bucket is blended with the
    /// one before it.
    pub fn hazard(&self, prior: Option<&Hazard>) -> Hazard {
        let mut hazard = prior.copied().unwrap_or(Hazard([UNKNOWN; BUCKETS]));
        let mut before = UNKNOWN;
        for (rate, seen) in hazard.0.iter_mut().zip(&self.0) {
            let known = if prior.is_some() { *rate } else { before };
            *rate = (seen.ended + PRIOR_TOKENS * known) / (seen.tokens + PRIOR_TOKENS);
            before = *rate;
        }
        hazard
    }
}

impl Hazard {
    /// Returns how many more tokens an output of `produced` tokens gets, within `bound`. A share of `quantile` of such outputs gets
    /// no more.
    pub fn rest(&self, produced: u32, bound: u32, quantile: f64) -> f64 {
        let (mut at, bound) = (f64::from(produced), f64::from(bound));
        let mut left = -(1.0 - quantile).ln();
        for (rate, (_, end)) in self.0.iter().zip(bounds()).filter(|(_, (_, end))| *end > f64::from(produced)) {
            let ends_at = at + left / rate;
            if ends_at <= end || end >= bound {
                at = ends_at;
                break;
            }
            left -= rate * (end - at);
            at = end;
        }
        (at.min(bound) - f64::from(produced)).max(0.0)
    }

    /// Returns the mean length of outputs that are cut at `bound`.
    pub fn mean(&self, bound: u32) -> f64 {
        const QUANTILES: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];
        QUANTILES.iter().map(|quantile| self.rest(0, bound, *quantile)).sum::<f64>() / QUANTILES.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_near(value: f64, expected: f64) {
        assert!((value / expected - 1.0).abs() < 0.25, "{value} is not about {expected}");
    }

    fn learnt(replies: impl IntoIterator<Item = (u32, bool)>) -> Hazard {
        let mut lengths = Lengths::default();
        replies.into_iter().for_each(|(tokens, ended)| lengths.learn(tokens, ended));
        lengths.hazard(None)
    }

    #[test]
    fn buckets_follow_on_each_other() {
        let bounds: Vec<_> = bounds().collect();
        assert_eq!(bounds[..3], [(0.0, 16.0), (16.0, 32.0), (32.0, 64.0)]);
        assert!(bounds.windows(2).all(|pair| pair[0].1 == pair[1].0) && bounds[BUCKETS - 1].1.is_infinite());
    }

    #[test]
    fn knowing_nothing_a_reply_is_moderate_and_keeps_its_bound() {
        let unknown = learnt([]);
        assert_near(unknown.mean(100_000), 256.0 * 0.93);
        assert_eq!(unknown.rest(0, 5, 0.99), 5.0);
        assert_eq!(unknown.rest(5, 5, 0.5), 0.0);
        assert_eq!(unknown.rest(9, 5, 0.5), 0.0);
    }

    #[test]
    fn learns_how_long_replies_are() {
        for length in [3, 20, 150, 3000, 200_000] {
            assert_near(learnt([(length, true); 60]).mean(1_000_000), f64::from(length));
        }
        let halves = learnt((0..200).map(|n| (if n % 2 == 0 { 10 } else { 500 }, true)));
        assert_near(halves.mean(10_000), 255.0);
        assert!(halves.rest(0, 10_000, 0.3) < 16.0 && halves.rest(0, 10_000, 0.8) > 300.0);
        assert!(halves.rest(20, 10_000, 0.2) > 200.0, "one that is past the short ones is a long one");
    }

    #[test]
    fn a_bound_is_no_length() {
        let cut = learnt([(20, false); 60]);
        assert!(cut.mean(1000) > 500.0, "all reached 20 tokens, none ended there: {}", cut.mean(1000));
        assert_eq!(cut.rest(0, 20, 0.5), 20.0);
        let often_cut = learnt((0..200).map(|n| if n % 3 == 0 { (300, true) } else { (20, false) }));
        assert_near(often_cut.mean(100_000), 300.0);
    }

    #[test]
    fn the_unknown_is_taken_from_the_prior() {
        let model = learnt([(100, true); 60]);
        let mut tenant = Lengths::default();
        assert_near(tenant.hazard(Some(&model)).mean(10_000), 100.0);
        (0..40).for_each(|_| tenant.learn(1000, true));
        assert_near(tenant.hazard(Some(&model)).mean(10_000), 1000.0);
    }

    #[test]
    fn forgets_what_has_changed() {
        let changed = (0..400).map(|n| (if n < 200 { 2000 } else { 40 }, true));
        assert_near(learnt(changed).mean(10_000), 40.0);
    }
}
