//! The real engine. mistral.rs loads models and computes their layers; this module decides which sequences run, which keys and
//! values they reuse and which tokens are picked. Each model has one batch, on a CPU and on a GPU. Only this module names
//! mistral.rs.
//!
//! | folder or file | owns |
//! |---|---|
//! | `served` | a model that is served, and reloading it |
//! | `model` | a model, from a setting to weights in memory |
//! | `batch` | the thread that runs a model's sequences together, and a new thread when a step fails |
//! | `run` | one generation: its tokens, and its continuation when an engine fails |
//! | `prefix_cache` | the blocks of the paged cache, and which of them are reused |
//! | `kv_exchange` | blocks that come from or go to a store outside the process |
//! | `kernels` | hooks through which mistral.rs calls our kernels on a CPU |

mod batch;
#[cfg(test)]
mod fixture;
mod kernels;
mod kv_exchange;
mod model;
mod prefix_cache;
mod run;
mod served;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{runtime::Handle, sync::mpsc};

pub use self::{kv_exchange::KvSharing, served::LoadProgress};
use self::{
    model::{
        capacity::{CapacityInputs, CapacityShare},
        device::ComputeDevice,
        origin::ModelOrigin,
        source::ModelSource,
    },
    run::generation::GenerationRun,
    served::{Served, ServedModel},
};
use crate::engine::{
    self, Delta, Engine, EngineError, GenerateRequest, Grammar, ModelInfo, ModelStatus, Prompt, ReloadError, Reloaded,
    model::{KvType, ModelSettings},
};

/// Which models to load, and how to run them. A model's own settings override these.
#[derive(Debug, Clone)]
pub struct MistralConfig {
    /// The first is the default. Empty: the model that `caudal model pull` fetched.
    pub models: Vec<ModelSettings>,
    /// Sequences of a model that run at once; 0: 32.
    pub max_running: usize,
    /// Threads that compute; 0: one for each usable core.
    pub threads: usize,
    /// The most tokens that prompt and output may take together; 0, or more than the model allows: the model's own bound.
    pub context_length: u32,
    /// Memory for the keys and values of each model; 0: by the model and the machine's memory.
    pub kv_mb: u64,
    pub kv_type: KvType,
    /// The share of a GPU's memory that weights, keys and values may fill, from 0 to 1.
    pub gpu_memory: f32,
    /// The place where blocks of keys and values are stored outside this process; `None`: nowhere. Only models on a CPU use it.
    pub sharing: Option<KvSharing>,
}

impl Default for MistralConfig {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            max_running: 0,
            threads: 0,
            context_length: 0,
            kv_mb: 0,
            kv_type: KvType::F32,
            gpu_memory: 0.9,
            sharing: None,
        }
    }
}

/// The models, each with its batch.
pub struct MistralEngine {
    served: Arc<[Served]>,
    runtime: Handle,
}

impl MistralEngine {
    /// Checks all models, then loads them one after the other. Must be called on the runtime that will run the generations.
    ///
    /// # Errors
    /// `Load`, naming the setting and the file of the first fault. If a check fails, no model has been loaded.
    pub async fn load(config: MistralConfig, progress: LoadProgress) -> Result<Self, EngineError> {
        let begun = Instant::now();
        kernels::install(config.threads);
        let device = ComputeDevice::choose();
        let settings = if config.models.is_empty() { vec![ModelSettings::default()] } else { config.models };
        let inputs = CapacityInputs {
            max_running: config.max_running,
            kv_mb: config.kv_mb,
            kv_type: config.kv_type,
            gpu_memory: config.gpu_memory,
            models: settings.len(),
        };
        let mut checked = Vec::new();
        for (index, settings) in settings.into_iter().enumerate() {
            let context_length = settings.context_length.unwrap_or(config.context_length);
            let capacity = CapacityShare::new(&settings, &inputs);
            let origin = ModelOrigin { index, settings, context_length, device: device.clone(), capacity };
            let source = served::open(origin.clone()).await?;
            checked.push((origin, source));
        }
        check_names(checked.iter().map(|(_, source)| &*source.info))?;
        let status = |source: &ModelSource| ModelStatus { id: source.info.id.clone(), loaded: false };
        progress.send_replace(checked.iter().map(|(_, source)| status(source)).collect());

        let mut served = Vec::new();
        for (origin, source) in checked {
            let model = ServedModel::load(source, config.sharing.clone()).await?;
            model.batch.runs().await;
            tracing::info!(
                model = model.info.id,
                max_running = model.batch.places,
                kv_tokens = model.batch.tokens,
                context_length = model.info.context_length,
                quantisation = model.info.quantisation,
                took = ?begun.elapsed(),
                "the model is loaded"
            );
            progress.send_modify(|all| {
                if let Some(status) = all.get_mut(origin.index) {
                    status.loaded = true;
                }
            });
            served.push(Served::new(origin, config.sharing.clone(), model));
        }
        Ok(Self { served: served.into(), runtime: Handle::current() })
    }

