//! Which instruction set this process uses.
//!
//! The kernels of a process are chosen once, when the first kernel runs, by [`current`]. All instruction sets compute the same
//! sums in the same order with fused multiply-add, so results are equal bit for bit; only the speed differs. Tests pass an
//! [`Isa`] of [`Isa::available`] to the internal functions instead.

use std::sync::OnceLock;

/// A set of instructions for which kernels exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, on any machine.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// [`Isa::Avx2`] and the VNNI dot products of 256 bits (AVX-VNNI).
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI, and all of [`Isa::Avx2`].
    Avx512,
    /// NEON with the dot products of ARMv8.2.
    Neon,
}

static CURRENT: OnceLock<Isa> = OnceLock::new();

/// Returns the instruction set of this process: the last of [`Isa::available`], unless [`set`] chose another.
pub fn current() -> Isa {
    *CURRENT.get_or_init(|| Isa::available().pop().unwrap_or(Isa::Portable))
}

/// Chooses the instruction set before the first kernel runs.
///
/// Returns `false`, and changes nothing, if the machine lacks `isa` or a set was chosen before.
pub fn set(isa: Isa) -> bool {
    Isa::available().contains(&isa) && CURRENT.set(isa).is_ok()
}

impl Isa {
    /// Lists the instruction sets that this machine supports, the fastest last. [`Isa::Portable`] is always the first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Isa::Avx2);
                if is_x86_feature_detected!("avxvnni") {
                    found.push(Isa::AvxVnni);
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
                {
                    found.push(Isa::Avx512);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod") {
            found.push(Isa::Neon);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_set_is_one_that_the_machine_has() {
        let found = Isa::available();
        assert_eq!(found.first(), Some(&Isa::Portable));
        assert!(found.contains(&current()));
        assert!(!set(Isa::Portable), "chosen already");
    }
}
