//! Chooses the functions that compute a product by instruction set. Calling such a function is sound on a machine that has the
//! instruction set.

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{activations::Quantise, format::Kind, kernel::Kernel, portable, quantise_portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, quantise_avx2};
use crate::isa::Isa;

/// The most rows of a panel: as many as fit a kernel's registers.
pub(crate) fn panel_rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 8,
        Isa::AvxVnni => 6,
        Isa::Avx2 | Isa::Neon | Isa::Portable => 4,
    }
}

/// Returns the kernel for panels of `rows` rows, at most [`panel_rows`].
#[inline]
pub(crate) fn kernel<K: Kind>(isa: Isa, rows: usize) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::kernel::<K>(rows),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avx2::vnni::kernel::<K>(rows),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernel::<K>(rows),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::kernel::<K>(rows),
        _ => portable::kernel::<K>(rows),
    }
}

/// Returns the function that quantises pieces of a panel.
pub(crate) fn quantiser(isa: Isa) -> Quantise {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::AvxVnni | Isa::Avx2 => quantise_avx2::quantise,
        _ => quantise_portable::quantise,
    }
}
