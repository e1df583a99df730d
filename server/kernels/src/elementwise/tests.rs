//! Compares each function with its result in f64, and the bits of all instruction sets, of single rows and of many rows.

use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::{Activation, activation::act_mul, norm::rms_norm, rope::rope};
use crate::isa::Isa;

/// Values from -`size` to `size`, the same for the same seed.
fn numbers(seed: u64, count: usize, size: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * size
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn tensor(seed: u64, dims: &[usize], size: f32) -> Tensor {
    Tensor::from_vec(numbers(seed, dims.iter().product(), size), dims, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

/// Runs `work` on each instruction set and asserts that all give the same bits. Returns the last result.
fn on_all(work: impl Fn(Isa) -> Tensor) -> Vec<f32> {
    let results: Vec<Tensor> = Isa::available().into_iter().map(work).collect();
    for result in &results {
        assert!(bits(result) == bits(&results[0]));
    }
    values(results.last().unwrap())
}

fn assert_near(found: &[f32], expected: impl IntoIterator<Item = f64>, tolerance: f64) {
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - b).abs() <= tolerance * (1.0 + b.abs()), "value {i} is {a}, not {b}");
    }
}

/// The complementary error function of `z` of at least 0: by the series of erf, or the continued fraction of erfc.
fn erfc(z: f64) -> f64 {
    if z > 2.0 {
        let fraction = (1..100).rev().fold(0.0, |below, k| f64::from(k) / 2.0 / (z + below));
        return (-z * z).exp() / (z + fraction) / std::f64::consts::PI.sqrt();
    }
    let (mut term, mut sum) = (z, z);
    for n in 1..60 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn gelu(x: f64) -> f64 {
    let below = erfc(x.abs() / std::f64::consts::SQRT_2) / 2.0;
    x * if x < 0.0 { below } else { 1.0 - below }
}

fn expected_activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => {
            x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()) / 2.0
        }
        Activation::Relu => x.max(0.0),
    }
}

const ALL: [Activation; 4] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu];

fn check_norm(dims: &[usize], seed: u64) {
    let width = *dims.last().unwrap();
    let (x, weight) = (tensor(seed, dims, 3.0), tensor(seed + 1, &[width], 2.0));
    let found = on_all(|isa| rms_norm(&x, &weight, 1e-5, isa).unwrap().unwrap());
    let (x, weight) = (values(&x), values(&weight));
    let expected = x.chunks(width).flat_map(|row| {
        let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
        let weight = &weight;
        row.iter().zip(weight).map(move |(x, w)| f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w))
    });
    assert_near(&found, expected, 1e-6);
}

fn check_activation(dims: &[usize], seed: u64, size: f32) {
    for activation in ALL {
        let (gate, up) = (tensor(seed, dims, size), tensor(seed + 1, dims, 1.0));
        let found = on_all(|isa| act_mul(&gate, &up, activation, isa).unwrap().unwrap());
        let pairs = values(&gate).into_iter().zip(values(&up));
        let expected = pairs.map(|(gate, up)| expected_activation(activation, f64::from(gate)) * f64::from(up));
        assert_near(&found, expected, 5e-7);
    }
}

/// The rotation of one vector, by definition.
fn turned(x: &[f32], angles: &[(f32, f32)], interleaved: bool) -> Vec<f64> {
    let mut out: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    for (j, (cos, sin)) in angles.iter().enumerate() {
        let (a, b) = if interleaved { (2 * j, 2 * j + 1) } else { (j, j + angles.len()) };
        let (x, y, cos, sin) = (f64::from(x[a]), f64::from(x[b]), f64::from(*cos), f64::from(*sin));
        out[a] = x * cos - y * sin;
        out[b] = x * sin + y * cos;
    }
    out
}

