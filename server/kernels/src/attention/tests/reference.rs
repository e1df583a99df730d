//! Attention in f64, by definition.

use candle_core::{Device, Tensor};

use super::super::Scores;

/// A random sequence of numbers from -1 to 1, the same for the same seed.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (((self.next() + 1.0) / 2.0 * end as f32) as usize).min(end - 1)
    }

    pub(super) fn tensor(&mut self, dims: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| self.next()).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }
}

/// The values of a tensor in the order of its indices.
pub(super) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The values' bits, so that equality is exact.
pub(super) fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

/// Attention of one query to keys and values, both by token; a mask value of minus infinity hides a token.
pub(super) fn attend(query: &[f32], keys: &[&[f32]], values: &[&[f32]], mask: &[f64], scores: &Scores) -> Vec<f64> {
    let products =
        keys.iter().map(|key| query.iter().zip(*key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>());
    let scores: Vec<f64> = products
        .zip(mask)
        .map(|(product, mask)| {
            let score = product * f64::from(scores.scale);
            mask + scores.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        })
        .collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sums = vec![0.0; query.len()];
    if top == f64::NEG_INFINITY {
        return sums;
    }
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    for (weight, value) in weights.iter().zip(values) {
        for (sum, value) in sums.iter_mut().zip(*value) {
            *sum += weight / total * f64::from(*value);
        }
    }
    sums
}

/// Fails if `found` is further than `tolerance` from `expected`.
pub(super) fn assert_near(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - b).abs() <= tolerance, "{what}: value {i} is {a}, not {b}");
    }
}
