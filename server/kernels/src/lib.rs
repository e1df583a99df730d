//! CPU kernels of the engine: the operations that take most of the time of a language model's step, for rows of any number of
//! sequences.
//!
//! The bits of a position do not depend on the rows beside it: each output is one sum in one fixed order, for any number of
//! rows, pieces, cached blocks and threads.
//!
//! | module | owns |
//! |---|---|
//! | `team` | the threads that compute, and how work is shared among them |
//! | `isa` | which instruction set this process uses |
//! | `product` | products of quantised weights, and rows of embedding tables |
//! | `dense` | products of other weights |
//! | `attention` | attention, dense and over the paged cache |
//! | `elementwise` | norms, activations, rotary embeddings |
//! | `memory` | the return of freed memory to the operating system |
//!
//! This is the only crate of the workspace with `unsafe`. Each use states why it is sound.

/// Must be raised with every change that alters the bits of keys, values or logits. Processes with the same version can share
/// keys and values.
pub const BITS_VERSION: u32 = 1;

pub mod attention;
pub mod dense;
pub mod elementwise;
pub mod isa;
pub mod memory;
pub mod product;
pub mod team;