fn check_rope(dims: [usize; 4], half: usize, interleaved: bool) {
    let [b, h, n, d] = dims;
    let (cos, sin) = (tensor(7, &[40, half], 1.0), tensor(8, &[40, half], 1.0));
    let positions: Vec<usize> = (0..b).map(|i| i * 5 % (41 - n)).collect();
    // Queries in the layout of a projection, (b, n, h, d); contiguous keys.
    let q = tensor(9, &[b, n, h, d], 1.0).transpose(1, 2).unwrap();
    let k = tensor(10, &[b, 1, n, d], 1.0);
    let run = |isa| rope((&q, &k), (&cos, &sin), &positions, interleaved, isa).unwrap().unwrap();
    for (x, found) in [(&q, on_all(|isa| run(isa).0)), (&k, on_all(|isa| run(isa).1))] {
        let heads = x.dim(1).unwrap();
        let (cos, sin, x) = (values(&cos), values(&sin), values(x));
        let expected = x.chunks(d).enumerate().flat_map(|(row, x)| {
            let at = (positions[row / (heads * n)] + row % n) * half;
            let angles: Vec<(f32, f32)> = (at..at + half).map(|i| (cos[i], sin[i])).collect();
            turned(x, &angles, interleaved)
        });
        assert_near(&found, expected, 3e-7);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn norms_agree_with_the_reference(rows in 1usize..9, width in 1usize..700, seed in 1u64..1000) {
        check_norm(&[rows, width], seed);
    }

    #[test]
    fn activations_agree_with_the_reference(rows in 1usize..9, width in 1usize..300, seed in 1u64..1000) {
        check_activation(&[rows, width], seed, 12.0);
    }

    #[test]
    fn rotations_agree_with_the_reference(
        b in 1usize..5, h in 1usize..5, n in 1usize..9, half in 1usize..40, rest in 0usize..9, interleaved: bool,
    ) {
        check_rope([b, h, n, 2 * half + rest], half, interleaved);
    }
}

#[test]
fn activations_of_great_values_are_finite() {
    check_activation(&[4, 500], 3, 1000.0);
    check_activation(&[4, 500], 4, 1e-6);
}

#[test]
fn work_for_several_threads_has_the_same_bits_as_each_row_alone() {
    let isa = crate::isa::current();
    let (x, y, weight) = (tensor(1, &[400, 1536], 2.0), tensor(2, &[400, 1536], 2.0), tensor(3, &[1536], 2.0));
    let norms = bits(&rms_norm(&x, &weight, 1e-6, isa).unwrap().unwrap());
    let gated = bits(&act_mul(&x, &y, Activation::Silu, isa).unwrap().unwrap());
    for row in [0, 1, 199, 399] {
        let (x, y) = (x.narrow(0, row, 1).unwrap(), y.narrow(0, row, 1).unwrap());
        let range = row * 1536..(row + 1) * 1536;
        assert!(bits(&rms_norm(&x, &weight, 1e-6, isa).unwrap().unwrap()) == norms[range.clone()]);
        assert!(bits(&act_mul(&x, &y, Activation::Silu, isa).unwrap().unwrap()) == gated[range]);
    }
}

#[test]
fn halves_of_one_product_are_taken_without_a_copy() {
    let isa = crate::isa::current();
    let joined = tensor(5, &[3, 2, 200], 2.0);
    let (gate, up) = (joined.narrow(2, 0, 100).unwrap(), joined.narrow(2, 100, 100).unwrap());
    let found = act_mul(&gate, &up, Activation::Silu, isa).unwrap().unwrap();
    let copies = act_mul(&gate.contiguous().unwrap(), &up.contiguous().unwrap(), Activation::Silu, isa);
    assert_eq!(found.dims(), &[3, 2, 100]);
    assert!(bits(&found) == bits(&copies.unwrap().unwrap()));
}

#[test]
fn what_is_not_supported_is_left_to_the_caller() {
    let isa = crate::isa::current();
    let x = tensor(1, &[4, 32], 1.0);
    let weight = tensor(2, &[32], 1.0);
    let half = x.to_dtype(candle_core::DType::F16).unwrap();
    assert!(rms_norm(&half, &weight, 1e-6, isa).unwrap().is_none());
    assert!(rms_norm(&x, &tensor(2, &[31], 1.0), 1e-6, isa).unwrap().is_none());
    assert!(rms_norm(&x.t().unwrap(), &tensor(2, &[4], 1.0), 1e-6, isa).unwrap().is_none());
    assert!(act_mul(&x, &half, Activation::Silu, isa).unwrap().is_none());
    assert!(act_mul(&x, &x.t().unwrap(), Activation::Silu, isa).unwrap().is_none());
    let (q, table) = (tensor(1, &[1, 2, 3, 32], 1.0), tensor(1, &[10, 16], 1.0));
    assert!(rope((&q, &q), (&table, &table), &[7], true, isa).unwrap().is_some());
    assert!(rope((&q, &q), (&table, &table), &[8], true, isa).unwrap().is_none());
    assert!(rope((&q, &q), (&table, &table), &[0, 0], true, isa).unwrap().is_none());
    assert!(rope((&q, &x), (&table, &table), &[0], true, isa).unwrap().is_none());
}
