//! The real engine: mistral.rs, on CPU as a pool of slots a model, on a GPU as one batch a model.
//!
//! On CPU mistral.rs batches only sequences of equal length, and mixes them up, so every slot is an engine of its own, with
//! its own copy of the model, its own thread and one sequence at a time. What a slot does is in `step`: the engine computes
//! logits, everything else is ours. Only this module names mistral.rs.
//!
//! | file | owns |
//! |---|---|
//! | `source` | where a model comes from: a setting to checked files |
//! | `gguf`, `safetensors` | what those files must have, and the engine's loader for them; `facts`: what they say about the model |
//! | `place`, `plan`, `cores` | which device computes and by which mode; each model's share of the machine; each running slot's |
//! | `load` | weights to an engine, and what its slots share |
//! | `model` | one served model |
//! | `tokens` | chat template and tokenizer |
//! | `pool`, `choice` | the slots, and which of them runs a prompt |
//! | `lease` | a slot in the hands of one generation: what comes before and after its run |
//! | `pace` | how fast the model runs here, so how long something will take |
//! | `kept` | what one slot's cache has and for whom, and what the engine will make of a prompt |
//! | `kv`, `logits` | keys and values outside the engine; what the model said at the first tokens of an output |
//! | `generate` | one generation, from waiting for a slot to giving it back, through faults |
//! | `slot` | one engine: run a sequence, empty its cache |
//! | `watchdog` | whether a run is alive |
//! | `step` | one generation on the engine's thread: sampling, stop strings, deltas, cancel |
//! | `grammar`, `closing` | outputs held to a grammar, and the shortest way to complete one |
//! | `threads` | the rayon pool of an engine thread and the gate before its helpers |

mod choice;
mod closing;
mod cores;
mod facts;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fixture;
mod generate;
mod gguf;
mod grammar;
mod kept;
mod kv;
mod lease;
mod load;
mod logits;
mod model;
#[cfg(test)]
mod model_tests;
mod pace;
mod place;
mod plan;
mod pool;
mod safetensors;
mod slot;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod threads;
mod tokens;
mod watchdog;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

pub use self::plan::{default_slots, default_threads};
use self::{
    cores::Cores,
    generate::Generation,
    model::Model,
    place::Place,
    plan::{Plan, Shares},
    source::Source,
    threads::lock,
};
use crate::engine::{
    Delta, Engine, EngineError, GenerateRequest, Grammar, ModelInfo, ModelStatus, Prompt, ReloadError, Reloaded,
    model::{Mode, ModelSettings},
};

/// What to load and how to run it. A model's own settings go before those here.
#[derive(Debug, Clone)]
pub struct MistralConfig {
    /// The first is the default; none: the model that `caudal model pull` fetched.
    pub models: Vec<ModelSettings>,
    pub mode: Mode,
    /// Generations at once in a batch.
    pub max_running: usize,
    /// Generations at once in slots, each with its own copy of the model; 0: see [`default_slots`].
    pub slots: usize,
    /// Threads that a slot may use while the others leave cores free; 0: see [`default_threads`].
    pub threads: usize,
    /// Bounds prompt and output together, in tokens, below what the model allows; 0: the model's own. Rounded down to a
    /// multiple of 512.
    pub context_length: u32,
    /// KV and first logits that one slot may keep for later turns. The KV of the default model takes 46 KB a token.
    pub prefix_cache_mb: u64,
    /// The share of a GPU's memory that weights and KV may fill.
    pub gpu_memory: f32,
    /// Whether all requests are of one tenant, so that a batch may keep KV.
    pub one_tenant: bool,
}

impl Default for MistralConfig {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            mode: Mode::Auto,
            max_running: 32,
            slots: 0,
            threads: 0,
            context_length: 0,
            prefix_cache_mb: 128,
            gpu_memory: 0.9,
            one_tenant: false,
        }
    }
}

/// How far the models are loaded, for whoever asks meanwhile. Empty until they are checked.
pub type Progress = watch::Sender<Vec<ModelStatus>>;

/// The models, each a pool of slots or a batch.
pub struct MistralEngine {
    served: Arc<[Served]>,
    runtime: Handle,
    loaded: CancellationToken,
}

