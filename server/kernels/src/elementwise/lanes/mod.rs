//! Sixteen f32 lanes, on each instruction set.
//!
//! A kernel is written once, over [`Lanes`], and compiled once for each instruction set. Every operation is defined lane
//! by lane and rounds once, so a kernel gives the same bits on all of them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod prefetch;
mod vector;

use crate::isa::Isa;

pub(crate) use self::{
    prefetch::prefetch,
    vector::{Kernel, Lanes, WIDTH, load_part, store_part},
};

/// Runs a kernel on an instruction set.
///
/// # Safety
/// The CPU has `isa`, and the conditions of the kernel itself hold.
pub(crate) unsafe fn run_on<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise.
        Isa::Avx512 => unsafe { avx512::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise.
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::run(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the caller's promise.
        Isa::Neon => unsafe { neon::run(kernel) },
        // SAFETY: the caller's promise; the portable lanes demand nothing of the CPU.
        _ => unsafe { kernel.run::<portable::Portable>() },
    }
}
