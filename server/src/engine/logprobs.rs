//! Log-probabilities from a model's raw logits.

use super::{Logprobs, TokenLogprob};

/// The log-probability of an impossible token, because JSON has no infinity.
const IMPOSSIBLE: f32 = -9999.0;

/// Computes the log-probability of `token` and of the `top` likeliest tokens, by the softmax of `logits`. `bytes` returns the bytes of
/// a token.
pub fn of(logits: &[f32], token: u32, top: u8, bytes: impl Fn(u32) -> Vec<u8>) -> Logprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).filter(|weight| !weight.is_nan()).sum();
    let norm = f64::from(max) + sum.ln();
    let describe = |id: u32| {
        let logit = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let logprob = (f64::from(logit) - norm) as f32;
        let bytes = bytes(id);
        let token = String::from_utf8_lossy(&bytes).into_owned();
        TokenLogprob { token, bytes, logprob: if logprob.is_finite() { logprob } else { IMPOSSIBLE } }
    };
    Logprobs { token: describe(token), top: likeliest(logits, top.into()).into_iter().map(describe).collect() }
}

/// The `count` largest logits, the largest first; equal logits by id, as in [`super::sampler::argmax`].
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || best.len() == count && best.last().is_none_or(|least| logit <= least.0) {
            continue;
        }
        let at = best.partition_point(|other| other.0 >= logit);
        best.insert(at, (logit, id as u32));
        best.truncate(count);
    }
    best.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(token: u32) -> Vec<u8> {
        vec![token as u8]
    }

    #[test]
    fn they_are_the_log_softmax_of_the_logits() {
        let logits: Vec<f32> = (0..200).map(|n| (n as f32 * 1.7).sin() * 9.0).collect();
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        for token in [0, 57, 199] {
            let found = of(&logits, token, 20, byte);
            let plain = (f64::from(logits[token as usize]).exp() / sum).ln();
            assert!((f64::from(found.token.logprob) - plain).abs() < 1e-5);
            assert_eq!(found.token.bytes, [token as u8]);
        }
        let all: f64 = (0..200).map(|token| f64::from(of(&logits, token, 0, byte).token.logprob).exp()).sum();
        assert!((all - 1.0).abs() < 1e-5, "{all}");
    }

    #[test]
    fn the_likeliest_come_in_order_and_ties_by_id() {
        let logits = [1.0, 3.0, f32::NAN, 3.0, f32::NEG_INFINITY, 2.0];
        assert_eq!(likeliest(&logits, 3), [1, 3, 5]);
        assert_eq!(likeliest(&logits, 0), [0; 0]);
        assert_eq!(likeliest(&logits, 20), [1, 3, 5, 0, 4]);
        assert_eq!(super::super::sampler::argmax(&logits), 1);
    }

    #[test]
    fn an_impossible_token_has_a_finite_number() {
        let found = of(&[0.0, f32::NEG_INFINITY], 1, 2, byte);
        assert_eq!((found.token.logprob, found.top[0].logprob), (IMPOSSIBLE, 0.0));
    }

    #[test]
    fn a_part_of_a_character_keeps_its_bytes() {
        let found = of(&[0.0], 0, 0, |_| vec![0xf0, 0x9f]);
        assert_eq!((found.token.token.as_str(), found.token.bytes.as_slice()), ("\u{fffd}", &[0xf0, 0x9f][..]));
    }
}