/// A place in the list of models; what serves in it can be replaced.
struct Served {
    index: usize,
    settings: ModelSettings,
    context_length: u32,
    place: Place,
    plan: Plan,
    /// Fixed when the process starts.
    id: String,
    current: Mutex<Arc<Model>>,
    /// Held while slots are loaded.
    loading: tokio::sync::Mutex<()>,
    progress: Progress,
}

impl MistralEngine {
    /// Checks all models, then loads the first slot of each, and goes on with the others while those serve already. To be
    /// called on the runtime that generations shall run on.
    ///
    /// # Errors
    /// `Load`, naming the setting and the file; the first where several are wrong. Nothing has been loaded then, unless it is
    /// the engine that refuses a model.
    pub async fn load(config: MistralConfig, progress: Progress) -> Result<Self, EngineError> {
        let begun = Instant::now();
        let place = Place::choose(config.mode, config.one_tenant, config.gpu_memory);
        let settings = if config.models.is_empty() { vec![ModelSettings::default()] } else { config.models };
        let shares = Shares {
            cores: Cores::new(std::thread::available_parallelism().map_or(1, usize::from)),
            slots: config.slots,
            threads: config.threads,
            max_running: config.max_running,
            prefix_cache_mb: config.prefix_cache_mb,
            models: settings.len(),
        };
        let mut planned = Vec::new();
        for (index, settings) in settings.into_iter().enumerate() {
            let context_length = settings.context_length.unwrap_or(config.context_length);
            let source = open(settings.clone(), index, context_length, place.clone()).await?;
            let plan = Plan::new(&settings, &source, &shares);
            place.check(plan.slots)?;
            planned.push((settings, context_length, source, plan));
        }
        check_names(planned.iter().map(|(_, _, source, _)| &*source.info))?;
        progress.send_replace(planned.iter().map(|(_, _, source, plan)| status(&source.info.id, 0, plan)).collect());

        let mut served = Vec::new();
        for (index, (settings, context_length, source, plan)) in planned.into_iter().enumerate() {
            let id = source.info.id.clone();
            let first = Model::load(source, plan.clone()).await?;
            tracing::info!(
                model = id,
                slots = plan.slots,
                context_length = first.info.context_length,
                quantisation = first.info.quantisation,
                batch = place.is_batch,
                took = ?begun.elapsed(),
                "the first slot is loaded"
            );
            let (place, progress) = (place.clone(), progress.clone());
            let (current, loading) = (Mutex::new(Arc::new(first)), tokio::sync::Mutex::default());
            let model = Served { index, settings, context_length, place, plan, id, current, loading, progress };
            model.tell(&model.current());
            served.push(model);
        }
        let (served, loaded): (Arc<[Served]>, _) = (served.into(), CancellationToken::new());
        let (all, done) = (served.clone(), loaded.clone());
        tokio::spawn(async move {
            for model in &*all {
                let _loading = model.loading.lock().await;
                model.fill().await;
            }
            tracing::info!(took = ?begun.elapsed(), "all slots loaded");
            done.cancel();
        });
        Ok(Self { served, runtime: Handle::current(), loaded })
    }

    /// Returns when no slot is still being loaded.
    pub async fn loaded(&self) {
        self.loaded.cancelled().await;
    }

    fn served(&self, name: &str) -> Option<usize> {
        self.served.iter().position(|served| served.current().info.is_called(name))
    }

    fn model(&self, name: &str) -> Result<Arc<Model>, EngineError> {
        let all = self.served.iter().map(Served::current);
        all.into_iter().find(|model| model.info.is_called(name)).ok_or_else(|| EngineError::UnknownModel(name.into()))
    }
}

impl Served {
    fn current(&self) -> Arc<Model> {
        lock(&self.current).clone()
    }

    /// Loads the slots behind the first one. One that cannot be loaded is missing, and said.
    async fn fill(&self) {
        let model = self.current();
        for _ in 0..model.missing() {
            match model.grow().await {
                Ok(()) => self.tell(&model),
                Err(error) => {
                    tracing::error!(model = self.id, %error, "a slot cannot be loaded; there is one less");
                }
            }
        }
    }

