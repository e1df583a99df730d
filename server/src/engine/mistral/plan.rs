//! How much of the machine each model gets.

use std::sync::Arc;

use super::{cores::Cores, source::Source};
use crate::engine::model::ModelSettings;

/// What a generation needs beside weights and kept KV: its own KV and the forward pass.
const WORKING_BYTES: u64 = 64 << 20;
/// More do not help: a core computes for a few streams at most.
const MOST_SLOTS: usize = 32;

/// One model's share.
#[derive(Clone)]
pub struct Plan {
    /// Generations at once: each in an engine of its own, or all in one.
    pub slots: usize,
    /// Threads that an engine computes with while the others leave cores free.
    pub threads: usize,
    pub cores: Arc<Cores>,
    /// KV that a slot may keep for later turns.
    pub prefix_cache_bytes: u64,
}

/// The engine's settings, where a model's own say nothing.
#[derive(Clone)]
pub struct Shares {
    pub cores: Arc<Cores>,
    /// 0: by cores and memory.
    pub slots: usize,
    /// 0: by cores.
    pub threads: usize,
    pub max_running: usize,
    pub prefix_cache_mb: u64,
    /// Models that share the machine.
    pub models: usize,
}

impl Plan {
    pub fn new(settings: &ModelSettings, source: &Source, shares: &Shares) -> Self {
        let cores = shares.cores.count();
        let prefix_cache_bytes = settings.prefix_cache_mb.unwrap_or(shares.prefix_cache_mb) << 20;
        let slots = settings.slots.unwrap_or(if source.is_batch() { shares.max_running } else { shares.slots });
        let slots = match slots {
            0 => {
                let memory = memory_bytes() / shares.models.max(1) as u64;
                default_slots(cores, memory, source.weight_bytes + prefix_cache_bytes + WORKING_BYTES)
            }
            n => n,
        };
        let threads = if shares.threads == 0 { default_threads(cores) } else { shares.threads };
        Self { slots, threads, cores: shares.cores.clone(), prefix_cache_bytes }
    }
}

/// Slots where nothing is configured: four a core, so that a burst is served at once, as long as the copies of the model take
/// no more than half of `memory_bytes`. The other half is for what runs, and for a second set while a model is reloaded.
pub fn default_slots(cores: usize, memory_bytes: u64, slot_bytes: u64) -> usize {
    let fits = usize::try_from(memory_bytes / 2 / slot_bytes.max(1)).unwrap_or(usize::MAX);
    (cores * 4).min(fits).clamp(1, MOST_SLOTS)
}

/// Threads a slot may use while the others are idle: all cores, up to where more do not help a small model. While several
/// slots run, each gets its share of the cores.
pub fn default_threads(cores: usize) -> usize {
    cores.clamp(1, 8)
}

/// What this process may use: the container's limit where there is one.
fn memory_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    system.cgroup_limits().map_or(system.total_memory(), |limits| limits.total_memory)
}
