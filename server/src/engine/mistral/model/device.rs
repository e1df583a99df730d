//! Which device computes, and how its memory is divided.

use candle_core::Device;
use mistralrs_core::{
    AutoDeviceMapParams, DeviceMapSetting, MemoryGpuConfig, ModelDType, PagedAttentionConfig, PagedCacheType,
};

use super::capacity::CapacityShare;
use crate::engine::{kv::BLOCK, model::KvType};

/// The first GPU if the build supports GPUs and the machine has one, else the CPU. Chosen once, when the process starts.
#[derive(Debug, Clone)]
pub struct ComputeDevice(pub Device);

impl ComputeDevice {
    pub fn choose() -> Self {
        let found = if cfg!(feature = "cuda") {
            Device::new_cuda(0)
        } else if cfg!(feature = "metal") {
            Device::new_metal(0)
        } else {
            Ok(Device::Cpu)
        };
        Self(found.unwrap_or_else(|error| {
            tracing::warn!(%error, "no GPU can be used; computing on the CPU");
            Device::Cpu
        }))
    }

    pub fn is_cpu(&self) -> bool {
        self.0.is_cpu()
    }

    /// The type of numbers that are not quantised. F32 on a CPU, because there mistral.rs's `Auto` chooses a smaller type, which
    /// is slower and changes the output.
    pub fn dtype(&self) -> ModelDType {
        if self.is_cpu() { ModelDType::F32 } else { ModelDType::Auto }
    }

    /// Which device gets which layers: all GPUs of the machine, and the CPU for layers that do not fit beside the keys and
    /// values of `places` full contexts.
    pub fn map(&self, context_length: u32, places: usize) -> DeviceMapSetting {
        if self.is_cpu() {
            return DeviceMapSetting::dummy();
        }
        let (max_seq_len, max_batch_size) = (context_length as usize, places);
        DeviceMapSetting::Auto(AutoDeviceMapParams::Text { max_seq_len, max_batch_size })
    }

    /// The configuration of a model's paged cache. `kv_mb`: its size on a CPU.
    ///
    /// # Errors
    /// With mistral.rs's reason.
    pub fn paged_cache(&self, capacity: &CapacityShare, kv_mb: u64) -> anyhow::Result<PagedAttentionConfig> {
        let memory = if self.is_cpu() {
            MemoryGpuConfig::MbAmount(usize::try_from(kv_mb)?)
        } else {
            MemoryGpuConfig::Utilization(capacity.gpu_memory)
        };
        let kind = match capacity.kv_type {
            KvType::F32 => PagedCacheType::Auto,
            KvType::F16 => PagedCacheType::F16,
        };
        PagedAttentionConfig::new(Some(BLOCK), memory, kind)
    }
}
