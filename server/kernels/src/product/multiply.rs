//! Products of packed weights with quantised rows: cuts the work into chunks for threads.

use super::{
    dispatch,
    executor::Executor,
    format::with_kind,
    kernel::Call,
    panels::{Panel, Panels},
    tiles::{BLOCK, Packed, ROWS},
};
use crate::isa::Isa;

/// A product's weight, and the address of its rows of `n` outputs.
pub(crate) struct Job<'a> {
    pub weight: &'a Packed,
    pub out: *mut f32,
}

/// A thread's share of less than this, in nanoseconds, is not cut further. An additional chunk costs more than half a
/// microsecond, because its thread waits for the claim and then for the first weights.
const SMALL: usize = 8_000;
/// Bytes of panels that stay in a core's cache while tiles are read.
const CACHE: usize = 384 << 10;

/// The entries of one job in the list of all work: each tile of each group of panels.
struct Stretch {
    /// The first entry.
    first: usize,
    tiles: usize,
    /// Estimated nanoseconds of an entry.
    cost: usize,
}

/// The division of several jobs into chunks.
struct Plan {
    stretches: Vec<Stretch>,
    /// Panels of a group.
    panels: usize,
    /// For each chunk the entry after its last.
    ends: Vec<usize>,
}

impl Plan {
    fn new(jobs: &[Job], panels: &Panels, threads: usize) -> Self {
        let group = (CACHE / panels.panel_bytes().max(1)).clamp(1, panels.count().max(1));
        let groups = panels.count().div_ceil(group);
        let rows = panels.rows().div_ceil(groups.max(1));
        let (mut stretches, mut entries, mut left) = (Vec::with_capacity(jobs.len()), 0, 0);
        for job in jobs {
            let tiles = job.weight.tiles();
            // With few rows the time depends on the weights' bytes, with many on the arithmetic.
            let cost = (job.weight.tile_bytes() / 32).max(panels.blocks() * rows * 3).max(1);
            stretches.push(Stretch { first: entries, tiles, cost });
            entries += tiles * groups;
            left += tiles * groups * cost;
        }
        // The first chunks are large and the last are small, so that the threads end at the same time.
        let (mut ends, mut end) = (Vec::with_capacity(16), 0);
        while end < entries {
            let share = left.div_ceil(threads);
            let target = if share < SMALL { share } else { share / 2 };
            for _ in 0..threads {
                let mut size = 0;
                while end < entries && size < target {
                    let cost = stretches.iter().rfind(|stretch| stretch.first <= end).map_or(1, |stretch| stretch.cost);
                    (size, end) = (size + cost, end + 1);
                }
                if size > 0 {
                    ends.push(end);
                }
                left -= size;
            }
        }
        Self { stretches, panels: group, ends }
    }
}

/// Computes all jobs with the same rows. Each job's `out` gets the rows' outputs one after the other, `n` for each row.
///
/// An output is one sum in the order of its columns, so it does not depend on the other rows, on threads or on the cut.
///
/// # Safety
/// Each `out` can be written for rows times `n` outputs, and no two overlap. The executor calls each chunk once.
///
/// # Panics
/// If a weight has other columns than the rows.
pub(crate) unsafe fn multiply(jobs: &[Job], panels: &Panels, executor: Executor) {
    assert!(jobs.iter().all(|job| job.weight.k == panels.blocks() * BLOCK), "as many columns as the rows have");
    let plan = Plan::new(jobs, panels, executor.threads);
    let shared = Shared(jobs);
    (executor.run)(plan.ends.len(), &|chunk| {
        let shared = &shared;
        let (mut entry, end) = (chunk.checked_sub(1).map_or(0, |before| plan.ends[before]), plan.ends[chunk]);
        while entry < end {
            let stretch = plan.stretches.iter().zip(shared.0).rfind(|(stretch, _)| stretch.first <= entry);
            let Some((stretch, job)) = stretch else { return };
            let (group, tile) = ((entry - stretch.first) / stretch.tiles, (entry - stretch.first) % stretch.tiles);
            let group = group * plan.panels..panels.count().min((group + 1) * plan.panels);
            // With several panels, a tile stays in the first-level cache while it is multiplied with each of them.
            let count = if group.len() == 1 { (end - entry).min(stretch.tiles - tile) } else { 1 };
            for panel in group {
                // SAFETY: the caller promises the outputs and the instructions; chunks have different tiles or panels.
                unsafe { compute(job, tile, count, panels.panel(panel), executor.isa) };
            }
            entry += count;
        }
    });
}

/// # Safety
/// As [`multiply`], for the outputs of these tiles and this panel.
unsafe fn compute(job: &Job, first: usize, tiles: usize, panel: Panel, isa: Isa) {
    let weight = job.weight;
    let blocks = weight.k / BLOCK;
    let bytes = &weight.bytes()[first * weight.tile_bytes()..][..tiles * weight.tile_bytes()];
    let call = Call {
        weights: bytes.as_ptr(),
        tiles,
        tile_bytes: weight.tile_bytes(),
        blocks,
        panel: panel.words.as_ptr(),
        words: panel.words.len() / blocks,
        // SAFETY: the row and the column exist, by the caller's promise and as `first` is a tile of the weight.
        out: unsafe { job.out.add(panel.first * weight.n + first * ROWS) },
        stride: weight.n,
        columns: (weight.n - first * ROWS).min(tiles * ROWS),
    };
    let kernel = with_kind!(weight.format, K => dispatch::kernel::<K>(isa, panel.rows));
    // SAFETY: the slices cover the memory of the call, the kernel is that of the weight's format and the panel's rows, and the
    // caller promises the outputs and the instructions.
    unsafe { kernel(&call) };
}

/// Jobs that several threads compute.
struct Shared<'a>(&'a [Job<'a>]);
// SAFETY: the threads write different outputs.
unsafe impl Sync for Shared<'_> {}
