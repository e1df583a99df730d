//! Measures attention and elementwise operations: the best of several runs, in microseconds, with GFLOPS and GB/s.
//!
//! `cargo run --release -p caudal-bench --bin bench-attention -- [heads key-heads size]`

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use caudal_kernels::{
    attention::{BLOCK, Cache, Scores, dense, paged, request_huge_pages},
    elementwise::{Activation, act_mul, rms_norm, rope},
};

/// The sizes of a model's attention.
#[derive(Clone, Copy)]
struct Model {
    heads: usize,
    kv_heads: usize,
    size: usize,
    kind: DType,
}

/// Bytes of keys and values that exceed the caches of any processor.
const CACHES: usize = 128 << 20;

/// Runs of one step: tokens before the step, and new ones.
type Runs = Vec<(usize, usize)>;

fn random(dims: &[usize]) -> Result<Tensor> {
    Tensor::rand(-1f32, 1f32, dims, &Device::Cpu)
}

/// The time of the fastest of many runs, in seconds.
fn best(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 5 || begin.elapsed().as_secs_f64() < 1.0 {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok(best)
}

/// The mean over `items` of the fastest run with each item, in seconds. The items take turns.
fn best_of_each<T>(items: &[T], work: impl Fn(&T) -> Result<()>) -> Result<f64> {
    let mut best = vec![f64::INFINITY; items.len()];
    let begin = Instant::now();
    let mut rounds = 0;
    while rounds < 5 || begin.elapsed().as_secs_f64() < 1.0 {
        for (item, best) in items.iter().zip(&mut best) {
            let start = Instant::now();
            work(item)?;
            *best = best.min(start.elapsed().as_secs_f64());
        }
        rounds += 1;
    }
    Ok(best.iter().sum::<f64>() / items.len() as f64)
}

fn time_paged(what: &str, model: Model, runs: &Runs) -> Result<()> {
    let Model { heads, kv_heads, size, kind } = model;
    let device = Device::Cpu;
    let rows: usize = runs.iter().map(|(_, new)| new).sum();
    let blocks: Vec<usize> = runs.iter().map(|(old, new)| (old + new).div_ceil(BLOCK)).collect();
    let (count, width) = (blocks.iter().sum::<usize>(), blocks.iter().copied().max().unwrap_or(0));
    let (mut tables, mut slots, mut first) = (Vec::new(), Vec::new(), 0);
    for (&(old, new), &own) in runs.iter().zip(&blocks) {
        tables.extend((0..width).map(|block| if block < own { (first + block) as u32 } else { 0 }));
        slots.extend((old..old + new).map(|token| (first * BLOCK + token) as i64));
        first += own;
    }
    let bytes = count * BLOCK * kv_heads * size * 2 * kind.size_in_bytes();
    // Enough layers to exceed the processor's caches, so that a layer's keys and values come from memory, as in a model.
    let layers = (CACHES / bytes).clamp(1, 30);
    let mut pools = Vec::new();
    for _ in 0..layers {
        let pool = |dims: [usize; 4]| Tensor::zeros(&dims, kind, &device);
        let (keys, values) = (pool([count, kv_heads, size, BLOCK])?, pool([count, kv_heads, size, BLOCK])?);
        request_huge_pages(&keys, &values)?;
        for pool in [&keys, &values] {
            pool.one_set()?;
        }
        pools.push((keys, values));
    }
    let tables = Tensor::from_vec(tables, (runs.len(), width), &device)?;
    let lens: Vec<u32> = runs.iter().map(|(old, new)| (old + new) as u32).collect();
    let lens = Tensor::from_vec(lens, runs.len(), &device)?;
    let counts: Vec<usize> = runs.iter().map(|(_, new)| *new).collect();
    let slots = Tensor::from_vec(slots, rows, &device)?;
    let [q, k, v] = [heads, kv_heads, kv_heads].map(|heads| random(&[rows, heads, 1, size]));
    let (q, k, v) = (q?, k?, v?);
    let scores = Scores { scale: 1.0 / (size as f32).sqrt(), softcap: None, window: None };
    let step = |(keys, values): &(Tensor, Tensor)| {
        let cache = Cache { keys, values, tables: &tables, lens: &lens, counts: &counts, slots: &slots };
        paged(&q, &k, &v, &cache, &scores).map(drop)
    };
    let seconds = best_of_each(&pools, step)?;
    let pairs: usize = runs.iter().map(|(old, new)| new * old + new * (new + 1) / 2).sum();
    let flops = (pairs * heads * size * 4) as f64;
    let rates = [flops, bytes as f64].map(|amount| amount / seconds / 1e9);
    report(what, seconds, &format!("{:7.1} GFLOPS {:6.1} GB/s", rates[0], rates[1]));
    Ok(())
}

fn report(what: &str, seconds: f64, rate: &str) {
    println!("{what:<44} {:10.1} us {rate}", seconds * 1e6);
}

fn time_dense(model: Model, n: usize, l: usize) -> Result<()> {
    let Model { heads, kv_heads, size, .. } = model;
    let q = random(&[1, heads, n, size])?;
    let (k, v) = (random(&[1, kv_heads, l, size])?, random(&[1, kv_heads, l, size])?);
    let hidden = |at: usize| if at % l > l - n + at / l { f32::NEG_INFINITY } else { 0.0 };
    let mask = Tensor::from_vec((0..n * l).map(hidden).collect::<Vec<f32>>(), (n, l), &Device::Cpu)?;
    let scores = Scores { scale: 1.0 / (size as f32).sqrt(), softcap: None, window: None };
    let seconds = best(|| dense(&q, &k, &v, (n > 1).then_some(&mask), &scores).map(drop))?;
    let flops = ((n * (l - n) + n * (n + 1) / 2) * heads * size * 4) as f64;
    report(&format!("dense, {n} of {l} tokens"), seconds, &format!("{:7.1} GFLOPS", flops / seconds / 1e9));
    Ok(())
}

fn time_elementwise(rows: usize, width: usize) -> Result<()> {
    let (x, y, weight) = (random(&[rows, 1, width])?, random(&[rows, 1, width])?, random(&[width])?);
    let rate = |values: usize, seconds: f64| format!("{:7.2} values/ns", values as f64 / seconds / 1e9);
    let seconds = best(|| rms_norm(&x, &weight, 1e-5).map(drop))?;
    report(&format!("norm of {rows} x {width}"), seconds, &rate(rows * width, seconds));
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        let seconds = best(|| act_mul(&x, &y, activation).map(drop))?;
        report(&format!("{activation:?} of {rows} x {width}"), seconds, &rate(rows * width, seconds));
    }
    let (heads, size) = (width / 64, 64);
    let q = random(&[rows, heads, 1, size])?;
    let (cos, sin) = (random(&[rows, size / 2])?, random(&[rows, size / 2])?);
    let positions: Vec<usize> = (0..rows).collect();
    for interleaved in [false, true] {
        let seconds = best(|| rope(&q, &q, (&cos, &sin), &positions, interleaved).map(drop))?;
        let what = format!("rotation of twice {rows} x {width}, interleaved: {interleaved}");
        report(&what, seconds, &rate(2 * rows * width, seconds));
    }
    Ok(())
}

