//! Measures products: `bench-product [type] [rows,rows,..] [instruction set]`, for example `bench-product q4k 1,8,256 avx2`.
//!
//! For each shape there are enough weights to exceed the caches, used in turns as the layers of a model are. Prints the 10th percentile
//! of the products' times in microseconds, the rate of reading weights, and the rate of operations (two for each weight and row).

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{
    Device, Result,
    quantized::{GgmlDType, QStorage, QTensor, QuantizedType},
};
use caudal_kernels::{isa, product, team};

/// Bytes of all weights of a shape.
const BYTES: usize = 64 << 20;
/// The time for which a shape and a number of rows are measured.
const BUDGET: Duration = Duration::from_millis(400);
const SHAPES: [(usize, usize); 7] =
    [(576, 576), (1536, 576), (576, 1536), (192, 576), (49152, 576), (2048, 2048), (5632, 2048)];

fn weight(dtype: GgmlDType, n: usize, k: usize) -> Result<Box<dyn QuantizedType>> {
    let mut seed = 1u32;
    let bytes: Vec<u8> = (0..n * k / dtype.block_size() * dtype.type_size())
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // The high bytes of scales must not make infinite numbers.
            (seed >> 24) as u8 & 0x3b
        })
        .collect();
    let storage = QStorage::from_data(Cow::Borrowed(&bytes), &Device::Cpu, dtype)?;
    let tensor = Arc::new(QTensor::new(storage, (n, k))?);
    product::pack(&tensor).ok_or_else(|| candle_core::Error::Msg(format!("{dtype:?} cannot be packed")))
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dtype = match args.next().as_deref() {
        Some("q4_0") => GgmlDType::Q4_0,
        Some("q4_1") => GgmlDType::Q4_1,
        Some("q5_0") => GgmlDType::Q5_0,
        Some("q5_1") => GgmlDType::Q5_1,
        Some("q2k") => GgmlDType::Q2K,
        Some("q3k") => GgmlDType::Q3K,
        Some("q4k") => GgmlDType::Q4K,
        Some("q5k") => GgmlDType::Q5K,
        Some("q6k") => GgmlDType::Q6K,
        _ => GgmlDType::Q8_0,
    };
    let rows = args.next().unwrap_or_else(|| "1,4,8,32,64,256".into());
    let rows: Vec<usize> = rows.split(',').filter_map(|rows| rows.parse().ok()).collect();
    if let Some(name) = args.next() {
        let named = isa::Isa::available().into_iter().find(|isa| format!("{isa:?}").eq_ignore_ascii_case(&name));
        if !named.is_some_and(isa::set) {
            candle_core::bail!("this machine has no {name}; it has {:?}", isa::Isa::available())
        }
    }
    println!("{dtype:?}, {:?}, {} threads", isa::current(), team::size());
    for (n, k) in SHAPES {
        if k % dtype.block_size() != 0 {
            println!("{n} x {k}: {k} is not a multiple of {}", dtype.block_size());
            continue;
        }
        let first = weight(dtype, n, k)?;
        let size = first.storage_size_in_bytes();
        let mut weights = vec![first];
        while weights.len() * size < BYTES {
            weights.push(weight(dtype, n, k)?);
        }
        for m in &rows {
            let xs: Vec<f32> = (0..m * k).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 300.0).collect();
            let mut out = vec![0f32; m * n];
            // Weights take turns, so that they come from memory. The 10th percentile of the times counts, because the machine may be busy.
            let (mut times, begun) = (Vec::new(), Instant::now());
            let mut turns = weights.iter().cycle();
            while let Some(weight) = turns.next().filter(|_| begun.elapsed() < BUDGET) {
                let begun = Instant::now();
                weight.matmul_t((*m, k, n), &xs, &mut out)?;
                times.push(begun.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            let best = times[times.len() / 10];
            let operations = 2.0 * (m * n * k) as f64;
            println!(
                "{n:>6} x {k:<5} rows {m:>3}: {:>9.1} µs {:>6.1} GB/s {:>6.0} GOPS",
                best * 1e6,
                size as f64 / best / 1e9,
                operations / best / 1e9
            );
        }
    }
    Ok(())
}
