//! Vectors of 128 bits with the dot products of ARMv8.2: four make a tile.

use std::arch::{aarch64::*, asm};

use super::{
    format::Kind,
    kernel::{Vectors, kernels},
};

/// NEON with dot products.
struct Neon;

kernels!(Neon, ["neon,dotprod"], 1: 4, 2: 4, 3: 2, 4: 2);

impl Vectors for Neon {
    const LANES: usize = 4;
    const SUBTRACTS: bool = true;
    type Float = float32x4_t;
    type Int = int32x4_t;
    type Bytes = uint8x16_t;

    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        // SAFETY: the machine has the instruction, as for all functions of this implementation.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> int32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_s32(value) }
    }

    #[inline(always)]
    unsafe fn from_half(at: *const u8) -> float32x4_t {
        // SAFETY: as above; 8 bytes can be read. The intrinsic for the conversion needs a feature that the instruction does
        // not need, so this is the instruction itself.
        unsafe {
            let halves = vld1_u16(at.cast());
            let floats: float32x4_t;
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) floats, in(vreg) halves, options(pure, nomem, nostack));
            floats
        }
    }

    #[inline(always)]
    unsafe fn from_unsigned(at: *const u8) -> float32x4_t {
        // SAFETY: as above; 4 bytes can be read.
        unsafe { vcvtq_f32_u32(widen(at)) }
    }

    #[inline(always)]
    unsafe fn from_signed(at: *const u8) -> float32x4_t {
        // SAFETY: as above; 4 bytes can be read.
        unsafe {
            // The byte moves to the top of its lane and back, with its sign.
            let lanes = vshrq_n_s32::<24>(vreinterpretq_s32_u32(vshlq_n_u32::<24>(widen(at))));
            vcvtq_f32_s32(lanes)
        }
    }

    #[inline(always)]
    unsafe fn from_nibbles(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: as above; 4 bytes can be read.
        unsafe {
            let bytes = widen(at);
            let low = vandq_u32(bytes, vdupq_n_u32(15));
            [vcvtq_f32_u32(low), vcvtq_f32_u32(vshrq_n_u32::<4>(bytes))]
        }
    }

    #[inline(always)]
    unsafe fn from_int(ints: int32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vcvtq_f32_s32(ints) }
    }

    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn mul_sub(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmsq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn store(floats: float32x4_t, to: *mut f32, count: usize) {
        if count == 4 {
            // SAFETY: as above; 4 floats can be written.
            unsafe { vst1q_f32(to, floats) };
        } else {
            let mut all = [0f32; 4];
            // SAFETY: as above; the array has 4 floats, and the first `count` can be written to `to`.
            unsafe {
                vst1q_f32(all.as_mut_ptr(), floats);
                to.copy_from_nonoverlapping(all.as_ptr(), count);
            }
        }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> uint8x16_t {
        // SAFETY: as above; 16 bytes can be read.
        unsafe { vld1q_u8(at) }
    }

    #[inline(always)]
    unsafe fn shift(bytes: uint8x16_t, right: i32, mask: u8) -> uint8x16_t {
        // SAFETY: as above. A shift by a negative count goes to the right.
        unsafe { vandq_u8(vshlq_u8(bytes, vdupq_n_s8(-right as i8)), vdupq_n_u8(mask)) }
    }

    #[inline(always)]
    unsafe fn or(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        // SAFETY: as above.
        unsafe { vorrq_u8(a, b) }
    }

    #[inline(always)]
    unsafe fn dot4<K: Kind, const M: usize>(dots: &mut [int32x4_t; M], weights: [uint8x16_t; 4], panel: *const i32) {
        for (group, weights) in weights.into_iter().enumerate() {
            // SAFETY: as above; the panel has these words. The intrinsic is not stable, so this is the instruction itself.
            unsafe {
                let weights = if K::BITS == 8 { veorq_u8(weights, vdupq_n_u8(128)) } else { weights };
                for (row, dot) in dots.iter_mut().enumerate() {
                    let activations = vdupq_n_s32(panel.add(group * M + row).read());
                    asm!(
                        "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                        inout(vreg) *dot, in(vreg) weights, in(vreg) activations,
                        options(pure, nomem, nostack)
                    );
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a prefetch reads nothing that the program can see.
        unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) at, options(readonly, nostack, preserves_flags)) };
    }
}

/// Four bytes as numbers of 32 bits.
///
/// # Safety
/// The machine has NEON, and 4 bytes can be read.
#[inline(always)]
unsafe fn widen(at: *const u8) -> uint32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = vcreate_u8(u64::from(at.cast::<u32>().read_unaligned()));
        vmovl_u16(vget_low_u16(vmovl_u8(bytes)))
    }
}
