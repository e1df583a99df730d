//! Products of packed weights with quantised rows: how the work is cut, and which kernel computes it.

use super::{
    Executor,
    activations::{Panel, Panels},
    format::{Kind, with_kind},
    tiles::{BLOCK, Packed, ROWS},
};
use crate::isa::Isa;

/// What a kernel computes: some tiles times the rows of one panel.
pub(crate) struct Call {
    /// The first tile.
    pub weights: *const u8,
    pub tiles: usize,
    pub tile_bytes: usize,
    /// Blocks of 32 columns.
    pub blocks: usize,
    /// The panel.
    pub panel: *const i32,
    /// Words of a block of the panel, all rows together.
    pub words: usize,
    /// The output of the panel's first row and the first tile's first row.
    pub out: *mut f32,
    /// Outputs between two rows.
    pub stride: usize,
    /// Outputs of these tiles that exist; the last tile may be cut.
    pub columns: usize,
}

/// Computes a call.
///
/// # Safety
/// The machine has the kernel's instructions. `weights` is followed by `tiles` times `tile_bytes` bytes that were packed for
/// the kernel's [`Kind`], `panel` by `blocks` times `words` words; the call has as many rows as the kernel was asked for with.
/// The outputs can be written, and nobody else reads or writes them meanwhile.
pub(crate) type Kernel = unsafe fn(&Call);

/// A product's weight and where its rows of `n` outputs begin.
pub(crate) struct Job<'a> {
    pub weight: &'a Packed,
    pub out: *mut f32,
}

/// Most rows of a panel: as many as a kernel's registers hold.
pub(crate) fn panel_rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 8,
        Isa::AvxVnni => 6,
        Isa::Avx2 | Isa::Neon | Isa::Portable => 4,
    }
}

fn kernel<K: Kind>(isa: Isa, rows: usize) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => super::avx512::kernel::<K>(rows),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => super::avx2::vnni::kernel::<K>(rows),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::avx2::kernel::<K>(rows),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => super::neon::kernel::<K>(rows),
        _ => super::portable::kernel::<K>(rows),
    }
}

/// Nanoseconds that a chunk should take at least: some times the cost of claiming it.
const LEAST: usize = 1_500;
/// Nanoseconds that a chunk should take at most: what others wait for when its thread is taken away.
const MOST: usize = 30_000;
/// Chunks for each thread.
const CHUNKS: usize = 8;
/// Bytes of panels that stay in a core's cache while tiles pass by.
const CACHE: usize = 384 << 10;

/// How one job is cut.
struct Cut {
    /// Tiles of a chunk.
    tiles: usize,
    /// Chunks along the tiles.
    across: usize,
    /// The job's first chunk.
    first: usize,
}

/// How several jobs are cut.
struct Plan {
    cuts: Vec<Cut>,
    /// Panels of a chunk.
    panels: usize,
    chunks: usize,
}

impl Plan {
    fn new(jobs: &[Job], panels: &Panels, threads: usize) -> Self {
        let group = (CACHE / panels.panel_bytes().max(1)).clamp(1, panels.count().max(1));
        let groups = panels.count().div_ceil(group);
        let rows = panels.rows().div_ceil(groups.max(1));
        // Bound by the weights' bytes for few rows, by arithmetic for many.
        let cost = |weight: &Packed| (weight.tile_bytes() / 32).max(panels.blocks() * rows * 3).max(1);
        let total: usize = jobs.iter().map(|job| job.weight.tiles() * cost(job.weight)).sum::<usize>() * groups;
        let target = (total / (threads * CHUNKS)).min(MOST).max(LEAST);
        let (mut cuts, mut chunks) = (Vec::with_capacity(jobs.len()), 0);
        for job in jobs {
            let tiles = (target / cost(job.weight)).clamp(1, job.weight.tiles().max(1));
            let across = job.weight.tiles().div_ceil(tiles);
            cuts.push(Cut { tiles, across, first: chunks });
            chunks += across * groups;
        }
        Self { cuts, panels: group, chunks }
    }
}

/// Computes all jobs with the same rows. Each job's `out` gets the rows' outputs one after the other, `n` for each row.
///
/// An output is one sum in the order of its columns, so it does not depend on the other rows, on threads or on the cut.
///
/// # Safety
/// Each `out` can be written for rows times `n` outputs, and no two overlap. The machine has the executor's instructions.
///
/// # Panics
/// If a weight has other columns than the rows.
pub(crate) unsafe fn multiply(jobs: &[Job], panels: &Panels, executor: Executor) {
    assert!(jobs.iter().all(|job| job.weight.k == panels.blocks() * BLOCK), "as many columns as the rows have");
    let plan = Plan::new(jobs, panels, executor.threads);
    let shared = Shared(jobs);
    (executor.run)(plan.chunks, &|chunk| {
        let shared = &shared;
        let Some((job, cut)) = shared.0.iter().zip(&plan.cuts).rfind(|(_, cut)| cut.first <= chunk) else { return };
        let (group, across) = ((chunk - cut.first) / cut.across, (chunk - cut.first) % cut.across);
        let tiles = across * cut.tiles..job.weight.tiles().min((across + 1) * cut.tiles);
        let group = group * plan.panels..panels.count().min((group + 1) * plan.panels);
        // With several panels a tile stays in the first-level cache while they pass.
        let step = if group.len() == 1 { tiles.len() } else { 1 };
        for first in tiles.clone().step_by(step.max(1)) {
            let count = step.min(tiles.end - first);
            for panel in group.clone() {
                // SAFETY: the caller vouches for the outputs and the instructions; chunks have different tiles or panels.
                unsafe { compute(job, first, count, panels.panel(panel), executor.isa) };
            }
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
    let kernel = with_kind!(weight.format, K => kernel::<K>(isa, panel.rows));
    // SAFETY: the slices cover what the call names, the kernel is the one for the weight's format and the panel's rows, and
    // the caller vouches for the outputs and the instructions.
    unsafe { kernel(&call) };
}

/// Jobs that several threads compute.
struct Shared<'a>(&'a [Job<'a>]);
// SAFETY: the threads write different outputs.
unsafe impl Sync for Shared<'_> {}
