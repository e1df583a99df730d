//! Tensors as rows of f32, and work on rows that is shared among threads if it takes long enough.

use std::{ops::Range, sync::RwLockReadGuard};

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor};

use crate::team;

/// A tensor's storage, locked for reading.
pub(crate) struct Locked<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    layout: &'a Layout,
}

impl<'a> Locked<'a> {
    pub(crate) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// Whether two tensors are views of one storage.
    pub(crate) fn shares_storage(&self, other: &Self) -> bool {
        std::ptr::eq(&*self.storage, &*other.storage)
    }

    pub(crate) fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// The storage's memory, if it is f32 on the CPU.
    pub(crate) fn data(&self) -> Option<&[f32]> {
        if let Storage::Cpu(CpuStorage::F32(data)) = &*self.storage { Some(data) } else { None }
    }

    /// The memory of a contiguous tensor.
    pub(crate) fn contiguous(&self) -> Option<&[f32]> {
        let (from, to) = self.layout.contiguous_offsets()?;
        self.data()?.get(from..to)
    }

    /// The tensor as rows along its last dimension, if these lie at equal distances.
    pub(crate) fn rows(&self) -> Option<Rows<'_>> {
        let (dims, strides) = (self.layout.dims(), self.layout.stride());
        let (&width, outer) = dims.split_last()?;
        let (&last, outer_strides) = strides.split_last()?;
        let count: usize = outer.iter().product();
        if count * width == 0 || (last != 1 && width > 1) {
            return None;
        }
        // From the innermost dimension outward, each stride must be the distance between rows times the rows within.
        let (mut stride, mut inner) = (0, 1);
        for (&dim, &step) in outer.iter().zip(outer_strides).rev().filter(|(dim, _)| **dim > 1) {
            if inner == 1 {
                stride = step;
            } else if step != stride * inner {
                return None;
            }
            inner *= dim;
        }
        let data = self.data()?.get(self.layout.start_offset()..)?;
        ((count - 1) * stride + width <= data.len()).then_some(Rows { data, count, width, stride })
    }
}

/// Rows of `width` values at equal distances.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    data: &'a [f32],
    pub count: usize,
    pub width: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.width]
    }
}

/// A tensor that is computed row by row.
pub(crate) struct Output {
    values: Vec<f32>,
    rows: usize,
    width: usize,
}

impl Output {
    pub(crate) fn new(rows: usize, width: usize) -> Self {
        Self { values: Vec::with_capacity(rows * width), rows, width }
    }

    /// Computes the rows in ranges, each by one thread.
    ///
    /// `work` gets the range and the address of its first row, and writes all values of the rows in the range. `cost` is
    /// about the time for one value in nanoseconds. Work of less than [`INLINE`] runs on the calling thread.
    ///
    /// # Safety
    /// `work` writes each value of its rows, and no other.
    pub(crate) unsafe fn fill(&mut self, cost: f64, work: impl Fn(Range<usize>, *mut f32) + Sync) {
        let to = Address(self.values.as_mut_ptr());
        let (rows, width) = (self.rows, self.width);
        spread(rows, cost * width as f64, &|range: Range<usize>| {
            let first = to.at(range.start * width);
            work(range, first);
        });
        // SAFETY: `spread` covers all rows, and the caller promises that each was written.
        unsafe { self.values.set_len(rows * width) };
    }

    pub(crate) fn tensor(self, dims: &[usize]) -> Result<Tensor> {
        Tensor::from_vec(self.values, dims, &Device::Cpu)
    }
}

/// Memory that several threads write, each its own part.
#[derive(Debug)]
pub(crate) struct Address<T>(*mut T);

impl<T> Clone for Address<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Address<T> {}

// SAFETY: code that writes through an address must make threads write disjoint parts; see `at`.
unsafe impl<T: Send> Send for Address<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Address<T> {}

impl<T> Address<T> {
    pub(crate) fn new(data: *mut T) -> Self {
        Self(data)
    }

    /// The address of value `index`. A thread must not write a value that another thread reads or writes at the same time.
    pub(crate) fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

/// Work of less than this, in nanoseconds, is not shared, because waking a thread takes as long.
pub(crate) const INLINE: f64 = 30_000.0;

/// Calls `work` with ranges that cover `0..count`, on the team's threads if the work takes [`INLINE`] or longer. `cost`:
/// nanoseconds for each index.
pub(crate) fn spread(count: usize, cost: f64, work: &(dyn Fn(Range<usize>) + Sync)) {
    let chunks = chunks(count, cost);
    if chunks <= 1 {
        work(0..count);
        return;
    }
    team::run(chunks, &|chunk| work(chunk * count / chunks..(chunk + 1) * count / chunks));
}

/// The number of chunks into which work is cut: each takes at least a quarter of [`INLINE`], at most eight for each thread.
pub(crate) fn chunks(count: usize, cost: f64) -> usize {
    let total = count as f64 * cost;
    if total < INLINE || team::size() == 1 {
        return 1;
    }
    let most = (total / (INLINE / 4.0)) as usize;
    most.min(8 * team::size()).min(count).max(1)
}
