//! Keys and values of sequences that have ended, kept outside the engine.
//!
//! The engine's prefix cache keeps the whole allocation of every sequence for ever, evicts nothing on CPU, and cannot be told
//! to. But it shares the tensors with us, so their storage can be taken out of an entry, and put back before the engine is
//! given a prompt that it will find there. What is kept in between are [`Block`]s: the tokens' own keys and values, shared
//! between sequences that begin alike, and dropped as we like.

use std::{
    mem,
    sync::{Arc, Mutex},
};

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor, bail};
use mistralrs_core::Pipeline;

use super::threads::lock;

/// Tokens of a block; the last of a sequence may have fewer.
pub const BLOCK: usize = 32;

/// Keys and values of some tokens in a row: for each of a [`Home`]'s tensors, of shape (heads, tokens, width).
pub struct Block(Vec<CpuStorage>);

#[cfg(test)]
impl Block {
    pub fn nothing() -> Self {
        Self(Vec::new())
    }
}

/// Where the engine has the keys and values of one sequence: a tensor of shape (1, heads, capacity, width) for the keys and
/// one for the values of each layer, seen as (1, heads, tokens, width). Its storage is empty while the engine does not need it.
pub struct Home(Vec<Tensor>);

impl Home {
    /// That of the sequence that has just ended. None where the model keeps its state in another shape, such as a window.
    pub fn of(pipeline: &(dyn Pipeline + Send + Sync)) -> Option<Self> {
        if pipeline.get_metadata().is_xlora || pipeline.cache().is_hybrid() {
            return None;
        }
        let mut tensors = Vec::new();
        for layer in &pipeline.cache().normal().0 {
            if layer.is_shared() {
                continue;
            }
            if layer.is_rotating() {
                return None;
            }
            tensors.extend([layer.k().ok()??, layer.v().ok()??]);
        }
        let tokens = tensors.first()?.dim(2).ok()?;
        tensors.iter().all(|tensor| is_plain(tensor, tokens)).then_some(Self(tensors))
    }

    /// Tokens it has keys and values of.
    pub fn tokens(&self) -> usize {
        self.0.first().and_then(|tensor| tensor.dim(2).ok()).unwrap_or(0)
    }

    /// A copy of those of the first token.
    pub fn first(&self) -> Result<Block> {
        let copy = |tensor: &Tensor| {
            let storage = exchange(tensor, empty(tensor.dtype())?)?;
            let copy = copy_out(&storage, tensor.layout(), 0, 1);
            exchange(tensor, storage)?;
            copy
        };
        self.0.iter().map(copy).collect::<Result<_>>().map(Block)
    }

    /// Takes keys and values out, in blocks. The first of them are `shared`, which another sequence has already. Copies what
    /// is not.
    pub fn take(&self, shared: Vec<Arc<Block>>) -> Result<Vec<Arc<Block>>> {
        let tokens = self.tokens();
        let starts: Vec<usize> = (shared.len() * BLOCK..tokens).step_by(BLOCK).collect();
        let mut blocks: Vec<Block> = starts.iter().map(|_| Block(Vec::with_capacity(self.0.len()))).collect();
        for tensor in &self.0 {
            let storage = exchange(tensor, empty(tensor.dtype())?)?;
            for (start, block) in starts.iter().zip(&mut blocks) {
                block.0.push(copy_out(&storage, tensor.layout(), *start, tokens.min(start + BLOCK))?);
            }
        }
        Ok(shared.into_iter().chain(blocks.into_iter().map(Arc::new)).collect())
    }

    /// Puts keys and values back, so that the engine finds those of all tokens that `blocks` have.
    pub fn put(&self, blocks: &[Arc<Block>]) -> Result<()> {
        for (index, tensor) in self.0.iter().enumerate() {
            let mut storage = empty(tensor.dtype())?;
            let parts: Vec<&CpuStorage> = blocks.iter().filter_map(|block| block.0.get(index)).collect();
            copy_in(&mut storage, tensor.layout(), &parts)?;
            exchange(tensor, storage)?;
        }
        Ok(())
    }

    /// Of no tokens.
    #[cfg(test)]
    pub fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Empties it; [`Self::take`] has, or the engine needs it no more.
    pub fn clear(&self) -> Result<()> {
        for tensor in &self.0 {
            exchange(tensor, empty(tensor.dtype())?)?;
        }
        Ok(())
    }
}

/// Whether a tensor is the beginning of a contiguous one of shape (1, heads, capacity, width), of a type known here.
fn is_plain(tensor: &Tensor, tokens: usize) -> bool {
    let layout = tensor.layout();
    matches!(*layout.dims(), [1, _, count, width] if count == tokens && layout.stride()[2..] == [width, 1])
        && layout.start_offset() == 0
        && empty(tensor.dtype()).is_ok()
}

fn empty(dtype: DType) -> Result<CpuStorage> {
    Ok(match dtype {
        DType::F32 => CpuStorage::F32(Vec::new()),
        DType::F16 => CpuStorage::F16(Vec::new()),
        DType::BF16 => CpuStorage::BF16(Vec::new()),
        other => bail!("keys and values of type {other:?}"),
    })
}

