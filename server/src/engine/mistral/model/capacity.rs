//! How many sequences a model runs at once, and how much memory their keys and values may take.

use crate::engine::{
    kv::BLOCK,
    model::{KvType, ModelSettings},
};

/// Sequences at once, by default.
pub const DEFAULT_MAX_RUNNING: usize = 32;
/// Tokens whose keys and values fit the cache, by default; or one full context, if that is longer.
const DEFAULT_TOKENS: u64 = 16_384;
/// At most `1 / KV_SHARE` of the memory holds the keys and values of all models, by default.
const KV_SHARE: u64 = 8;

/// The engine's settings; a model's own settings override them.
#[derive(Debug, Clone)]
pub struct CapacityInputs {
    /// 0: see [`DEFAULT_MAX_RUNNING`].
    pub max_running: usize,
    /// 0: by the model and the machine's memory.
    pub kv_mb: u64,
    pub kv_type: KvType,
    /// The share of a GPU's memory that weights, keys and values may fill, from 0 to 1.
    pub gpu_memory: f32,
    /// Models that share the machine.
    pub models: usize,
}

/// One model's share of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CapacityShare {
    /// Sequences at once.
    pub places: usize,
    /// For keys and values on a CPU; 0: by the model and the memory. On a GPU they get what the weights leave of `gpu_memory`.
    kv_mb: u64,
    /// The most memory for the model's keys and values if `kv_mb` is 0, in MB.
    share_mb: u64,
    pub kv_type: KvType,
    pub gpu_memory: f32,
}

impl CapacityShare {
    pub fn new(settings: &ModelSettings, inputs: &CapacityInputs) -> Self {
        let places = match settings.max_running.unwrap_or(inputs.max_running) {
            0 => DEFAULT_MAX_RUNNING,
            places => places,
        };
        Self {
            places,
            kv_mb: settings.kv_mb.unwrap_or(inputs.kv_mb),
            share_mb: share_mb(memory_bytes(), inputs.models),
            kv_type: inputs.kv_type,
            gpu_memory: inputs.gpu_memory,
        }
    }

    /// Memory for the keys and values of a model on a CPU, in MB. The operating system provides it on first use.
    pub fn kv_mb(&self, context_length: u32, bytes_per_token: u64) -> u64 {
        if self.kv_mb > 0 {
            return self.kv_mb;
        }
        let wanted = u64::from(context_length).max(DEFAULT_TOKENS) * bytes_per_token;
        wanted.div_ceil(1 << 20).clamp(1, self.share_mb)
    }

    /// Tokens whose keys and values fit that memory on a CPU, in whole blocks.
    pub fn tokens(&self, context_length: u32, bytes_per_token: u64) -> u64 {
        let bytes = bytes_per_token.max(1);
        let tokens = (self.kv_mb(context_length, bytes) << 20) / bytes;
        tokens / BLOCK as u64 * BLOCK as u64
    }
}

/// The most memory for the keys and values of one of `models` models, by default, in MB.
fn share_mb(memory_bytes: u64, models: usize) -> u64 {
    ((memory_bytes >> 20) / KV_SHARE).checked_div(models as u64).unwrap_or(0).max(1)
}

/// The memory that this process may use: the container's limit, or else the machine's memory.
fn memory_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    system.cgroup_limits().map_or(system.total_memory(), |limits| limits.total_memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fit_the_model_and_the_machine() {
        let capacity = |kv_mb, memory, models| CapacityShare {
            places: 32,
            kv_mb,
            share_mb: share_mb(memory, models),
            kv_type: KvType::F32,
            gpu_memory: 0.9,
        };
        assert_eq!(capacity(0, 16 << 30, 1).kv_mb(8192, 46_080), 720, "16,384 tokens");
        assert_eq!(capacity(0, 64 << 30, 1).kv_mb(131_072, 46_080), 5760, "one full context");
        assert_eq!(capacity(0, 16 << 30, 2).kv_mb(131_072, 262_144), 1024, "an eighth, shared by two models");
        assert_eq!(capacity(300, 16 << 30, 1).kv_mb(131_072, 262_144), 300);
    }
}
