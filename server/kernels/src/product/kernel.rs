//! The computation of a tile with the rows of a panel, written once for all instruction sets.
//!
//! An output is one f32 that starts at 0. Block after block adds `d * d_x * dot`, where `dot` is the exact product of the
//! block's integers, and then the part of the minimum, each with one fused multiply-add. So all instruction sets compute the
//! same bits.

use super::{
    activations::place,
    format::{Kind, Scales},
    tiles::{ROWS, unit_bytes},
};

/// The arguments of a kernel: some tiles, to multiply with the rows of one panel.
pub(crate) struct Call {
    /// The first tile.
    pub weights: *const u8,
    pub tiles: usize,
    pub tile_bytes: usize,
    /// Blocks of 32 columns.
    pub blocks: usize,
    /// The panel.
    pub panel: *const i32,
    /// Words of a block of the panel, all rows together.
    pub words: usize,
    /// The output of the panel's first row and the first tile's first row.
    pub out: *mut f32,
    /// The distance between two rows, in outputs.
    pub stride: usize,
    /// The number of outputs for each row; the last tile may have fewer than 16.
    pub columns: usize,
}

/// Computes a call.
///
/// # Safety
/// The machine has the kernel's instructions. `weights` is followed by `tiles` times `tile_bytes` bytes that were packed for
/// the kernel's [`Kind`], `panel` by `blocks` times `words` words; the panel has as many rows as the kernel is for. The outputs
/// can be written, and no other thread reads or writes them meanwhile.
pub(crate) type Kernel = unsafe fn(&Call);

/// Vectors of an instruction set. A vector holds LANES rows of a tile.
///
/// # Safety
/// All functions need a machine with the instruction set. A function with a pointer reads or writes there as many bytes as
/// its description names.
pub(crate) trait Vectors: 'static {
    const LANES: usize;
    /// Whether [`Self::dot4`] subtracts 128 from integers of 8 bits.
    const SUBTRACTS: bool;
    type Float: Copy;
    type Int: Copy;
    /// Four bytes for each lane.
    type Bytes: Copy;

    unsafe fn splat(value: f32) -> Self::Float;
    unsafe fn splat_int(value: i32) -> Self::Int;
    /// Converts LANES numbers of 16 bits.
    unsafe fn from_half(at: *const u8) -> Self::Float;
    /// Converts LANES bytes.
    unsafe fn from_unsigned(at: *const u8) -> Self::Float;
    /// Converts LANES signed bytes.
    unsafe fn from_signed(at: *const u8) -> Self::Float;
    /// Converts the low and the high four bits of LANES bytes.
    unsafe fn from_nibbles(at: *const u8) -> [Self::Float; 2];
    unsafe fn from_int(ints: Self::Int) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// `c - a * b`, rounded once.
    unsafe fn mul_sub(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// Writes the first `count` lanes.
    unsafe fn store(floats: Self::Float, to: *mut f32, count: usize);

    /// Loads 4 LANES bytes.
    unsafe fn load(at: *const u8) -> Self::Bytes;
    /// Shifts each byte to the right by `right`, to the left if that is negative, and clears the bits outside `mask`. Bits
    /// that cross into another byte are outside the mask.
    unsafe fn shift(bytes: Self::Bytes, right: i32, mask: u8) -> Self::Bytes;
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Adds the products of four groups of a [`Kind`] with the M rows of a panel. `panel` points to the first group's words,
    /// four times M of them.
    unsafe fn dot4<K: Kind, const M: usize>(dots: &mut [Self::Int; M], weights: [Self::Bytes; 4], panel: *const i32);
    /// Asks for the cache line at `at` ahead of its use. Any address is allowed.
    unsafe fn prefetch(at: *const u8);
}

/// The distance in bytes at which weights are prefetched, if they have 8 bits or are multiplied with more than [`FEW`] rows.
/// The processor's own prefetching is faster for fewer bits and rows.
const AHEAD: usize = 4096;
/// See [`AHEAD`].
const FEW: usize = 4;

