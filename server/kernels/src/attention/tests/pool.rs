//! A paged cache for tests, and sequences whose tokens are computed in steps.

use candle_core::{DType, Device, Tensor};

use super::{
    super::{BLOCK, Cache, Scores, paged, step::Machine},
    reference::{Numbers, assert_near, attend, values},
};

/// Sizes of a model's attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model {
    pub heads: usize,
    pub kv_heads: usize,
    pub size: usize,
    pub scores: Scores,
    pub kind: DType,
}

pub(super) const SMALL: Model = Model {
    heads: 3,
    kv_heads: 1,
    size: 32,
    scores: Scores { scale: 0.2, softcap: None, window: None },
    kind: DType::F32,
};

/// A sequence's queries, keys and values, by token, and its blocks.
pub(super) struct Sequence {
    pub len: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    pub blocks: Vec<u32>,
}

impl Sequence {
    fn new(model: Model, len: usize, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut some = |heads: usize| (0..len * heads * model.size).map(|_| numbers.next()).collect::<Vec<_>>();
        let (q, k, v) = (some(model.heads), some(model.kv_heads), some(model.kv_heads));
        Self { len, q, k, v, blocks: Vec::new() }
    }
}

/// A pool of blocks and the sequences in it.
pub(super) struct Pool {
    pub model: Model,
    pub keys: Tensor,
    pub values: Tensor,
    pub sequences: Vec<Sequence>,
    /// Blocks that no sequence has.
    free: Vec<u32>,
}

/// A sequence's tokens `from..to`, computed in a step.
pub(super) type Piece = (usize, std::ops::Range<usize>);

impl Pool {
    /// Makes a pool that is filled with NaN, and sequences of these lengths whose blocks are scattered in it.
    pub(super) fn new(model: Model, lens: &[usize]) -> Self {
        let sequences = lens.iter().enumerate().map(|(i, len)| Sequence::new(model, *len, i as u64 + 1)).collect();
        Self::with(model, sequences)
    }

    fn with(model: Model, mut sequences: Vec<Sequence>) -> Self {
        let count: usize = sequences.iter().map(|sequence| sequence.len.div_ceil(BLOCK)).sum::<usize>() + 3;
        let mut free: Vec<u32> = (0..count as u32).collect();
        let mut numbers = Numbers::new(count as u64);
        for sequence in &mut sequences {
            for _ in 0..sequence.len.div_ceil(BLOCK) {
                sequence.blocks.push(free.swap_remove(numbers.below(free.len())));
            }
        }
        let (heads, d) = (model.kv_heads, model.size);
        let empty = |dims: &[usize]| Tensor::full(f32::NAN, dims, &Device::Cpu).unwrap().to_dtype(model.kind).unwrap();
        let keys = empty(&[count, heads, d / 8, BLOCK, 8]);
        let values = empty(&[count, heads, d, BLOCK]);
        Self { model, keys, values, sequences, free }
    }

    /// A block that no sequence has.
    pub(super) fn free(&mut self) -> u32 {
        self.free.pop().unwrap()
    }

    /// A tensor (rows, heads, 1, size) of the pieces' tokens.
    fn rows(&self, pieces: &[Piece], heads: usize, data: impl Fn(&Sequence) -> &[f32]) -> Tensor {
        let token = heads * self.model.size;
        let of = |(sequence, range): &Piece| &data(&self.sequences[*sequence])[range.start * token..range.end * token];
        let all: Vec<f32> = pieces.iter().flat_map(of).copied().collect();
        let shape = (all.len() / token, 1, heads, self.model.size);
        Tensor::from_vec(all, shape, &Device::Cpu).unwrap().transpose(1, 2).unwrap()
    }

    /// Computes the pieces in one step, a run each. Returns the results (rows, heads, 1, size).
    pub(super) fn step(&self, pieces: &[Piece], machine: Machine) -> Tensor {
        self.attend(pieces, machine, true)
    }

    /// As [`Pool::step`], for a layer whose keys and values are in the cache already.
    pub(super) fn step_shared(&self, pieces: &[Piece], machine: Machine) -> Tensor {
        self.attend(pieces, machine, false)
    }

