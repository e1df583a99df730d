//! Rotary embeddings.

use std::{mem::MaybeUninit, ops::Range};

use candle_core::{Result, Tensor};

use super::{
    lanes::{Kernel, Lanes, WIDTH, load_part, run_on, store_part},
    rows::{Locked, Output},
};
use crate::isa::Isa;

/// Nanoseconds to compute a value.
const COST: f64 = 0.2;

pub(super) fn rope(
    (q, k): (&Tensor, &Tensor),
    (cos, sin): (&Tensor, &Tensor),
    positions: &[usize],
    interleaved: bool,
    isa: Isa,
) -> Result<Option<(Tensor, Tensor)>> {
    let (cos_lock, sin_lock) = (Locked::new(cos), Locked::new(sin));
    let (Some(cos_values), Some(sin_values)) = (cos_lock.contiguous(), sin_lock.contiguous()) else { return Ok(None) };
    let &[places, half] = cos.dims() else { return Ok(None) };
    if sin.dims() != cos.dims() || half == 0 {
        return Ok(None);
    }
    let turn = Turn { cos: cos_values, sin: sin_values, places, half, positions, interleaved };
    let Some(q) = turn.rotate(q, isa)? else { return Ok(None) };
    let Some(k) = turn.rotate(k, isa)? else { return Ok(None) };
    Ok(Some((q, k)))
}

/// The rotation of each position.
#[derive(Clone, Copy)]
struct Turn<'a> {
    /// `places` x `half` cosines and sines.
    cos: &'a [f32],
    sin: &'a [f32],
    places: usize,
    half: usize,
    /// The first position of each row of the batch.
    positions: &'a [usize],
    interleaved: bool,
}

impl Turn<'_> {
    fn rotate(&self, x: &Tensor, isa: Isa) -> Result<Option<Tensor>> {
        let lock = Locked::new(x);
        let (&[b, h, n, d], &[sb, sh, sn, sd]) = (x.dims(), x.stride()) else { return Ok(None) };
        let known = |first: &usize| first.checked_add(n).is_some_and(|end| end <= self.places);
        if b * h * n * d == 0 || sd != 1 || 2 * self.half > d || self.positions.len() != b {
            return Ok(None);
        }
        let start = lock.layout().start_offset();
        let end = start + (b - 1) * sb + (h - 1) * sh + (n - 1) * sn + d;
        let Some(data) = lock.data().filter(|data| end <= data.len()) else { return Ok(None) };
        if !self.positions.iter().all(known) {
            return Ok(None);
        }
        let mut output = Output::new(b * h * n, d);
        let rotated =
            |range, to| Rotated { turn: *self, range, data, dims: [h, n, d], strides: [sb, sh, sn], start, to };
        // SAFETY: the kernel writes all values of the rows in its range. The CPU has `isa`.
        unsafe { output.fill(COST, |range, to| run_on(isa, rotated(range, to))) };
        output.tensor(x.dims()).map(Some)
    }
}

/// Rotates the rows `range` of a tensor (b, h, n, d) and writes them from `to` on.
struct Rotated<'a> {
    turn: Turn<'a>,
    range: Range<usize>,
    data: &'a [f32],
    dims: [usize; 3],
    strides: [usize; 3],
    start: usize,
    to: *mut f32,
}

impl Kernel for Rotated<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let ([h, n, d], [sb, sh, sn], half) = (self.dims, self.strides, self.turn.half);
        for (i, index) in self.range.clone().enumerate() {
            let (row, head, token) = (index / (h * n), index / n % h, index % n);
            let from = &self.data[self.start + row * sb + head * sh + token * sn..][..d];
            let at = (self.turn.positions[row] + token) * half;
            let angles = (&self.turn.cos[at..at + half], &self.turn.sin[at..at + half]);
            // SAFETY: the caller's promise: `to` has room for the range's rows, of `d` values each.
            unsafe {
                let to = self.to.add(i * d);
                if self.turn.interleaved {
                    turn_pairs(from, angles, to);
                } else {
                    turn_halves::<V>(from, angles, to);
                }
                let rest = 2 * half;
                std::ptr::copy_nonoverlapping(from[rest..].as_ptr(), to.add(rest), d - rest);
            }
        }
    }
}

/// Turns each pair of neighbours by its angle.
///
/// # Safety
/// `to` has room for two values for each angle, which no other thread accesses meanwhile.
#[inline(always)]
unsafe fn turn_pairs(from: &[f32], (cos, sin): (&[f32], &[f32]), to: *mut f32) {
    // SAFETY: the caller's promise; values that may not be initialised yet are only written.
    let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<MaybeUninit<f32>>(), 2 * cos.len()) };
    for (((pair, to), cos), sin) in from.chunks_exact(2).zip(to.chunks_exact_mut(2)).zip(cos).zip(sin) {
        let (x, y) = (pair[0], pair[1]);
        to[0].write(x.mul_add(*cos, -(y * sin)));
        to[1].write(x.mul_add(*sin, y * cos));
    }
}

/// Turns each value and its counterpart in the second half by their angle.
///
/// # Safety
/// The CPU has the instruction set of `V`, `from` has two values for each angle, and `to` has room for as many.
#[inline(always)]
unsafe fn turn_halves<V: Lanes>(from: &[f32], (cos, sin): (&[f32], &[f32]), to: *mut f32) {
    let half = cos.len();
    let mut at = 0;
    while at < half {
        let count = (half - at).min(WIDTH);
        // SAFETY: `at + count` is at most `half`, so all accesses lie within the slices, or within `to` by the caller's promise.
        unsafe {
            let x = load_part::<V>(from.as_ptr().add(at), count);
            let y = load_part::<V>(from.as_ptr().add(half + at), count);
            let (cos, sin) = (load_part::<V>(cos.as_ptr().add(at), count), load_part::<V>(sin.as_ptr().add(at), count));
            let zero = V::splat(0.0);
            store_part(x.fused(cos, zero.minus(y.times(sin))), to.add(at), count);
            store_part(x.fused(sin, y.times(cos)), to.add(half + at), count);
        }
        at += count;
    }
}
