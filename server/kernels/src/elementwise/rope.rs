//! Rotary embeddings.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{
    lanes::{Kernel, Lanes, run_on},
    rows::{Locked, Output},
};
use crate::isa::Isa;

/// Nanoseconds of a value.
const COST: f64 = 0.3;

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

/// Rotates the rows `range` of a tensor (b, h, n, d) and writes them to `to` on.
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
        for (i, index) in self.range.enumerate() {
            let (row, head, token) = (index / (h * n), index / n % h, index % n);
            let from = &self.data[self.start + row * sb + head * sh + token * sn..][..d];
            // SAFETY: `to` has room for the range's rows, of `d` values each, which nobody else reads or writes. They are
            // written before they are read.
            let to =
                unsafe { std::slice::from_raw_parts_mut(self.to.add(i * d).cast::<std::mem::MaybeUninit<f32>>(), d) };
            let at = (self.turn.positions[row] + token) * half;
            let (cos, sin) = (&self.turn.cos[at..at + half], &self.turn.sin[at..at + half]);
            if self.turn.interleaved {
                for (((pair, to), c), s) in from.chunks_exact(2).zip(to.chunks_exact_mut(2)).zip(cos).zip(sin) {
                    let (a, b) = rotate(pair[0], pair[1], *c, *s);
                    to[0].write(a);
                    to[1].write(b);
                }
            } else {
                let (first, second) = to.split_at_mut(half);
                for (j, (first, second)) in first.iter_mut().zip(second).enumerate() {
                    let (a, b) = rotate(from[j], from[half + j], cos[j], sin[j]);
                    first.write(a);
                    second.write(b);
                }
            }
            for (to, from) in to[2 * half..].iter_mut().zip(&from[2 * half..]) {
                to.write(*from);
            }
        }
    }
}

/// A point, turned by an angle.
#[inline(always)]
fn rotate(x: f32, y: f32, cos: f32, sin: f32) -> (f32, f32) {
    (x.mul_add(cos, -(y * sin)), x.mul_add(sin, y * cos))
}
