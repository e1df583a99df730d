//! Attention against a plain reference in f64, and bit for bit against itself.

mod dense;
mod paged;
mod pool;
mod reference;
mod refused;
