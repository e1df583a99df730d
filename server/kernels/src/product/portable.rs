//! Vectors for any machine: arrays of 16 lanes, a whole tile.

use half::f16;

use super::{
    format::Kind,
    kernel::{Vectors, kernels},
};

/// Plain Rust.
struct Portable;

kernels!(Portable, [], 1: 1, 2: 1, 3: 1, 4: 1);

const LANES: usize = 16;

/// Reads `N` bytes.
///
/// # Safety
/// `N` bytes at `at` can be read.
unsafe fn bytes<const N: usize>(at: *const u8) -> [u8; N] {
    // SAFETY: the caller's promise.
    unsafe { at.cast::<[u8; N]>().read() }
}

impl Vectors for Portable {
    const LANES: usize = LANES;
    const SUBTRACTS: bool = false;
    type Float = [f32; LANES];
    type Int = [i32; LANES];
    type Bytes = [u8; 4 * LANES];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Float {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> Self::Int {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn from_half(at: *const u8) -> Self::Float {
        // SAFETY: the caller promises 32 bytes.
        let bytes: [u8; 2 * LANES] = unsafe { bytes(at) };
        std::array::from_fn(|lane| f16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]).to_f32())
    }

    #[inline(always)]
    unsafe fn from_unsigned(at: *const u8) -> Self::Float {
        // SAFETY: the caller promises 16 bytes.
        unsafe { bytes::<LANES>(at) }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn from_signed(at: *const u8) -> Self::Float {
        // SAFETY: the caller promises 16 bytes.
        unsafe { bytes::<LANES>(at) }.map(|byte| f32::from(byte.cast_signed()))
    }

    #[inline(always)]
    unsafe fn from_nibbles(at: *const u8) -> [Self::Float; 2] {
        // SAFETY: the caller promises 16 bytes.
        let bytes = unsafe { bytes::<LANES>(at) };
        [bytes.map(|byte| f32::from(byte & 15)), bytes.map(|byte| f32::from(byte >> 4))]
    }

    #[inline(always)]
    unsafe fn from_int(ints: Self::Int) -> Self::Float {
        ints.map(|int| int as f32)
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    unsafe fn mul_sub(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        std::array::from_fn(|lane| (-a[lane]).mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    unsafe fn store(floats: Self::Float, to: *mut f32, count: usize) {
        // SAFETY: the caller promises `count` floats, at most LANES.
        unsafe { to.copy_from_nonoverlapping(floats.as_ptr(), count) };
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self::Bytes {
        // SAFETY: the caller promises 64 bytes.
        unsafe { bytes(at) }
    }

    #[inline(always)]
    unsafe fn shift(bytes: Self::Bytes, right: i32, mask: u8) -> Self::Bytes {
        bytes.map(|byte| (if right < 0 { byte << -right } else { byte >> right }) & mask)
    }

    #[inline(always)]
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        std::array::from_fn(|byte| a[byte] | b[byte])
    }

    #[inline(always)]
    unsafe fn dot4<K: Kind, const M: usize>(dots: &mut [Self::Int; M], weights: [Self::Bytes; 4], panel: *const i32) {
        for (group, weights) in weights.iter().enumerate() {
            for (row, dot) in dots.iter_mut().enumerate() {
                // SAFETY: the caller promises the panel's words.
                let word = unsafe { panel.add(group * M + row).read() };
                let activations = word.to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
                for (dot, weights) in dot.iter_mut().zip(weights.chunks_exact(4)) {
                    *dot += weights.iter().zip(activations).map(|(weight, x)| i32::from(*weight) * x).sum::<i32>();
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