    /// All slots of the new model are there before it serves, so that there are never fewer.
    async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let Ok(_loading) = self.loading.try_lock() else { return Err(ReloadError::InProgress(self.id.clone())) };
        let begun = Instant::now();
        let failed = |error: EngineError| ReloadError::Failed(error.to_string());
        let settings = ModelSettings { id: self.id.clone(), ..self.settings.clone() };
        let source = open(settings, self.index, self.context_length, self.place.clone()).await.map_err(failed)?;
        let new = Model::load(source, self.plan.clone()).await.map_err(failed)?;
        let old = self.current();
        if !new.has_vocabulary_of(&old) {
            let reason = "it has another vocabulary, and what waits and what is stored are tokens of the old one; serve it \
                          under another id, or restart";
            return Err(ReloadError::Failed(reason.into()));
        }
        for _ in 0..new.missing() {
            new.grow().await.map_err(failed)?;
        }
        let new = Arc::new(new);
        *lock(&self.current) = new.clone();
        self.tell(&new);
        tokio::spawn(model::see_off(self.id.clone(), Arc::downgrade(&old.pool)));
        let reloaded = Reloaded { old: old.info.clone(), new: new.info.clone(), took: begun.elapsed() };
        tracing::info!(model = self.id, took = ?reloaded.took, "the model was reloaded");
        Ok(reloaded)
    }

    fn tell(&self, model: &Model) {
        let now = status(&self.id, model.slots_loaded(), &self.plan);
        self.progress.send_modify(|all| {
            if let Some(status) = all.get_mut(self.index) {
                *status = now;
            }
        });
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

    fn slots(&self, model: &str) -> usize {
        self.served(model).map_or(0, |index| self.served[index].plan.slots)
    }

    fn status(&self) -> Vec<ModelStatus> {
        self.served.iter().map(|served| status(&served.id, served.current().slots_loaded(), &served.plan)).collect()
    }

    fn reload<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<Reloaded, ReloadError>> {
        let Some(index) = self.served(model) else {
            return futures::future::err(ReloadError::UnknownModel(model.into())).boxed();
        };
        let served = self.served.clone();
        let reloading = self.runtime.spawn(async move { served[index].reload().await });
        reloading.map(|joined| joined.unwrap_or_else(|panic| Err(ReloadError::Failed(panic.to_string())))).boxed()
    }

    fn generate(&self, model: &str, request: GenerateRequest) -> Result<mpsc::Receiver<Delta>, EngineError> {
        let model = self.model(model)?;
        let context = u64::from(model.info.context_length);
        let room = context.saturating_sub(request.prompt.len() as u64);
        let max = u64::from(request.max_output_tokens).min(room);
        // A delta a token, one that corrects `cached_tokens`, one for the end, and one to spare: the engine never waits for
        // the reader.
        let capacity = max.saturating_sub(request.output.len() as u64) + 3;
        let (sender, receiver) = mpsc::channel(usize::try_from(capacity).unwrap_or(usize::MAX >> 4));
        let (pool, shared) = (model.pool.clone(), model.shared.clone());
        self.runtime.spawn(Generation { pool, shared, request, max, sender }.run());
        Ok(receiver)
    }
}

/// [`Source::open`], which blocks.
async fn open(settings: ModelSettings, index: usize, context: u32, place: Place) -> Result<Source, EngineError> {
    tokio::task::spawn_blocking(move || Source::open(&settings, index, context, &place))
        .await
        .map_err(|error| EngineError::Load(error.to_string()))?
}

fn check_names<'a>(models: impl Iterator<Item = &'a ModelInfo>) -> Result<(), EngineError> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (index, model) in models.enumerate() {
        for name in std::iter::once(&model.id).chain(&model.aliases) {
            if name.is_empty() {
                return Err(EngineError::Load(format!("engine.models[{index}]: an alias is empty")));
            }
            if let Some(other) = names.insert(name, index) {
                return Err(EngineError::Load(format!(
                    "engine.models[{index}]: `{name}` is the name of engine.models[{other}] already; give each its own id and \
                     aliases"
                )));
            }
        }
    }
    Ok(())
}

fn status(id: &str, slots_loaded: usize, plan: &Plan) -> ModelStatus {
    ModelStatus { id: id.to_owned(), slots_loaded, slots: plan.slots }
}
