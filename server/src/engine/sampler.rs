//! The server's own sampler. A picked token is a pure function of the logits, the sampling and the tokens before it. The randomness
//! comes from a counter-based generator with the key (seed, position, token), so a seeded generation continues identically on another
//! replica.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::wire::sampling::SamplingOptions;

/// The settings of sampling. Every field is within the range that the request's validation allows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 picks the likeliest token.
    pub temperature: f32,
    /// Keeps the smallest set of likeliest tokens whose probabilities sum to at least this.
    pub top_p: f32,
    /// Keeps this many likeliest tokens.
    pub top_k: Option<u32>,
    /// Keeps tokens whose probability is at least this fraction of the likeliest token's.
    pub min_p: f32,
    /// Subtracted from the logit of a token for each of its occurrences in the output.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of a token that occurs in the output.
    pub presence_penalty: f32,
    /// Divides positive logits, and multiplies negative logits, of tokens that occur in the prompt or the output (Keskar et al.,
    /// "CTRL", 2019). 1 changes nothing.
    pub repetition_penalty: f32,
    /// Token id → the number added to the logit of that token.
    pub logit_bias: BTreeMap<u32, f32>,
    pub seed: u64,
}

impl Default for Sampling {
    /// The model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }
}

impl From<SamplingOptions> for Sampling {
    /// The options, neutral where they are absent.
    fn from(options: SamplingOptions) -> Self {
        let neutral = Self::default();
        Self {
            temperature: options.temperature.unwrap_or(neutral.temperature),
            top_p: options.top_p.unwrap_or(neutral.top_p),
            top_k: options.top_k,
            min_p: options.min_p.unwrap_or(neutral.min_p),
            frequency_penalty: options.frequency_penalty.unwrap_or(neutral.frequency_penalty),
            presence_penalty: options.presence_penalty.unwrap_or(neutral.presence_penalty),
            repetition_penalty: options.repetition_penalty.unwrap_or(neutral.repetition_penalty),
            ..neutral
        }
    }
}

/// Picks the tokens of one output, in order.
pub struct Sampler {
    sampling: Sampling,
    /// Index of the next output token.
    position: u64,
    /// Token id → its occurrences in the output.
    output: HashMap<u32, u32>,
    /// The prompt's tokens; empty without a repetition penalty.
    prompt: HashSet<u32>,
}

impl Sampler {
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let prompt = if sampling.repetition_penalty == 1.0 { HashSet::new() } else { prompt.iter().copied().collect() };
        Self { sampling, position: 0, output: HashMap::new(), prompt }
    }

    /// Tokens of the output so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Picks the next token from the model's logits, and leaves biases and penalties applied to `logits`. The token becomes part of
    /// the output with [`Self::push`].
    pub fn pick(&self, logits: &mut [f32]) -> u32 {
        self.adjust(logits);
        self.sampling.pick(logits, self.position)
    }

    /// Adds a token to the output.
    pub fn push(&mut self, token: u32) {
        self.position += 1;
        *self.output.entry(token).or_default() += 1;
    }

    fn adjust(&self, logits: &mut [f32]) {
        let Sampling { frequency_penalty, presence_penalty, repetition_penalty, logit_bias, .. } = &self.sampling;
        if *repetition_penalty != 1.0 {
            for token in self.prompt.iter().chain(self.output.keys().filter(|token| !self.prompt.contains(token))) {
                if let Some(logit) = logits.get_mut(*token as usize) {
                    *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
                }
            }
        }
        if *frequency_penalty != 0.0 || *presence_penalty != 0.0 {
            for (token, count) in &self.output {
                if let Some(logit) = logits.get_mut(*token as usize) {
                    *logit -= frequency_penalty * *count as f32 + presence_penalty;
                }
            }
        }
        for (token, bias) in logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
    }
}

impl Sampling {
    /// Picks the token at `position` (0 for the first output token) from adjusted logits.
    ///
    /// Filters apply in the order top-k, top-p, min-p, to probabilities after temperature. The Gumbel-max trick draws from the
    /// remaining tokens: every token has its own noise, so logits with other last bits, such as those of another machine, mostly draw
    /// the same token. A draw by cumulative probabilities would not, because each token's probability shifts the tokens after it.
    fn pick(&self, logits: &[f32], position: u64) -> u32 {
        if self.temperature <= 0.0 || self.top_k == Some(1) {
            return argmax(logits);
        }
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !max.is_finite() {
            return argmax(logits);
        }
        // The weight of tokens below this is too small to change a sum of f32 with the likeliest token.
        let floor = max - 20.0 * self.temperature.max(1e-3);
        let mut candidates: Vec<(u32, f32)> = logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| **logit >= floor)
            .map(|(id, logit)| (id as u32, (logit - max) / self.temperature))
            .collect();
        // Ties are broken by id, so that the order does not depend on the sort.
        let likelier = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = self.top_k.map(|k| k as usize).filter(|k| (1..candidates.len()).contains(k)) {
            candidates.select_nth_unstable_by(k - 1, likelier);
            candidates.truncate(k);
        }
        if self.top_p < 1.0 {
            candidates.sort_unstable_by(likelier);
            let total: f32 = candidates.iter().map(|c| c.1.exp()).sum();
            let mut mass = 0.0;
            let keep = candidates
                .iter()
                .position(|c| {
                    mass += c.1.exp();
                    mass >= self.top_p * total
                })
                .map_or(candidates.len(), |at| at + 1);
            candidates.truncate(keep);
        }
        if self.min_p > 0.0 {
            // The likeliest has weight 1 before normalisation.
            candidates.retain(|c| c.1.exp() >= self.min_p);
        }
        Noise::new(self.seed, position).draw(&candidates).unwrap_or_else(|| argmax(logits))
    }
}

