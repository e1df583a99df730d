//! The attention of one step: cut into tasks for the team's threads.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    grouping::{BLOCK, GROUP_BLOCKS, PART},
    panel::{Compute, Extent, Panel, Scaling, Source, blocks_of, cost},
    parts::{Join, record},
    row::{Row, parts},
    runs::{Run, Sizes},
    scores::Scores,
    tensors::{Heads, Stored},
    tile::{Group, Span},
};
use crate::{
    elementwise::{
        lanes::run_on,
        rows::{Address, INLINE},
    },
    isa::{self, Isa},
    team,
};

/// The most rows of a panel: with their sums and weights and a group's keys they fit the innermost caches.
const PANEL_ROWS: usize = 48;

/// The fewest tasks for each thread, if a step is worth several threads and can be cut into so many.
const TASKS: f64 = 4.0;

/// The instruction set and threads for a step. The results' bits do not depend on them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    pub isa: Isa,
    /// The number of threads for which a step is cut into tasks.
    pub threads: usize,
    /// A step of less than this, in nanoseconds, runs on the calling thread alone.
    pub inline: f64,
}

impl Machine {
    /// This process's instruction set and its team.
    pub(super) fn current() -> Self {
        Self { isa: isa::current(), threads: team::size(), inline: INLINE }
    }
}

/// The attention of one step, after its keys and values were written.
pub(super) struct Step<'a, T> {
    pub machine: Machine,
    pub sizes: Sizes,
    pub scores: Scores,
    pub queries: Heads<'a>,
    pub keys: &'a [T],
    pub values: &'a [T],
    /// The address for the results: rows x heads x size.
    pub result: Address<f32>,
}

/// Some tokens of a run, for the heads that share a key head.
struct Piece<'a> {
    run: &'a Run,
    head: usize,
    tokens: Range<usize>,
    /// The parts of the sequence that the tokens attend to.
    parts: Range<usize>,
    /// Estimated nanoseconds.
    cost: f64,
    /// The index of the first record of its parts, if the parts are tasks of their own.
    records: usize,
    /// The number of these parts that are not computed yet.
    left: AtomicUsize,
}

/// A piece, or one part of it.
struct Task {
    piece: usize,
    part: Option<usize>,
    cost: f64,
}

