//! How many sequences a model runs at once, and how much memory their keys and values may take.

use super::{device::ComputeDevice, source::Source};
use crate::engine::model::{KvType, ModelSettings};

/// Sequences at once where nothing is configured.
pub const DEFAULT_MAX_RUNNING: usize = 32;
/// The share of the memory that the keys and values of all models may take where nothing is configured, and the most.
const KV_SHARE: u64 = 8;
const MOST_KV_MB: u64 = 4096;
/// The least that is useful.
const LEAST_KV_MB: u64 = 64;

/// The engine's settings; a model's own go before them.
#[derive(Debug, Clone)]
pub struct CapacityInputs {
    /// 0: see [`DEFAULT_MAX_RUNNING`].
    pub max_running: usize,
    /// 0: by memory.
    pub kv_mb: u64,
    pub kv_type: KvType,
    /// The share of a GPU's memory that weights, keys and values may fill.
    pub gpu_memory: f32,
    /// Models that share the machine.
    pub models: usize,
}

/// One model's share of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// Sequences at once.
    pub places: usize,
    /// For keys and values on a CPU. On a GPU they take what the weights leave of `gpu_memory`.
    pub kv_mb: u64,
    pub kv_type: KvType,
    pub gpu_memory: f32,
}

impl Capacity {
    pub fn new(settings: &ModelSettings, inputs: &CapacityInputs) -> Self {
        let places = match settings.max_running.unwrap_or(inputs.max_running) {
            0 => DEFAULT_MAX_RUNNING,
            places => places,
        };
        let kv_mb = match settings.kv_mb.unwrap_or(inputs.kv_mb) {
            0 => default_kv_mb(memory_bytes(), inputs.models),
            set => set,
        };
        Self { places, kv_mb, kv_type: inputs.kv_type, gpu_memory: inputs.gpu_memory }
    }

    /// Tokens whose keys and values there is room for; `None` where that depends on a GPU's memory.
    pub fn tokens(&self, source: &Source, device: &ComputeDevice) -> Option<u64> {
        let bytes = source.kv_bytes_per_token(self.kv_type).max(1);
        device.is_cpu().then(|| (self.kv_mb << 20) / bytes)
    }
}

/// An eighth of the memory for all models together, at most 4 GB. It is taken when it is used first.
pub fn default_kv_mb(memory_bytes: u64, models: usize) -> u64 {
    ((memory_bytes >> 20) / KV_SHARE).min(MOST_KV_MB).checked_div(models as u64).unwrap_or(0).max(LEAST_KV_MB)
}

/// What this process may use: the container's limit where there is one.
fn memory_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    system.cgroup_limits().map_or(system.total_memory(), |limits| limits.total_memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fit_the_machine() {
        assert_eq!(default_kv_mb(16 << 30, 1), 2048);
        assert_eq!(default_kv_mb(16 << 30, 2), 1024);
        assert_eq!(default_kv_mb(1 << 40, 1), 4096);
        assert_eq!(default_kv_mb(256 << 20, 1), 64);
    }
}
