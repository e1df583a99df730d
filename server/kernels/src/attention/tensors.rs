//! Access to the memory of candle's tensors.

use std::cell::RefCell;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor, bail};
use half::{f16, slice::HalfFloatSliceExt};

use super::tile::Element;
use crate::elementwise::rows::Locked;

/// Vectors of f32 of a tensor (b, h, n, d), such as the queries.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    data: &'a [f32],
    start: usize,
    pub dims: [usize; 4],
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// `None` if the tensor is not f32 (b, h, n, d) on the CPU with a last stride of 1, or is empty.
    pub(super) fn new(tensor: &'a Locked) -> Option<Self> {
        let (data, layout) = (tensor.data()?, tensor.layout());
        let (&[b, h, n, d], &[sb, sh, sn, sd]) = (layout.dims(), layout.stride()) else { return None };
        if b * h * n * d == 0 || (sd != 1 && d > 1) {
            return None;
        }
        let end = layout.start_offset() + (b - 1) * sb + (h - 1) * sh + (n - 1) * sn + d;
        (end <= data.len()).then_some(Self {
            data,
            start: layout.start_offset(),
            dims: [b, h, n, d],
            strides: [sb, sh, sn],
        })
    }

    fn index(&self, b: usize, h: usize, n: usize) -> usize {
        self.start + b * self.strides[0] + h * self.strides[1] + n * self.strides[2]
    }

    /// Vector (`b`, `h`, `n`): `d` values.
    pub(super) fn row(&self, b: usize, h: usize, n: usize) -> &'a [f32] {
        let at = self.index(b, h, n);
        &self.data[at..at + self.dims[3]]
    }

    /// The address of vector (`b`, `h`, `n`), from which the head's other vectors can be reached.
    pub(super) fn address(&self, b: usize, h: usize, n: usize) -> *const f32 {
        self.data.as_ptr().wrapping_add(self.index(b, h, n))
    }

    /// The distance from a vector to the next of the same head, in values.
    pub(super) fn stride(&self) -> usize {
        self.strides[2]
    }
}

/// A type of cached keys and values.
pub(super) trait Stored: Element {
    const ZERO: Self;

    /// Rounds values. Both slices must have the same length.
    fn narrow(from: &[f32], to: &mut [Self]);

    /// The values of a storage of this type.
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Stored for f32 {
    const ZERO: Self = 0.0;

    fn narrow(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(data) = storage { Some(data) } else { None }
    }
}

impl Stored for f16 {
    const ZERO: Self = f16::ZERO;

    fn narrow(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }

    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F16(data) = storage { Some(data) } else { None }
    }
}

/// Calls `work` with the memory of two contiguous tensors, through their storages. The caller must hold no lock on either.
pub(super) fn with_pools<T: Stored>(
    keys: &Tensor,
    values: &Tensor,
    mut work: impl FnMut(&mut [T], &mut [T]) -> Result<()>,
) -> Result<()> {
    if same_storage(keys, values) {
        bail!("attention: keys and values share one storage");
    }
    write(keys, |keys| write(values, |values| work(keys, values)))
}

fn write<T: Stored>(tensor: &Tensor, mut work: impl FnMut(&mut [T]) -> Result<()>) -> Result<()> {
    struct Write<F>(RefCell<F>);
    impl<F: FnMut(&mut CpuStorage, &Layout) -> Result<()>> InplaceOp1 for Write<F> {
        fn name(&self) -> &'static str {
            "attention"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            (self.0.borrow_mut())(storage, layout)
        }
    }
    tensor.inplace_op1(&Write(RefCell::new(|storage: &mut CpuStorage, layout: &Layout| {
        let range = layout.contiguous_offsets();
        match (T::of(storage), range) {
            (Some(data), Some((from, to))) if to <= data.len() => work(&mut data[from..to]),
            _ => bail!("attention: the cache must be contiguous, keys and values of one type"),
        }
    })))
}

/// Whether two tensors are views of one storage.
pub(super) fn same_storage(a: &Tensor, b: &Tensor) -> bool {
    Locked::new(a).shares_storage(&Locked::new(b))
}

/// Whether a cache of this type is supported.
pub(super) fn is_stored(kind: DType) -> bool {
    matches!(kind, DType::F32 | DType::F16)
}
