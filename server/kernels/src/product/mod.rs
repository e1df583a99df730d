//! Products of quantised weights with f32 inputs.
//!
//! A weight is packed when it is loaded: [`pack`] returns a storage for candle's `QTensor` that computes products from tiles of
//! 16 rows ([`tiles`]). Inputs are quantised to 8 bits in blocks of 32 ([`activations`]). Products of integers are exact, and
//! each output adds its blocks in one order with fused multiply-add. So its bits depend on its row and its weight only, not on
//! other rows, threads or the instruction set.
//!
//! | file | holds |
//! |---|---|
//! | `format` | the ggml types that can be packed |
//! | `buffer` | memory for packed weights |
//! | `tiles` | the packed layout |
//! | `activations` | the layout of inputs in 8 bits |
//! | `quantise_portable`, `quantise_avx2` | quantising inputs: in plain Rust, and with AVX2 on every x86 that has it |
//! | `kernel` | the computation of a tile, for all instruction sets |
//! | `portable`, `avx512`, `avx2`, `neon` | the vectors of an instruction set |
//! | `dispatch` | the choice of these functions by instruction set |
//! | `executor` | the instruction set and the threads of a product |
//! | `panels` | all quantised rows of a product |
//! | `multiply` | the division of work into chunks |
//! | `tables` | the embedding tables with which weights share memory |
//! | `storage` | candle's interface |
//! | `rows` | single rows of a weight, for embedding tables |
//!
//! Of these files, each imports only files above it.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
mod dispatch;
mod executor;
mod format;
mod kernel;
mod multiply;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
mod portable;
#[cfg(target_arch = "x86_64")]
mod quantise_avx2;
mod quantise_portable;
mod rows;
mod storage;
mod tables;
#[cfg(test)]
mod tests;
mod tiles;

pub use rows::Rows;
pub use storage::pack;