    fn attend(&self, pieces: &[Piece], machine: Machine, write: bool) -> Tensor {
        let (mut tables, mut slots) = (Vec::new(), Vec::new());
        let width = pieces.iter().map(|(sequence, _)| self.sequences[*sequence].blocks.len()).max().unwrap() + 1;
        for (sequence, range) in pieces {
            let blocks = &self.sequences[*sequence].blocks;
            let used = range.end.div_ceil(BLOCK);
            tables.extend((0..width).map(|b| if b < used { blocks[b] } else { u32::MAX }));
            slots.extend(range.clone().map(|t| (blocks[t / BLOCK] as usize * BLOCK + t % BLOCK) as i64));
        }
        let lens: Vec<u32> = pieces.iter().map(|(_, range)| range.end as u32).collect();
        let counts: Vec<usize> = pieces.iter().map(|(_, range)| range.len()).collect();
        let tables = Tensor::from_vec(tables, (pieces.len(), width), &Device::Cpu).unwrap();
        let lens = Tensor::from_vec(lens, pieces.len(), &Device::Cpu).unwrap();
        let slots = Tensor::new(slots, &Device::Cpu).unwrap();
        let (keys, values) = (&self.keys, &self.values);
        let cache = Cache { keys, values, tables: &tables, lens: &lens, counts: &counts, slots: &slots };
        let Model { heads, kv_heads, .. } = self.model;
        let q = self.rows(pieces, heads, |sequence| &sequence.q);
        let (k, v) = (self.rows(pieces, kv_heads, |s| &s.k), self.rows(pieces, kv_heads, |s| &s.v));
        let out = paged::attend(&q, write.then_some((&k, &v)), &cache, &self.model.scores, machine).unwrap();
        assert!(out.is_contiguous());
        assert_eq!(out.dims(), q.dims());
        out
    }

    /// Computes a sequence in pieces that end at `ends`. Returns the bits of the results of all tokens.
    pub(super) fn in_pieces(&self, sequence: usize, ends: &[usize], machine: Machine) -> Vec<u32> {
        let mut from = 0;
        let mut bits = Vec::new();
        for end in ends.iter().copied().chain([self.sequences[sequence].len]) {
            if end > from {
                bits.extend(super::reference::bits(&self.step(&[(sequence, from..end)], machine)));
                from = end;
            }
        }
        bits
    }

    /// Compares a step's result with the reference.
    pub(super) fn check(&self, pieces: &[Piece], found: &Tensor) {
        let found = values(found);
        let mut rows = found.chunks(self.model.heads * self.model.size);
        for (sequence, range) in pieces {
            for position in range.clone() {
                self.check_row(&self.sequences[*sequence], position, rows.next().unwrap());
            }
        }
        assert!(rows.next().is_none());
    }

    fn check_row(&self, sequence: &Sequence, position: usize, found: &[f32]) {
        let Model { heads, kv_heads, size, scores, kind } = self.model;
        let from = scores.window.map_or(0, |window| (position + 1).saturating_sub(window));
        for (h, found) in found.chunks(size).enumerate() {
            let head = h / (heads / kv_heads);
            let of = |data: &[f32]| -> Vec<Vec<f32>> {
                let token = |t: usize| &data[(t * kv_heads + head) * size..][..size];
                (from..=position).map(|t| token(t).iter().map(|x| stored(*x, kind)).collect()).collect()
            };
            let (keys, values) = (of(&sequence.k), of(&sequence.v));
            let [keys, values] = [&keys, &values].map(|x| x.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let query = &sequence.q[(position * heads + h) * size..][..size];
            let expected = attend(query, &keys, &values, &vec![0.0; keys.len()], &scores);
            assert_near(found, &expected, 3e-6, &format!("position {position}, head {h}"));
        }
    }
}

/// A value rounded to the type of the cache.
fn stored(x: f32, kind: DType) -> f32 {
    if kind == DType::F16 { half::f16::from_f32(x).to_f32() } else { x }
}
