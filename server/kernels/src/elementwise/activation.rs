//! Activations of gated layers.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{
    lanes::{Kernel, Lanes, WIDTH, load_part, run_on, store_part},
    math::{gelu, gelu_tanh, silu},
    rows::{Locked, Output, Rows},
};
use crate::isa::Isa;

/// Nanoseconds to compute a value.
const COST: f64 = 0.3;

/// A function that is applied to each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x / (1 + e^-x)`, also called swish.
    Silu,
    /// `x * (1 + erf(x / sqrt 2)) / 2`.
    Gelu,
    /// The approximation `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

pub(super) fn act_mul(gate: &Tensor, up: &Tensor, activation: Activation, isa: Isa) -> Result<Option<Tensor>> {
    let (gate_lock, up_lock) = (Locked::new(gate), Locked::new(up));
    let (Some(gate_rows), Some(up_rows)) = (gate_lock.rows(), up_lock.rows()) else { return Ok(None) };
    if gate.dims() != up.dims() {
        return Ok(None);
    }
    let mut output = Output::new(gate_rows.count, gate_rows.width);
    let gated = |range, to| Gated { range, gate: gate_rows, up: up_rows, activation, to };
    // SAFETY: the kernel writes all values of the rows in its range. The CPU has `isa`.
    unsafe { output.fill(COST, |range, to| run_on(isa, gated(range, to))) };
    output.tensor(gate.dims()).map(Some)
}

/// Computes the rows `range` of `activation(gate) * up` and writes them from `to` on.
struct Gated<'a> {
    range: Range<usize>,
    gate: Rows<'a>,
    up: Rows<'a>,
    activation: Activation,
    to: *mut f32,
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.activation {
                Activation::Silu => self.rows::<V, Silu>(),
                Activation::Gelu => self.rows::<V, Gelu>(),
                Activation::GeluTanh => self.rows::<V, GeluTanh>(),
                Activation::Relu => self.rows::<V, Relu>(),
            }
        }
    }
}

/// A function of each lane. A trait, because a closure would not be compiled for the caller's instruction set.
trait Function {
    /// # Safety
    /// The CPU has the instruction set of `V`.
    unsafe fn of<V: Lanes>(x: V) -> V;
}

struct Silu;

impl Function for Silu {
    #[inline(always)]
    unsafe fn of<V: Lanes>(x: V) -> V {
        // SAFETY: the caller's promise.
        unsafe { silu(x) }
    }
}

struct Gelu;

impl Function for Gelu {
    #[inline(always)]
    unsafe fn of<V: Lanes>(x: V) -> V {
        // SAFETY: the caller's promise.
        unsafe { gelu(x) }
    }
}

struct GeluTanh;

impl Function for GeluTanh {
    #[inline(always)]
    unsafe fn of<V: Lanes>(x: V) -> V {
        // SAFETY: the caller's promise.
        unsafe { gelu_tanh(x) }
    }
}

struct Relu;

impl Function for Relu {
    #[inline(always)]
    unsafe fn of<V: Lanes>(x: V) -> V {
        // SAFETY: the caller's promise.
        x.larger(unsafe { V::splat(0.0) })
    }
}

impl Gated<'_> {
    /// # Safety
    /// The CPU has the instruction set of `V`, and `to` has room for the range's rows.
    #[inline(always)]
    unsafe fn rows<V: Lanes, F: Function>(self) {
        let width = self.gate.width;
        let whole = width - width % WIDTH;
        for (i, index) in self.range.enumerate() {
            let (gate, up) = (self.gate.row(index).as_ptr(), self.up.row(index).as_ptr());
            // SAFETY: both rows have `width` values; see the caller's promise.
            unsafe {
                let to = self.to.add(i * width);
                for at in (0..whole).step_by(WIDTH) {
                    F::of(V::load(gate.add(at))).times(V::load(up.add(at))).store(to.add(at));
                }
                let rest = width - whole;
                if rest > 0 {
                    let x = F::of(load_part::<V>(gate.add(whole), rest));
                    store_part(x.times(load_part::<V>(up.add(whole), rest)), to.add(whole), rest);
                }
            }
        }
    }
}