/// Gives a tensor another storage and returns the one it had.
fn exchange(tensor: &Tensor, storage: CpuStorage) -> Result<CpuStorage> {
    struct Exchange(Mutex<CpuStorage>);
    impl InplaceOp1 for Exchange {
        fn name(&self) -> &'static str {
            "exchange"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
            mem::swap(storage, &mut lock(&self.0));
            Ok(())
        }
    }
    let exchange = Exchange(Mutex::new(storage));
    tensor.inplace_op1(&exchange)?;
    Ok(exchange.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// The keys or values of the tokens from `start` to `end`, a copy of shape (heads, end - start, width).
fn copy_out(storage: &CpuStorage, layout: &Layout, start: usize, end: usize) -> Result<CpuStorage> {
    fn of<T: Copy>(all: &[T], layout: &Layout, start: usize, end: usize) -> Result<Vec<T>> {
        let (heads, head, width) = sizes(layout);
        let mut copy = Vec::with_capacity(heads * (end - start) * width);
        for from in (0..heads).map(|index| index * head) {
            match all.get(from + start * width..from + end * width) {
                Some(part) => copy.extend_from_slice(part),
                None => bail!("keys and values have been taken already"),
            }
        }
        Ok(copy)
    }
    Ok(match storage {
        CpuStorage::F32(all) => CpuStorage::F32(of(all, layout, start, end)?),
        CpuStorage::F16(all) => CpuStorage::F16(of(all, layout, start, end)?),
        CpuStorage::BF16(all) => CpuStorage::BF16(of(all, layout, start, end)?),
        _ => bail!("keys and values of an unknown type"),
    })
}

/// Makes `storage` what `layout` says, with the parts in a row at its beginning and zeros after them.
fn copy_in(storage: &mut CpuStorage, layout: &Layout, parts: &[&CpuStorage]) -> Result<()> {
    fn of<T: Copy + Default>(all: &mut Vec<T>, layout: &Layout, parts: &[&[T]]) {
        let (heads, head, width) = sizes(layout);
        *all = vec![T::default(); heads * head];
        let mut start = 0;
        for part in parts {
            let len = (part.len() / heads.max(1)).min(head.saturating_sub(start));
            for (index, rows) in part.chunks_exact(part.len() / heads.max(1)).enumerate() {
                let at = index * head + start;
                all[at..at + len].copy_from_slice(&rows[..len]);
            }
            start += len / width.max(1) * width;
        }
    }
    macro_rules! same_type {
        ($($variant:ident),*) => {
            match storage {
                $(CpuStorage::$variant(all) => {
                    let parts: Vec<&[_]> = parts
                        .iter()
                        .filter_map(|part| if let CpuStorage::$variant(part) = part { Some(part.as_slice()) } else { None })
                        .collect();
                    of(all, layout, &parts);
                })*
                _ => bail!("keys and values of an unknown type"),
            }
        };
    }
    same_type!(F32, F16, BF16);
    Ok(())
}

/// Heads; elements of one head, whatever its capacity; elements of one token in it.
fn sizes(layout: &Layout) -> (usize, usize, usize) {
    (layout.dims()[1], layout.stride()[1], layout.dims()[3])
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    const CAPACITY: usize = 128;

    /// Two tensors of two heads and three numbers a token.
    fn home(tokens: usize, from: f32) -> Home {
        let tensor = |offset: f32| {
            let numbers: Vec<f32> = (0..2 * CAPACITY * 3).map(|n| from + offset + n as f32).collect();
            let all = Tensor::from_vec(numbers, (1, 2, CAPACITY, 3), &Device::Cpu).unwrap();
            all.narrow(2, 0, tokens).unwrap()
        };
        Home(vec![tensor(0.0), tensor(0.5)])
    }

    fn numbers(home: &Home, tokens: usize) -> Vec<Vec<f32>> {
        let of = |tensor: &Tensor| tensor.narrow(2, 0, tokens).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        home.0.iter().map(of).collect()
    }

    #[test]
    fn what_was_taken_is_put_back() {
        let home = home(70, 0.0);
        let before = numbers(&home, 70);
        let first = home.first().unwrap();
        assert_eq!(numbers(&home, 70), before, "it was copied");
        let blocks = home.take(Vec::new()).unwrap();
        assert_eq!(blocks.len(), 3);
        assert!(home.take(Vec::new()).is_err(), "it is empty");
        home.put(&blocks).unwrap();
        assert_eq!(numbers(&home, 70), before);
        home.clear().unwrap();
        home.put(&blocks[..1]).unwrap();
        assert_eq!(numbers(&home, BLOCK), numbers(&self::home(70, 0.0), BLOCK));
        home.put(&[Arc::new(first)]).unwrap();
        assert_eq!(numbers(&home, 1), numbers(&self::home(70, 0.0), 1));
    }

    #[test]
    fn what_is_shared_is_not_copied() {
        let first = home(64, 0.0);
        let blocks = first.take(Vec::new()).unwrap();
        let second = home(80, 0.0);
        let longer = second.take(blocks.clone()).unwrap();
        assert_eq!(longer.len(), 3);
        assert!(blocks.iter().zip(&longer).all(|(a, b)| Arc::ptr_eq(a, b)));
        first.put(&longer).unwrap();
        assert_eq!(numbers(&first, 64), numbers(&self::home(64, 0.0), 64));
    }

    #[test]
    fn only_what_it_understands_is_kept() {
        let numbers = Tensor::zeros((1, 2, 8, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(is_plain(&numbers, 8));
        assert!(!is_plain(&numbers, 7));
        assert!(!is_plain(&numbers.transpose(2, 3).unwrap(), 3));
        assert!(!is_plain(&numbers.narrow(2, 2, 4).unwrap(), 4));
        assert!(!is_plain(&numbers.to_dtype(DType::F64).unwrap(), 8));
    }
}
