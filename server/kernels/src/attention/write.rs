//! Writes keys and values to the paged cache, copies blocks within it, and reads and writes blocks as bytes.

use candle_core::{DType, Result, Tensor, bail};
use half::f16;

use super::{
    grouping::BLOCK,
    head_size::MAX_HEAD_SIZE,
    runs::{Run, Sizes},
    tensors::{Heads, Stored, with_pools},
};
use crate::elementwise::rows::{Address, spread};

/// Nanoseconds to write a value.
const COST: f64 = 0.5;

/// Writes the new tokens' keys and values into the pool. The threads share the work by heads.
///
/// # Panics
/// If a slot lies outside the pool.
pub(super) fn write_tokens<T: Stored>(
    runs: &[Run],
    sizes: Sizes,
    (k, v): (Heads, Heads),
    (keys, values): (&mut [T], &mut [T]),
) {
    let count = keys.len().min(values.len());
    let (keys, values) = (Address::new(keys.as_mut_ptr()), Address::new(values.as_mut_ptr()));
    spread(sizes.kv_heads, COST * (2 * sizes.rows * sizes.size) as f64, &|heads| {
        for head in heads {
            for run in runs {
                for (row, slot) in (run.row..).zip(&run.slots) {
                    let at = sizes.at(slot / BLOCK, head);
                    assert!(at + sizes.block() <= count, "the slot lies within the pool");
                    // SAFETY: the block lies within both pools, and no other thread accesses this head's blocks.
                    let (key_block, value_block) = unsafe {
                        let block = sizes.block();
                        let keys = std::slice::from_raw_parts_mut(keys.at(at), block);
                        (keys, std::slice::from_raw_parts_mut(values.at(at), block))
                    };
                    put(slot % BLOCK, (k.row(row, head, 0), v.row(row, head, 0)), (key_block, value_block));
                }
            }
        }
    });
}

/// Writes one token's key and value into a block.
fn put<T: Stored>(offset: usize, (key, value): (&[f32], &[f32]), (keys, values): (&mut [T], &mut [T])) {
    let size = key.len();
    T::narrow(value, &mut values[offset * size..][..size]);
    let mut narrowed = [T::ZERO; MAX_HEAD_SIZE];
    T::narrow(key, &mut narrowed[..size]);
    for (to, from) in keys[offset..].iter_mut().step_by(BLOCK).zip(&narrowed[..size]) {
        *to = *from;
    }
}

/// See [`super::request_huge_pages`].
pub(super) fn request_huge_pages(keys: &Tensor, values: &Tensor) -> Result<()> {
    match keys.dtype() {
        DType::F32 => with_pools::<f32>(keys, values, |keys, values| {
            advise(keys);
            advise(values);
            Ok(())
        }),
        DType::F16 => with_pools::<f16>(keys, values, |keys, values| {
            advise(keys);
            advise(values);
            Ok(())
        }),
        other => bail!("attention: a cache of {other:?} is not supported"),
    }
}