impl<T: Stored> Step<'_, T> {
    /// Computes the attention of all rows.
    pub(super) fn run(&self, runs: &[Run]) {
        let mut pieces = self.pieces(runs);
        let total: f64 = pieces.iter().map(|piece| piece.cost).sum();
        if total < self.machine.inline || self.machine.threads == 1 {
            for piece in &pieces {
                self.whole(piece);
            }
            return;
        }
        let most = total / (TASKS * self.machine.threads as f64);
        let mut records = 0;
        let mut tasks = Vec::with_capacity(pieces.len());
        for (index, piece) in pieces.iter_mut().enumerate() {
            let count = piece.parts.len();
            if count > 1 && piece.cost > most {
                (piece.records, piece.left) = (records, AtomicUsize::new(count));
                records += count * piece.tokens.len() * self.sizes.group() * record(self.sizes.size);
                let cost = piece.cost / count as f64;
                tasks.extend(piece.parts.clone().map(|part| Task { piece: index, part: Some(part), cost }));
            } else {
                tasks.push(Task { piece: index, part: None, cost: piece.cost });
            }
        }
        // Long tasks come first, so that the threads end together.
        tasks.sort_by(|a, b| b.cost.total_cmp(&a.cost));
        let mut records: Vec<f32> = Vec::with_capacity(records);
        let records = Address::new(records.as_mut_ptr());
        team::run(tasks.len(), &|task| {
            let Task { piece, part, .. } = tasks[task];
            match part {
                Some(part) => self.part(&pieces[piece], part, records),
                None => self.whole(&pieces[piece]),
            }
        });
    }

    fn pieces<'a>(&self, runs: &'a [Run]) -> Vec<Piece<'a>> {
        let tokens = (PANEL_ROWS / self.sizes.group()).max(1);
        let mut pieces = Vec::new();
        for run in runs {
            for from in (0..run.new).step_by(tokens) {
                let tokens = from..(from + tokens).min(run.new);
                let (first, last) = (self.visible(run, tokens.start), self.visible(run, tokens.end - 1));
                let seen = first.start..last.end;
                let pairs = (first.len() + last.len()) / 2 * tokens.len() * self.sizes.group();
                let cost = cost(self.sizes.size, pairs, seen.len());
                for head in 0..self.sizes.kv_heads {
                    let (tokens, left) = (tokens.clone(), AtomicUsize::new(0));
                    let parts = seen.start / PART..seen.end.div_ceil(PART);
                    pieces.push(Piece { run, head, tokens, parts, cost, records: 0, left });
                }
            }
        }
        pieces
    }

    /// The tokens that a run's token `t` attends to.
    fn visible(&self, run: &Run, t: usize) -> Range<usize> {
        let end = run.len - run.new + t + 1;
        self.scores.window.map_or(0, |window| end.saturating_sub(window.max(1)))..end
    }

    fn rows(&self, piece: &Piece) -> Vec<Row> {
        let (group, size) = (self.sizes.group(), self.sizes.size);
        let mut rows = Vec::with_capacity(piece.tokens.len() * group);
        for t in piece.tokens.clone() {
            let (visible, row) = (self.visible(piece.run, t), piece.run.row + t);
            for head in piece.head * group..(piece.head + 1) * group {
                rows.push(Row {
                    query: self.queries.row(row, head, 0).as_ptr(),
                    result: self.result.at((row * self.sizes.heads + head) * size),
                    from: visible.start,
                    to: visible.end,
                    mask: None,
                });
            }
        }
        rows
    }

    fn panel<'r>(&'r self, piece: &'r Piece<'r>, rows: &'r [Row]) -> Panel<'r, Blocks<'r, T>> {
        let scaling = Scaling::new(self.scores.scale, self.scores.softcap);
        Panel { rows, size: self.sizes.size, scaling, source: Blocks { step: self, run: piece.run, head: piece.head } }
    }

    fn whole(&self, piece: &Piece) {
        let rows = self.rows(piece);
        // SAFETY: the CPU has the machine's instruction set. The rows' queries have `size` values, as have their results,
        // which no other task writes. The run's blocks lie within the pool, and hold all tokens that the rows attend to.
        unsafe { run_on(self.machine.isa, Compute { panel: self.panel(piece, &rows), extent: Extent::Whole }) }
    }

    /// Computes one part of a piece. The thread that computes the last part joins all parts.
    fn part(&self, piece: &Piece, part: usize, records: Address<f32>) {
        let rows = self.rows(piece);
        debug_assert_eq!(parts(&rows), piece.parts);
        let length = rows.len() * record(self.sizes.size);
        let to = records.at(piece.records + (part - piece.parts.start) * length);
        // SAFETY: as in `whole`; each part of each piece has its own records, one for each row.
        unsafe {
            run_on(self.machine.isa, Compute { panel: self.panel(piece, &rows), extent: Extent::Part(part, to) })
        };
        // The counter orders the parts' writes before the reads of the thread that counts last.
        if piece.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let records = records.at(piece.records);
            let join = Join { records, parts: piece.parts.len(), rows: &rows, size: self.sizes.size };
            // SAFETY: the CPU has the machine's instruction set. All parts wrote their records, and no other task writes the
            // rows' results.
            unsafe { run_on(self.machine.isa, join) };
        }
    }
}

/// The cached blocks of one sequence, for one head.
struct Blocks<'a, T> {
    step: &'a Step<'a, T>,
    run: &'a Run,
    head: usize,
}

impl<T: Stored> Source for Blocks<'_, T> {
    type Element = T;

    fn group(&mut self, first: usize, span: Span) -> Group<T> {
        let Step { keys, values, sizes, .. } = self.step;
        let [no_keys, no_values] = [keys, values].map(|pool| [pool.as_ptr(); GROUP_BLOCKS]);
        let mut group = Group { keys: no_keys, values: no_values, stride: sizes.size, next: no_keys };
        for (b, block) in blocks_of(first, span) {
            let at = sizes.at(self.run.blocks[block], self.head);
            let end = at + sizes.block();
            group.keys[b] = keys[at..end].as_ptr();
            group.values[b] = values[at..end].as_ptr();
        }
        let next = self.run.blocks.get(first / BLOCK + GROUP_BLOCKS..).unwrap_or_default();
        for (address, block) in group.next.iter_mut().zip(next) {
            *address = keys.as_ptr().wrapping_add(sizes.at(*block, self.head));
        }
        group
    }
}
