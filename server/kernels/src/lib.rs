//! CPU kernels of the engine: what a step of a language model spends its time on, for rows of any number of sequences.
//!
//! The same position gets the same bits whatever runs beside it: each output is one sum in one fixed order, whatever the
//! number of rows, pieces, cached blocks and threads.
//!
//! | module | owns |
//! |---|---|
//! | `team` | the threads that compute, and how work is shared among them |
//! | `isa` | which instruction set this process uses |
//! | `product` | products of quantised weights, and rows of embedding tables |
//! | `dense` | products of other weights |
//! | `attention` | attention, dense and over the paged cache |
//! | `elementwise` | norms, activations, rotary embeddings |
//! | `memory` | memory that goes back to the system |
//!
//! This is the only crate of the workspace with `unsafe`. Each use states why it is sound.

/// Raised with every change that gives keys, values or logits other bits. Processes with one version can share keys and values.
pub const BITS_VERSION: u32 = 1;

pub mod attention;
pub mod dense;
pub mod elementwise;
pub mod isa;
pub mod memory;
pub mod product;
pub mod team;
