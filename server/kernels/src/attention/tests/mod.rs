//! Compares attention with a plain reference in f64, and its bits between ways to compute the same rows.

mod dense;
mod paged;
mod pool;
mod reference;
mod refused;