/// Asks for huge pages for all whole pages of `memory`.
fn advise<T>(memory: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: sysconf reads a constant of the system.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let range = memory.as_mut_ptr_range();
        let (from, to) = (range.start.addr().next_multiple_of(page), range.end.addr() / page * page);
        if from < to {
            let first = range.start.cast::<libc::c_void>().with_addr(from);
            // SAFETY: the pages lie within `memory`, and the advice does not change their contents. If the system refuses it,
            // small pages remain.
            unsafe { libc::madvise(first, to - from, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// See [`super::copy_block`].
pub(super) fn copy_block(
    keys: &Tensor,
    values: &Tensor,
    kv_heads: usize,
    (from, to): (usize, usize),
    tokens: usize,
) -> Result<()> {
    match keys.dtype() {
        DType::F32 => copy::<f32>(keys, values, kv_heads, (from, to), tokens),
        DType::F16 => copy::<f16>(keys, values, kv_heads, (from, to), tokens),
        other => bail!("attention: a cache of {other:?} is not supported"),
    }
}

fn copy<T: Stored>(
    keys: &Tensor,
    values: &Tensor,
    kv_heads: usize,
    (from, to): (usize, usize),
    tokens: usize,
) -> Result<()> {
    let blocks = keys.dims().first().copied().unwrap_or(0);
    let per_head = blocks * kv_heads * BLOCK;
    let count = keys.elem_count();
    if per_head == 0 || !count.is_multiple_of(per_head) || values.elem_count() != count {
        bail!("attention: keys {:?} and values {:?} do not have {kv_heads} heads", keys.dims(), values.dims());
    }
    if from >= blocks || to >= blocks || tokens > BLOCK {
        bail!("attention: cannot copy {tokens} tokens of block {from} to block {to} of {blocks}");
    }
    let size = count / per_head;
    with_pools::<T>(keys, values, |keys, values| {
        for head in 0..kv_heads {
            let [source, target] = [from, to].map(|block| (block * kv_heads + head) * BLOCK * size);
            for i in 0..size {
                let at = source + i * BLOCK;
                keys.copy_within(at..at + tokens, target + i * BLOCK);
            }
            values.copy_within(source..source + tokens * size, target);
        }
        Ok(())
    })
}

/// See [`super::read_block`].
pub(super) fn read_block(keys: &Tensor, values: &Tensor, block: usize, bytes: &mut Vec<u8>) -> Result<()> {
    match keys.dtype() {
        DType::F32 => with_block::<f32>(keys, values, block, |keys, values| {
            bytes.extend_from_slice(keys);
            bytes.extend_from_slice(values);
            Ok(())
        }),
        DType::F16 => with_block::<f16>(keys, values, block, |keys, values| {
            bytes.extend_from_slice(keys);
            bytes.extend_from_slice(values);
            Ok(())
        }),
        other => bail!("attention: a cache of {other:?} is not supported"),
    }
}

/// See [`super::write_block`].
pub(super) fn write_block(keys: &Tensor, values: &Tensor, block: usize, bytes: &[u8]) -> Result<()> {
    let copy = |keys: &mut [u8], values: &mut [u8]| {
        if bytes.len() != keys.len() + values.len() {
            bail!("attention: a block has {} bytes, not {}", keys.len() + values.len(), bytes.len());
        }
        let (from_keys, from_values) = bytes.split_at(keys.len());
        keys.copy_from_slice(from_keys);
        values.copy_from_slice(from_values);
        Ok(())
    };
    match keys.dtype() {
        DType::F32 => with_block::<f32>(keys, values, block, copy),
        DType::F16 => with_block::<f16>(keys, values, block, copy),
        other => bail!("attention: a cache of {other:?} is not supported"),
    }
}

/// Calls `work` with the bytes of one block's keys and values.
fn with_block<T: Stored>(
    keys: &Tensor,
    values: &Tensor,
    block: usize,
    mut work: impl FnMut(&mut [u8], &mut [u8]) -> Result<()>,
) -> Result<()> {
    let blocks = keys.dims().first().copied().unwrap_or(0);
    if block >= blocks || values.elem_count() != keys.elem_count() {
        bail!("attention: there is no block {block} in keys {:?} and values {:?}", keys.dims(), values.dims());
    }
    let size = keys.elem_count() / blocks;
    with_pools::<T>(keys, values, |keys, values| {
        work(as_bytes(&mut keys[block * size..][..size]), as_bytes(&mut values[block * size..][..size]))
    })
}

fn as_bytes<T: Stored>(numbers: &mut [T]) -> &mut [u8] {
    let bytes = std::mem::size_of_val(numbers);
    // SAFETY: f32 and f16, the only types that are `Stored`, have no padding and accept any bytes; bytes need no alignment.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), bytes) }
}