/// Standard Gumbel noise for every token at one position of one seed's output.
struct Noise(u64);

impl Noise {
    fn new(seed: u64, position: u64) -> Self {
        Self(mix(mix(seed ^ GOLDEN).wrapping_add(position.wrapping_mul(GOLDEN))))
    }

    /// Returns the token with the largest sum of log-weight and noise.
    fn draw(&self, candidates: &[(u32, f32)]) -> Option<u32> {
        let mut best = (f64::NEG_INFINITY, None);
        for &(id, log_weight) in candidates {
            let bits = mix(self.0.wrapping_add(u64::from(id).wrapping_mul(GOLDEN)));
            // An upper bound of the noise that needs no logarithm. Few tokens pass it.
            let bound = f64::from(bits.leading_zeros() + 1) * std::f64::consts::LN_2;
            if f64::from(log_weight) + bound <= best.0 {
                continue;
            }
            let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            let key = f64::from(log_weight) - (-(-uniform).ln_1p()).ln();
            if key > best.0 {
                best = (key, Some(id));
            }
        }
        best.1
    }
}

/// Returns the id of the largest logit, the lowest id if several are equal. NaN is never chosen; if all logits are NaN, the result is 0.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0 as u32
}

/// The increment of SplitMix64 (Steele, Lea and Flood, 2014). [`mix`] is the finaliser of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32) -> Sampling {
        Sampling { temperature, seed: 7, ..Default::default() }
    }

    #[test]
    fn temperature_zero_is_argmax() {
        assert_eq!(sampling(0.0).pick(&[0.1, 3.0, 2.0, 3.0], 5), 1);
    }

    #[test]
    fn the_same_seed_and_position_give_the_same_token() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin()).collect();
        let picks: Vec<u32> = (0..50).map(|p| sampling(1.0).pick(&logits, p)).collect();
        assert_eq!(picks, (0..50).map(|p| sampling(1.0).pick(&logits, p)).collect::<Vec<_>>());
        assert!(picks.iter().collect::<std::collections::HashSet<_>>().len() > 10, "positions must differ");
        let other = Sampling { seed: 8, ..sampling(1.0) };
        assert_ne!(picks, (0..50).map(|p| other.pick(&logits, p)).collect::<Vec<_>>());
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.0f32, 1.0, 2.0];
        let z: f32 = logits.iter().map(|l| l.exp()).sum();
        let mut counts = [0u32; 3];
        for position in 0..20_000 {
            counts[sampling(1.0).pick(&logits, position) as usize] += 1;
        }
        for (count, logit) in counts.iter().zip(logits) {
            let expected = logit.exp() / z;
            assert!((*count as f32 / 20_000.0 - expected).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [5.0f32, 4.9, 0.0, -1.0];
        let picks = |s: &Sampling| (0..500).map(|p| s.pick(&logits, p)).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(picks(&Sampling { top_k: Some(2), ..sampling(2.0) }), [0, 1].into());
        assert_eq!(picks(&Sampling { top_p: 0.4, ..sampling(1.0) }), [0].into());
        assert_eq!(picks(&Sampling { min_p: 0.5, ..sampling(1.0) }), [0, 1].into());
    }

    #[test]
    fn noise_of_the_size_of_rounding_seldom_changes_the_choice() {
        // As flat as a small model at temperature 1: thousands of tokens share most of the mass.
        let logits: Vec<f32> = (0..20_000u32).map(|id| (mix(id.into()) % 1000) as f32 / 250.0).collect();
        let other: Vec<f32> = logits
            .iter()
            .zip(0u64..)
            .map(|(logit, id)| logit + ((mix(id) >> 20) % 1000) as f32 * 1e-5 - 5e-3)
            .collect();
        let same = (0..1000).filter(|p| sampling(1.0).pick(&logits, *p) == sampling(1.0).pick(&other, *p)).count();
        // The distributions are 0.3 % apart.
        assert!(same > 980, "{same} of 1000");
    }

    fn greedy(sampling: Sampling, prompt: &[u32], output: &[u32], logits: &[f32]) -> u32 {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..sampling }, prompt);
        output.iter().for_each(|token| sampler.push(*token));
        sampler.pick(&mut logits.to_vec())
    }

    #[test]
    fn penalties_and_biases_move_the_choice() {
        let logits = [3.0f32, 2.5, 2.4, -1.0];
        let with = |change: fn(&mut Sampling)| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            sampling
        };
        let presence = with(|s| s.presence_penalty = 0.55);
        assert_eq!(greedy(presence.clone(), &[0], &[], &logits), 0, "the prompt does not count");
        assert_eq!(greedy(presence, &[], &[0, 0, 0], &logits), 1, "once, however often");
        let frequency = with(|s| s.frequency_penalty = 0.3);
        assert_eq!(greedy(frequency.clone(), &[], &[0], &logits), 0);
        assert_eq!(greedy(frequency, &[], &[0, 0], &logits), 1);
        let repetition = with(|s| s.repetition_penalty = 1.22);
        assert_eq!(greedy(repetition.clone(), &[], &[], &logits), 0);
        assert_eq!(greedy(repetition.clone(), &[0], &[], &logits), 1, "the prompt counts");
        assert_eq!(greedy(repetition.clone(), &[0], &[0, 1], &logits), 0, "once, wherever it stands");
        assert_eq!(greedy(repetition, &[1, 0], &[], &[-1.0, -1.1, -1.2]), 2, "negative logits fall too");
        let bias = with(|s| s.logit_bias = [(3, 100.0), (99, 5.0)].into());
        assert_eq!(greedy(bias, &[], &[], &logits), 3);
    }
}
