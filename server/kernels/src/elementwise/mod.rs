//! Norms, activations and rotary embeddings of f32 tensors on the CPU.
//!
//! Each function returns `None` for types, shapes and devices that it does not support, so that the caller can use candle's
//! own operations. A row's bits do not depend on the rows beside it, the number of threads or the instruction set.

mod activation;
pub(crate) mod lanes;
pub(crate) mod math;
mod norm;
mod rope;
pub(crate) mod rows;

#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor};

pub use activation::Activation;

use crate::isa;

/// Divides each row of `x` by its root mean square and multiplies it by `weight`: `x / sqrt(mean(x^2) + eps) * weight`.
///
/// `x` is f32 (.., d): contiguous, or rows of `d` values at equal distances. `weight` is f32 (d) and contiguous.
/// Returns a contiguous tensor of `x`'s shape.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Option<Tensor>> {
    norm::rms_norm(x, weight, eps, isa::current())
}

/// Computes `activation(gate) * up`, for f32 tensors of the same shape whose rows lie at equal distances, such as halves of one
/// product.
///
/// Returns a contiguous tensor.
pub fn act_mul(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Option<Tensor>> {
    activation::act_mul(gate, up, activation, isa::current())
}

/// Rotates queries (b, h, n, d) and keys (b, key heads, n, d), f32 with any strides whose last is 1.
///
/// Row `i` of the batch has the positions `positions[i]..positions[i] + n`. `cos` and `sin` are f32 (most positions, r / 2) and
/// contiguous; the first `r` of `d` components are rotated: pairs (2i, 2i + 1) if `interleaved`, else (i, i + r / 2).
///
/// Returns contiguous tensors. Returns `None` also if `cos` and `sin` have no row for a position.
pub fn rope(
    q: &Tensor,
    k: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    positions: &[usize],
    interleaved: bool,
) -> Result<Option<(Tensor, Tensor)>> {
    rope::rope((q, k), (cos, sin), positions, interleaved, isa::current())
}
