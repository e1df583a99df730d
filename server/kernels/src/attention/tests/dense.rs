//! Tests dense attention.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::{
    super::{Scores, dense, dense::Inputs},
    reference::{Numbers, assert_near, attend, bits, values},
};
use crate::isa::Isa;

/// The sizes of a test: (batch, heads, key heads, rows, tokens, size).
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

#[test]
fn masks_of_all_types_and_ranks_agree_with_the_reference() {
    let mut numbers = Numbers::new(5);
    let (b, h, n, l) = (2, 6, 7, 100);
    for dims in
        [vec![l], vec![n, l], vec![1, n, l], vec![h, n, l], vec![b, 1, n, l], vec![1, h, 1, l], vec![b, h, n, l]]
    {
        let mask = numbers.tensor(&dims);
        for kind in [DType::F32, DType::F16, DType::BF16] {
            check((b, h, 2, n, l, 32), Some(&mask.to_dtype(kind).unwrap()), &PLAIN);
        }
    }
    let mask = numbers.tensor(&[l, n]).t().unwrap();
    check((b, h, 2, n, l, 32), Some(&mask), &PLAIN);
    check((b, h, 2, n, l, 32), Some(&numbers.tensor(&[n, 1])), &PLAIN);
}

#[test]
fn a_mask_of_rank_3_can_be_by_sequence() {
    let mask = Numbers::new(6).tensor(&[2, 7, 50]);
    let mut numbers = Numbers::new(7);
    let (q, k) = (numbers.tensor(&[2, 4, 7, 32]), numbers.tensor(&[2, 2, 50, 32]));
    let by_sequence = dense(&q, &k, &k, Some(&mask), &PLAIN).unwrap().unwrap();
    let by_rank_4 = dense(&q, &k, &k, Some(&mask.unsqueeze(1).unwrap()), &PLAIN).unwrap().unwrap();
    assert!(bits(&by_sequence) == bits(&by_rank_4));
}

#[test]
fn a_row_that_may_see_nothing_gives_zeros() {
    let mask: Vec<f32> = (0..3 * 80).map(|at| if at / 80 == 1 { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (3, 80), &Device::Cpu).unwrap();
    check((1, 2, 1, 3, 80, 32), Some(&mask), &PLAIN);
}

#[test]
fn a_row_without_a_mask_sees_its_window_and_what_follows() {
    let (n, l, d) = (4, 90, 32);
    for window in [1, 3, 30, 90, 200, usize::MAX] {
        let hidden = |i: usize, j: usize| (l - n + i + 1).saturating_sub(window) > j;
        let mask = (0..n * l).map(|at| if hidden(at / l, at % l) { f32::NEG_INFINITY } else { 0.0 });
        let mask = Tensor::from_vec(mask.collect::<Vec<f32>>(), (n, l), &Device::Cpu).unwrap();
        let mut numbers = Numbers::new(8);
        let (q, k) = (numbers.tensor(&[1, 2, n, d]), numbers.tensor(&[1, 1, l, d]));
        let scores = Scores { window: Some(window), ..PLAIN };
        let found = dense(&q, &k, &k, None, &scores).unwrap().unwrap();
        assert!(bits(&found) == bits(&dense(&q, &k, &k, Some(&mask), &PLAIN).unwrap().unwrap()), "{window}");
    }
}

#[test]
fn a_prompt_has_the_same_bits_whole_and_row_by_row() {
    let mut numbers = Numbers::new(9);
    let n = 300;
    let (q, k, v) = (numbers.tensor(&[1, 6, n, 48]), numbers.tensor(&[1, 2, n, 48]), numbers.tensor(&[1, 2, n, 48]));
    let whole = dense(&q, &k, &v, Some(&causal(n, n)), &PLAIN).unwrap().unwrap();
    for row in 0..n {
        let [k, v] = [&k, &v].map(|x| x.narrow(2, 0, row + 1).unwrap());
        let alone = dense(&q.narrow(2, row, 1).unwrap(), &k, &v, None, &PLAIN).unwrap().unwrap();
        assert!(bits(&alone) == bits(&whole.narrow(2, row, 1).unwrap()), "row {row}");
    }
}

#[test]
fn views_with_strides_give_the_same_bits_as_copies() {
    let mut numbers = Numbers::new(10);
    // Queries, keys and values of one product, as rows of (heads + 2 key heads) x size.
    let joined = numbers.tensor(&[2, 40, 8, 32]).transpose(1, 2).unwrap();
    let [q, k, v] = [(0, 4), (4, 2), (6, 2)].map(|(from, count)| joined.narrow(1, from, count).unwrap());
    let [p, l, w] = [&q, &k, &v].map(|x| x.contiguous().unwrap());
    let mask = causal(40, 40);
    let views = dense(&q, &k, &v, Some(&mask), &PLAIN).unwrap().unwrap();
    assert!(bits(&views) == bits(&dense(&p, &l, &w, Some(&mask), &PLAIN).unwrap().unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_and_mask_agrees_with_the_reference(
        b in 1usize..3,
        kv_heads in 1usize..4,
        group in 1usize..8,
        blocks in 1usize..9,
        n in 1usize..60,
        before in 0usize..200,
        softcap in prop::option::of(1f32..30.0),
        hidden in 0f32..1.0,
        seed in 1u64..1_000_000,
    ) {
        let mut numbers = Numbers::new(seed);
        let mask: Vec<f32> = values(&numbers.tensor(&[n, n + before]));
        let mask = mask.into_iter().map(|x| if x.abs() < hidden { f32::NEG_INFINITY } else { x }).collect::<Vec<_>>();
        let mask = Tensor::from_vec(mask, (n, n + before), &Device::Cpu).unwrap();
        let scores = Scores { softcap, ..PLAIN };
        check((b, kv_heads * group, kv_heads, n, n + before, 16 * blocks), Some(&mask), &scores);
    }
}