/// Computes a call for M rows. P vectors of a tile are computed at once; P times the lanes divides 16.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
pub(crate) unsafe fn tiles<V: Vectors, K: Kind, const M: usize, const P: usize>(call: &Call) {
    let bytes = const { unit_bytes(K::SCALES, K::BITS) };
    let per_unit = K::SCALES.blocks();
    for tile in 0..call.tiles {
        for first in (0..ROWS / V::LANES).step_by(P) {
            // SAFETY: the caller promises the lengths of the weights and the panel, and the outputs.
            unsafe {
                let mut sums = [[V::splat(0.0); M]; P];
                let mut unit = call.weights.add(tile * call.tile_bytes);
                let mut panel = call.panel;
                let mut left = call.blocks;
                while left >= per_unit {
                    for slot in 0..per_unit {
                        blocks::<V, K, M, P>(unit, slot, panel.add(slot * call.words), first, &mut sums);
                    }
                    unit = unit.add(bytes);
                    panel = panel.add(per_unit * call.words);
                    left -= per_unit;
                }
                for slot in 0..left {
                    blocks::<V, K, M, P>(unit, slot, panel.add(slot * call.words), first, &mut sums);
                }
                let columns = (call.columns - tile * ROWS).min(ROWS);
                for (part, sums) in sums.into_iter().enumerate() {
                    let begin = (first + part) * V::LANES;
                    for (row, sum) in sums.into_iter().enumerate().filter(|_| begin < columns) {
                        let to = call.out.add(row * call.stride + tile * ROWS + begin);
                        V::store(sum, to, (columns - begin).min(V::LANES));
                    }
                }
            }
        }
    }
}

/// Adds one block of 32 columns to the sums of P vectors and M rows.
///
/// # Safety
/// `unit` is a unit of the [`Kind`] with a block `slot`, `panel` is a block of a panel of M rows, and a tile has at least
/// `first + P` vectors.
#[inline(always)]
unsafe fn blocks<V: Vectors, K: Kind, const M: usize, const P: usize>(
    unit: *const u8,
    slot: usize,
    panel: *const i32,
    first: usize,
    sums: &mut [[V::Float; M]; P],
) {
    for (part, sums) in sums.iter_mut().enumerate() {
        let lane = (first + part) * V::LANES;
        // SAFETY: the caller's promise.
        unsafe { block::<V, K, M>(unit, slot, panel, lane, sums) };
    }
    if K::BITS == 8 || M > FEW {
        for line in 0..K::BITS {
            // SAFETY: a prefetch may have any address.
            unsafe { V::prefetch(unit.wrapping_add(K::SCALES.head() + (slot * K::BITS + line) * 64 + AHEAD)) };
        }
    }
}

/// Adds one block of 32 columns to the sums of M rows and of one vector, which holds the tile's rows from `lane` on.
///
/// # Safety
/// As [`blocks`].
#[inline(always)]
unsafe fn block<V: Vectors, K: Kind, const M: usize>(
    unit: *const u8,
    slot: usize,
    panel: *const i32,
    lane: usize,
    sums: &mut [V::Float; M],
) {
    // SAFETY: all places are inside the unit's head, its integers and the block of the panel.
    unsafe {
        let integers = unit.add(K::SCALES.head() + slot * K::BITS * 64 + lane * 4);
        let codes = unit.add(64 + slot * 32 + lane);
        let float = |word: usize, row: usize| V::splat(panel.add(word * M + row).cast::<f32>().read());
        let half = |at: usize| V::from_half(unit.add(at + lane * 2));
        match K::SCALES {
            Scales::Plain => whole::<V, K, M>(integers, panel, half(slot * 32), sums),
            Scales::PlainMin => {
                whole::<V, K, M>(integers, panel, half(slot * 64), sums);
                let m = half(slot * 64 + 32);
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = V::mul_add(m, float(place::D_SUM, row), *sum);
                }
            }
            Scales::SuperMin => {
                whole::<V, K, M>(integers, panel, V::mul(half(0), V::from_unsigned(codes)), sums);
                let m = V::mul(half(32), V::from_unsigned(codes.add(16)));
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = V::mul_sub(m, float(place::D_SUM, row), *sum);
                }
            }
            Scales::Half => {
                let d = half(0);
                let d = [V::mul(d, V::from_signed(codes)), V::mul(d, V::from_signed(codes.add(16)))];
                halves::<V, K, M>(integers, panel, d, sums);
            }
            Scales::HalfMin => {
                let (d, m) = (half(0), half(32));
                let [first, second] = [V::from_nibbles(codes), V::from_nibbles(codes.add(16))];
                halves::<V, K, M>(integers, panel, [V::mul(d, first[0]), V::mul(d, second[0])], sums);
                for (half, code) in [first[1], second[1]].into_iter().enumerate() {
                    let m = V::mul(m, code);
                    for (row, sum) in sums.iter_mut().enumerate() {
                        *sum = V::mul_sub(m, float(place::HALF_D_SUM + half, row), *sum);
                    }
                }
            }
        }
    }
}

/// Adds the products of a block with one scale, `d`.
///
/// # Safety
/// As [`blocks`].
#[inline(always)]
unsafe fn whole<V: Vectors, K: Kind, const M: usize>(
    integers: *const u8,
    panel: *const i32,
    d: V::Float,
    sums: &mut [V::Float; M],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = corrections::<V, K, M>(panel.add(place::SUM * M));
        V::dot4::<K, M>(&mut dots, groups::<V, K>(integers, 0), panel);
        V::dot4::<K, M>(&mut dots, groups::<V, K>(integers, 4), panel.add(4 * M));
        for (row, sum) in sums.iter_mut().enumerate() {
            let scale = V::mul(d, V::splat(panel.add(place::D * M + row).cast::<f32>().read()));
            *sum = V::mul_add(scale, V::from_int(dots[row]), *sum);
        }
    }
}