    fn model(&self, name: &str) -> Result<Arc<ServedModel>, EngineError> {
        let mut all = self.served.iter().map(Served::current);
        all.find(|model| model.info.is_called(name)).ok_or_else(|| EngineError::UnknownModel(name.into()))
    }
}

impl Engine for MistralEngine {
    fn models(&self) -> Vec<Arc<ModelInfo>> {
        self.served.iter().map(|served| served.current().info.clone()).collect()
    }

    fn tokenize(&self, model: &str, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        self.model(model)?.shared.tokens.render(prompt)
    }

    fn check(&self, model: &str, grammar: &Grammar, max_output_tokens: u32) -> Result<(), EngineError> {
        self.model(model)?.shared.grammars.check(grammar, max_output_tokens)
    }

    fn capacity(&self, model: &str) -> engine::Capacity {
        let batch = self.model(model).map(|model| (model.batch.places, model.batch.tokens));
        let (sequences, tokens) = batch.unwrap_or((0, None));
        engine::Capacity { sequences, tokens }
    }

    fn fetched_tokens(&self, model: &str) -> Option<engine::FetchedTokens> {
        Some(self.model(model).ok()?.batch.exchange.as_ref()?.fetched_tokens())
    }

    fn kv_blocks(&self, model: &str) -> Option<engine::KvBlocks> {
        self.model(model).ok()?.batch.kv_blocks()
    }

    fn prompt_time(&self, model: &str, tenant: &str, tokens: &[u32]) -> Duration {
        self.model(model).map_or(Duration::ZERO, |model| model.batch.prompt_time(tenant, tokens))
    }

    fn status(&self) -> Vec<ModelStatus> {
        self.served.iter().map(|served| ModelStatus { id: served.id.clone(), loaded: true }).collect()
    }

    fn reload<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<Reloaded, ReloadError>> {
        let Some(index) = self.served.iter().position(|served| served.current().info.is_called(model)) else {
            return futures::future::err(ReloadError::UnknownModel(model.into())).boxed();
        };
        let served = self.served.clone();
        let reloading = self.runtime.spawn(async move { served[index].reload().await });
        reloading.map(|joined| joined.unwrap_or_else(|panic| Err(ReloadError::Failed(panic.to_string())))).boxed()
    }

    fn flush_blocks(&self) -> BoxFuture<'_, ()> {
        let exchanges: Vec<_> =
            self.served.iter().filter_map(|served| served.current().batch.exchange.clone()).collect();
        Box::pin(async move {
            for exchange in exchanges {
                exchange.flush().await;
            }
        })
    }

    fn generate(&self, model: &str, request: GenerateRequest) -> Result<mpsc::Receiver<Delta>, EngineError> {
        let model = self.model(model)?;
        let context = u64::from(model.info.context_length);
        let room = context.saturating_sub(request.prompt.len() as u64);
        let max = u64::from(request.max_output_tokens).min(room);
        // One delta for each token, one for the end, one to spare: the engine never waits for the reader.
        let capacity = max.saturating_sub(request.output.len() as u64) + 2;
        let (sender, receiver) = mpsc::channel(usize::try_from(capacity).unwrap_or(usize::MAX >> 4));
        let (batch, shared) = (model.batch.clone(), model.shared.clone());
        self.runtime.spawn(GenerationRun { batch, shared, request, max, sender }.run());
        Ok(receiver)
    }
}

fn check_names<'a>(models: impl Iterator<Item = &'a ModelInfo>) -> Result<(), EngineError> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (index, model) in models.enumerate() {
        for name in std::iter::once(&model.id).chain(&model.aliases) {
            if name.is_empty() {
                return Err(EngineError::Load(format!("engine.models[{index}]: an alias is empty; remove it")));
            }
            if let Some(other) = names.insert(name, index) {
                return Err(EngineError::Load(format!(
                    "engine.models[{index}]: `{name}` is already a name of engine.models[{other}]; give each model its own \
                    id and aliases"
                )));
            }
        }
    }
    Ok(())
}
