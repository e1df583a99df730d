//! The engine's product of quantised weights with a vector, on one thread: where most of the time goes, and what depends most
//! on how the engine was compiled.

use std::time::{Duration, Instant};

use candle_core::{
    Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor},
};

use crate::Figure;

/// Rows and columns of a matrix; those of the default model's feed-forward layers.
const ROWS: usize = 576;
const COLUMNS: usize = 1536;
/// More than one, so that they do not stay in a core's first cache.
const MATRICES: usize = 8;
const REPEATS: usize = 100;
/// Weights of a block of most types.
const BLOCK: usize = 32;

const TYPES: [GgmlDType; 5] = [GgmlDType::Q8_0, GgmlDType::Q6K, GgmlDType::Q4K, GgmlDType::Q4_0, GgmlDType::Q4_1];

/// Nanoseconds for a block of 32 weights, at best.
fn nanoseconds(weights: GgmlDType) -> candle_core::Result<f64> {
    let random = |shape: (usize, usize)| Tensor::randn(0f32, 1f32, shape, &Device::Cpu);
    let matrices: Vec<QMatMul> = (0..MATRICES)
        .map(|_| QMatMul::from_qtensor(QTensor::quantize(&random((ROWS, COLUMNS))?, weights)?))
        .collect::<Result<_, _>>()?;
    let vector = random((1, COLUMNS))?;
    let mut best = Duration::MAX;
    for _ in 0..REPEATS {
        let begun = Instant::now();
        for matrix in &matrices {
            matrix.forward(&vector)?;
        }
        best = best.min(begun.elapsed());
    }
    Ok(best.as_secs_f64() * 1e9 / (MATRICES * ROWS * COLUMNS / BLOCK) as f64)
}

pub fn rows() -> anyhow::Result<Vec<Figure>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let figure = |weights| {
        let name = format!("product with {weights:?}, ns for {BLOCK} weights on one thread");
        Ok(Figure::new(name, nanoseconds(weights)?, ""))
    };
    pool.install(|| TYPES.into_iter().map(figure).collect())
}
