//! Products of quantised weights with f32 inputs.
//!
//! A weight is packed when it is loaded: [`pack`] returns a storage for candle's `QTensor` that computes products from tiles of
//! 16 rows ([`tiles`]). Inputs are quantised to 8 bits in blocks of 32 ([`activations`]). Products of integers are exact, and
//! each output adds its blocks in one order with fused multiply-add, so its bits depend on its row and its weight only: not
//! on other rows, on threads, or on the instruction set.
//!
//! | file | holds |
//! |---|---|
//! | `format` | the ggml types that can be packed |
//! | `tiles`, `buffer` | the packed layout, and its memory |
//! | `activations`, `quantise_avx2` | inputs in 8 bits |
//! | `multiply` | how work is cut, and the choice of a kernel |
//! | `kernel` | the computation of a tile, for all instruction sets |
//! | `portable`, `avx512`, `avx2`, `neon` | the vectors of an instruction set |
//! | `storage` | candle's interface |
//! | `rows` | single rows of a weight, for embedding tables |

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
mod format;
mod kernel;
mod multiply;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod quantise_avx2;
mod rows;
mod storage;
#[cfg(test)]
mod tests;
mod tiles;

pub use rows::Rows;
pub use storage::pack;

use crate::{isa::Isa, team};

/// Who computes: instructions that the machine has, and threads.
#[derive(Clone, Copy)]
pub(crate) struct Executor<'a> {
    isa: Isa,
    threads: usize,
    run: &'a Run<'a>,
}

/// Calls its second argument once with each number below the first, and returns when all calls have returned: [`team::run`].
pub(crate) type Run<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

impl Executor<'static> {
    /// This process's instruction set and team.
    pub(crate) fn current() -> Self {
        Self { isa: crate::isa::current(), threads: team::size(), run: &team::run }
    }
}

#[cfg(test)]
impl<'a> Executor<'a> {
    /// Work is cut for `threads` threads and computed by `run`.
    ///
    /// # Panics
    /// If the machine lacks `isa`.
    fn new(isa: Isa, threads: usize, run: &'a Run<'a>) -> Self {
        assert!(Isa::available().contains(&isa), "{isa:?} on this machine");
        Self { isa, threads, run }
    }
}
