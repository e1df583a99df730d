//! Where models compute, and how their generations share an engine: slots of one each, or one batch.

use std::num::NonZeroUsize;

use candle_core::Device;
use mistralrs_core::{
    AutoDeviceMapParams, DefaultSchedulerMethod, DeviceMapSetting, MemoryGpuConfig, ModelDType, PagedAttentionConfig,
    PagedCacheType, Pipeline, SchedulerConfig,
};

use crate::engine::{EngineError, model::Mode};

/// Decided once, when the process starts.
#[derive(Debug, Clone)]
pub struct Place {
    pub device: Device,
    /// Whether one engine runs all generations of a model.
    pub is_batch: bool,
    /// Whether the engine of a batch may keep KV between generations. It finds it by tokens alone, whoever asks, so only
    /// where there is one tenant; and it never evicts on CPU.
    pub batch_keeps_kv: bool,
    /// The share of a GPU's memory that weights and KV may fill.
    pub gpu_memory: f32,
}

impl Place {
    pub fn choose(mode: Mode, one_tenant: bool, gpu_memory: f32) -> Self {
        let device = gpu().unwrap_or(Device::Cpu);
        let is_batch = match mode {
            Mode::Auto => !device.is_cpu(),
            Mode::Batch => true,
            Mode::Slots => false,
        };
        let batch_keeps_kv = one_tenant && !device.is_cpu();
        Self { device, is_batch, batch_keeps_kv, gpu_memory }
    }

    /// On CPU the engine's `Auto` computes in a smaller type, which is slower there and says other words.
    pub fn dtype(&self) -> ModelDType {
        if self.device.is_cpu() { ModelDType::F32 } else { ModelDType::Auto }
    }

    /// Which layers go where: all GPUs of the machine, and the CPU with what does not fit beside the KV of `running` full
    /// contexts.
    pub fn map(&self, context_length: u32, running: usize) -> DeviceMapSetting {
        if self.device.is_cpu() {
            return DeviceMapSetting::dummy();
        }
        let (max_seq_len, max_batch_size) = (context_length as usize, running);
        DeviceMapSetting::Auto(AutoDeviceMapParams::Text { max_seq_len, max_batch_size })
    }

    /// KV in pages, so that sequences of any length run together; the engine has it for GPUs only.
    ///
    /// # Errors
    /// `Load` where the engine refuses the configuration.
    pub fn paged_attention(&self) -> Result<Option<PagedAttentionConfig>, EngineError> {
        if self.device.is_cpu() || !self.is_batch {
            return Ok(None);
        }
        let memory = MemoryGpuConfig::Utilization(self.gpu_memory);
        PagedAttentionConfig::new(None, memory, PagedCacheType::Auto)
            .map(Some)
            .map_err(|error| EngineError::Load(format!("PagedAttention cannot be set up: {error}")))
    }

    /// Whether an engine can run `running` sequences here, before anything is loaded.
    ///
    /// # Errors
    /// `Load`, as [`Self::scheduler`].
    pub fn check(&self, running: usize) -> Result<(), EngineError> {
        if self.is_batch { together(std::slice::from_ref(&self.device), running) } else { Ok(()) }
    }

    /// How an engine that runs up to `running` sequences chooses among them.
    ///
    /// # Errors
    /// `Load` where there are several and a layer is on the CPU. See [`together`].
    pub fn scheduler(&self, pipeline: &dyn Pipeline, running: usize) -> Result<SchedulerConfig, EngineError> {
        let devices =
            pipeline.device_mapper().map_or_else(|| vec![pipeline.device()], |mapper| mapper.get_unique_devices());
        together(&devices, running)?;
        let running = NonZeroUsize::new(running).unwrap_or(NonZeroUsize::MIN);
        Ok(match pipeline.get_metadata().cache_config.clone() {
            Some(config) => SchedulerConfig::PagedAttentionMeta { max_num_seqs: running.get(), config },
            None => SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(running) },
        })
    }
}

/// Refuses several sequences where a layer is on the CPU. There the engine runs those of equal length in one step, and its
/// attention for one new token of each (mistral.rs 0.8.1, `attention/backends/cpu.rs`) gives all of them what it made of the
/// last: a reply goes on from somebody else's prompt.
fn together(devices: &[Device], running: usize) -> Result<(), EngineError> {
    if running > 1 && devices.iter().any(Device::is_cpu) {
        return Err(EngineError::Load(format!(
            "engine.mode: a batch of {running} needs the whole model on a GPU, for on a CPU mistral.rs mixes up the replies that \
             it computes together; set it to \"slots\", or let the model fit into the GPU, or set engine.max_running (and the \
             model's own slots) to 1"
        )));
    }
    Ok(())
}

/// The first GPU, where this build knows of GPUs and the machine has one.
fn gpu() -> Option<Device> {
    let found = if cfg!(feature = "cuda") {
        Device::new_cuda(0)
    } else if cfg!(feature = "metal") {
        Device::new_metal(0)
    } else {
        return None;
    };
    match found {
        Ok(device) => Some(device),
        Err(error) => {
            tracing::warn!(%error, "no GPU can be used; computing on the CPU");
            None
        }
    }
}
