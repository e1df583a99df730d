//! Which device computes, and how its memory is shared out.

use candle_core::Device;
use mistralrs_core::{
    AutoDeviceMapParams, DeviceMapSetting, MemoryGpuConfig, ModelDType, PagedAttentionConfig, PagedCacheType,
};

use super::capacity::CapacityShare;
use crate::engine::{kv::BLOCK, model::KvType};

/// Chosen once, when the process starts: the first GPU if the build knows of GPUs and the machine has one, else the CPU.
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

    /// On a CPU mistral.rs's `Auto` computes in a smaller type, which is slower there and gives other words.
    pub fn dtype(&self) -> ModelDType {
        if self.is_cpu() { ModelDType::F32 } else { ModelDType::Auto }
    }

    /// Which layers go where: all GPUs of the machine, and the CPU with what does not fit beside the keys and values of
    /// `places` full contexts.
    pub fn map(&self, context_length: u32, places: usize) -> DeviceMapSetting {
        if self.is_cpu() {
            return DeviceMapSetting::dummy();
        }
        let (max_seq_len, max_batch_size) = (context_length as usize, places);
        DeviceMapSetting::Auto(AutoDeviceMapParams::Text { max_seq_len, max_batch_size })
    }

    /// The paged cache of a model, with so many MB on a CPU.
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
