//! Dense attention.

use candle_core::{DType, Device, Tensor};

use super::{
    super::{Scores, dense, dense::Inputs},
    reference::{Numbers, assert_near, attend, bits, values},
};
use crate::isa::Isa;

/// What a test computes: (batch, heads, key heads, rows, tokens, size).
type Dims = (usize, usize, usize, usize, usize, usize);

const PLAIN: Scores = Scores { scale: 0.125, softcap: None, window: None };

fn expected(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, scores: &Scores) -> Vec<f64> {
    let (b, h, n, d) = q.dims4().unwrap();
    let (_, kv_heads, l, _) = k.dims4().unwrap();
    let mask = mask.map(|mask| values(&mask.to_dtype(DType::F32).unwrap().broadcast_as((b, h, n, l)).unwrap()));
    let (q, k, v) = (values(q), values(k), values(v));
    let mut out = Vec::new();
    for row in 0..b * h * n {
        let head = row / (h * n) * kv_heads + row / n % h / (h / kv_heads);
        let [keys, values] = [&k, &v].map(|x| x[head * l * d..][..l * d].chunks(d).collect::<Vec<_>>());
        let mask: Vec<f64> = match &mask {
            Some(mask) => mask[row * l..][..l].iter().map(|x| f64::from(*x)).collect(),
            None => vec![0.0; l],
        };
        out.extend(attend(&q[row * d..][..d], &keys, &values, &mask, scores));
    }
    out
}

fn causal(n: usize, l: usize) -> Tensor {
    let hidden = |i: usize, j: usize| if j > l - n + i { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..n * l).map(|at| hidden(at / l, at % l)).collect();
    Tensor::from_vec(mask, (n, l), &Device::Cpu).unwrap()
}

fn check((b, h, kv_heads, n, l, d): Dims, mask: Option<&Tensor>, scores: &Scores) {
    let mut numbers = Numbers::new((b * h * n * l * d) as u64);
    let q = numbers.tensor(&[b, h, n, d]);
    let k = numbers.tensor(&[b, kv_heads, l, d]);
    let v = numbers.tensor(&[b, l, kv_heads, d]).transpose(1, 2).unwrap();
    let expected = expected(&q, &k, &v, mask, scores);
    let mut first = None;
    for isa in Isa::available() {
        let inputs = Inputs { q: &q, k: &k, v: &v, mask };
        let found = dense::attend(&inputs, scores, isa).unwrap().expect("supported");
        assert_eq!(found.dims(), q.dims());
        assert_near(&values(&found), &expected, 2e-6, &format!("{isa:?} {:?}", (b, h, kv_heads, n, l, d)));
        assert_eq!(first.get_or_insert_with(|| bits(&found)), &bits(&found), "{isa:?} differs from another set");
    }
}

#[test]
fn heads_of_all_sizes_and_groups_agree_with_the_reference() {
    for d in [16, 32, 48, 64, 80, 96, 128, 256, 512] {
        for (h, kv_heads) in [(1, 1), (3, 1), (8, 2), (8, 1), (6, 2)] {
            check((2, h, kv_heads, 5, 70, d), Some(&causal(5, 70)), &PLAIN);
        }
    }
}

#[test]
fn one_row_sees_all_tokens() {
    for l in [1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 600] {
        check((2, 6, 2, 1, l, 64), None, &PLAIN);
    }
}

#[test]
fn prompts_of_all_lengths_agree_with_the_reference() {
    for n in [1, 2, 15, 16, 17, 33, 64, 65, 130, 300] {
        check((1, 3, 1, n, n, 32), Some(&causal(n, n)), &PLAIN);
    }
}

#[test]
fn soft_caps_agree_with_the_reference() {
    for softcap in [0.5, 3.0, 50.0] {
        let scores = Scores { softcap: Some(softcap), scale: 1.0, ..PLAIN };
        check((1, 4, 1, 20, 90, 64), Some(&causal(20, 90)), &scores);
    }
}