fn main() -> Result<()> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let &[heads, kv_heads, size] = sizes.as_slice() else { return time_all([9, 3, 64]) };
    time_all([heads, kv_heads, size])
}

fn time_all([heads, kv_heads, size]: [usize; 3]) -> Result<()> {
    println!("{heads} heads, {kv_heads} key heads, size {size}");
    for kind in [DType::F32, DType::F16] {
        let model = Model { heads, kv_heads, size, kind };
        println!("{kind:?} keys and values");
        time_paged("a prompt of 440 tokens", model, &vec![(0, 440)])?;
        time_paged("a prompt of 1,720 tokens", model, &vec![(0, 1720)])?;
        time_paged("64 tokens after 1,600", model, &vec![(1600, 64)])?;
        time_paged("decode after 200 tokens", model, &vec![(200, 1)])?;
        time_paged("decode after 1,700 tokens", model, &vec![(1700, 1)])?;
        time_paged("decode of 8 after 200 tokens", model, &vec![(200, 1); 8])?;
        time_paged("decode of 32 after 200 tokens", model, &vec![(200, 1); 32])?;
    }
    let model = Model { heads, kv_heads, size, kind: DType::F32 };
    time_dense(model, 440, 440)?;
    time_dense(model, 1, 1700)?;
    for rows in [1, 32, 512] {
        time_elementwise(rows, 9 * 64)?;
        time_elementwise(rows, 1536)?;
    }
    Ok(())
}
