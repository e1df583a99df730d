//! Settings of the scores: scale, soft cap and window.

/// The way in which the products of queries and keys become scores.
#[derive(Debug, Clone, Copy)]
pub struct Scores {
    /// Factor of the products.
    pub scale: f32,
    /// `c` in `c * tanh(x / c)`, applied to a scaled product `x` before the mask.
    pub softcap: Option<f32>,
    /// A token attends to itself and the `window - 1` tokens before it.
    pub window: Option<usize>,
}