/// Adds the products of a block whose halves have different scales `d`.
///
/// # Safety
/// As [`blocks`].
#[inline(always)]
unsafe fn halves<V: Vectors, K: Kind, const M: usize>(
    integers: *const u8,
    panel: *const i32,
    d: [V::Float; 2],
    sums: &mut [V::Float; M],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut first = corrections::<V, K, M>(panel.add(place::HALF_SUM * M));
        V::dot4::<K, M>(&mut first, groups::<V, K>(integers, 0), panel);
        let scaled = first.map(|dot| V::mul(V::from_int(dot), d[0]));
        let mut second = corrections::<V, K, M>(panel.add((place::HALF_SUM + 1) * M));
        V::dot4::<K, M>(&mut second, groups::<V, K>(integers, 4), panel.add(4 * M));
        for (row, sum) in sums.iter_mut().enumerate() {
            let scaled = V::mul_add(V::from_int(second[row]), d[1], scaled[row]);
            *sum = V::mul_add(scaled, V::splat(panel.add(place::D * M + row).cast::<f32>().read()), *sum);
        }
    }
}

/// The first terms of the products of M rows, which subtract [`Kind::OFFSET`] from the weights' integers. `sums` are -128 times
/// the sums of the rows' integers.
///
/// # Safety
/// M words can be read.
#[inline(always)]
unsafe fn corrections<V: Vectors, K: Kind, const M: usize>(sums: *const i32) -> [V::Int; M] {
    std::array::from_fn(|row| {
        // SAFETY: the caller's promise.
        unsafe {
            match K::OFFSET {
                0 => V::splat_int(0),
                128 if V::SUBTRACTS => V::splat_int(0),
                offset => V::splat_int(sums.add(row).read() >> (7 - offset.trailing_zeros())),
            }
        }
    })
}

/// The integers of four groups, from `first` on, joined from their planes.
///
/// # Safety
/// `integers` are a block's planes, with a vector of the tile at each 64 bytes; `first` is 0 or 4.
#[inline(always)]
unsafe fn groups<V: Vectors, K: Kind>(integers: *const u8, first: usize) -> [V::Bytes; 4] {
    std::array::from_fn(|group| {
        let group = first + group;
        // SAFETY: a block has as many vectors as an integer has bits, a plane as many as its width.
        unsafe {
            let high = |plane: usize, width, to| bits::<V>(integers.add(plane * 64), group, width, to);
            match K::BITS {
                8 => V::load(integers.add(group * 64)),
                6 => V::or(high(0, 4, 0), high(4, 2, 4)),
                5 => V::or(high(0, 4, 0), high(4, 1, 4)),
                4 => high(0, 4, 0),
                3 => V::or(high(0, 2, 0), high(2, 1, 2)),
                _ => high(0, 2, 0),
            }
        }
    })
}

/// The bits of one group in a plane of `width` bits, moved to bit `to` of each byte.
///
/// # Safety
/// `plane` has `width` vectors, `group` is below 8.
#[inline(always)]
unsafe fn bits<V: Vectors>(plane: *const u8, group: usize, width: usize, to: usize) -> V::Bytes {
    let (vector, from) = (group * width / 8, group * width % 8);
    let mask = (u8::MAX >> (8 - width)) << to;
    // SAFETY: the vector is inside the plane.
    unsafe { V::shift(V::load(plane.add(vector * 64)), from as i32 - to as i32, mask) }
}

/// Defines `kernel`, which returns the kernels of an instruction set by the number of rows of a panel: for each number, the
/// vectors that are computed at once.
macro_rules! kernels {
    ($vectors:ty, [$($features:literal)?], $($rows:literal: $parts:literal),*) => {
        /// The kernel for panels of `rows` rows.
        pub(crate) fn kernel<K: crate::product::format::Kind>(rows: usize) -> crate::product::kernel::Kernel {
            match rows {
                $($rows => tiles::<K, $rows, $parts>,)*
                _ => unreachable!("a panel has at most as many rows as there are kernels"),
            }
        }

        /// See [`crate::product::kernel::Kernel`].
        ///
        /// # Safety
        /// As there.
        $(#[target_feature(enable = $features)])?
        unsafe fn tiles<K: crate::product::format::Kind, const M: usize, const P: usize>(
            call: &crate::product::kernel::Call,
        ) {
            // SAFETY: the caller's promise; the instructions are those of the vectors.
            unsafe { crate::product::kernel::tiles::<$vectors, K, M, P>(call) };
        }
    };
}
pub(crate) use kernels;
