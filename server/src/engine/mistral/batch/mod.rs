//! The batch of one model: an engine's thread that runs its sequences together, and another in its place when it breaks.
//!
//! | file | owns |
//! |---|---|
//! | `engine` | the thread: takes sequences in, computes steps, lets them go |
//! | `schedule` | which sequences a step computes, and how many tokens of each |
//! | `step` | one forward pass as the pipeline reads it |
//! | `sequence` | one generation in the batch |
//! | `transfer` | blocks on their way into and out of the cache |
//! | `throughput` | how fast steps run here |
//! | `pulse` | whether the thread is alive |

mod engine;
#[cfg(test)]
pub mod faults;
mod pulse;
mod schedule;
mod sequence;
mod step;
mod throughput;
mod transfer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rayon::ThreadPoolBuilder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::sequence::{SequenceEnd, Submission};
use self::{
    engine::{EngineInputs, EngineLoop},
    pulse::Pulse,
};
use super::{
    kv_exchange::{KvExchange, KvSharing},
    model::{
        loader,
        source::{LoadedModel, ModelSource},
    },
    prefix_cache::CachedNames,
};
use crate::engine::{
    KvBlocks,
    kv::{BLOCK, BlockName},
};

/// How often an engine that cannot be begun anew is tried again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Runs the sequences of one model. Dropped, it ends its engine when that has nothing more to do.
pub struct Batch {
    state: watch::Receiver<BatchState>,
    pub places: usize,
    /// Tokens whose keys and values there is room for; absent for a model that is not paged.
    pub tokens: Option<usize>,
    /// Absent where keys and values are not stored beyond this process.
    pub exchange: Option<Arc<KvExchange>>,
    cached: CachedNames,
    /// The name of the model in `cached`.
    model: String,
    ids: AtomicU64,
    /// Ends the keeper, which keeps an engine running.
    _keeper: tokio_util::sync::DropGuard,
}

#[derive(Clone)]
enum BatchState {
    Runs(Arc<RunningEngine>),
    /// Another engine is being begun.
    Begins,
    /// It could not be begun; it is tried again.
    Failed(String),
}

/// An engine that runs.
struct RunningEngine {
    submissions: mpsc::Sender<Submission>,
    pulse: Arc<Pulse>,
    /// Cancelled when the engine is given up because it hangs.
    given_up: CancellationToken,
}

/// Why a sequence did not run to its end.
#[derive(Debug)]
pub struct Broken {
    pub reason: String,
    /// It was in the step that failed.
    pub was_running: bool,
    /// Nothing runs sequences at present.
    pub is_final: bool,
}

/// What an engine is begun with.
struct Keeper {
    source: Arc<ModelSource>,
    pipeline: LoadedModel,
    places: usize,
    blocks: usize,
    cached: CachedNames,
    exchange: Option<Arc<KvExchange>>,
    state: watch::Sender<BatchState>,
}

impl Batch {
    /// Begins an engine on a loaded model. To be called within the runtime.
    pub fn new(source: Arc<ModelSource>, pipeline: LoadedModel, sharing: Option<KvSharing>) -> Self {
        let metadata = pipeline.try_lock().ok().map(|pipeline| pipeline.get_metadata());
        let config = metadata.as_ref().and_then(|metadata| metadata.cache_config.clone());
        let tokens = config.map(|config| config.num_gpu_blocks * config.block_size);
        let context = source.info.context_length as usize;
        // A model that is not paged runs one sequence, whose blocks are only counted.
        let (places, blocks) = match tokens {
            Some(tokens) => (source.origin.capacity.places, tokens / BLOCK),
            None => (1, context.div_ceil(BLOCK) + 1),
        };
        let cached = CachedNames::default();
        let is_shared = tokens.is_some() && source.origin.device.is_cpu();
        let exchange = sharing.filter(|_| is_shared).map(|sharing| KvExchange::start(&source, sharing, cached.clone()));
        let model = source.kv_name();
        let (state, states) = watch::channel(BatchState::Begins);
        let stop = CancellationToken::new();
        let keeper =
            Keeper { source, pipeline, places, blocks, cached: cached.clone(), exchange: exchange.clone(), state };
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = keeper.keep() => {}
            }
        });
        let ids = AtomicU64::new(0);
        Self { state: states, places, tokens, exchange, cached, model, ids, _keeper: stop.drop_guard() }
    }

    /// Runs a sequence to its end, which its processor decides.
    ///
    /// # Errors
    /// The engine broke before. What the sequence produced until then, its processor knows.
    pub async fn run(&self, mut submission: Submission, ended: oneshot::Receiver<SequenceEnd>) -> Result<(), Broken> {
        let id = submission.id;
        let broken = |reason: &str, is_final| Broken { reason: reason.into(), was_running: false, is_final };
        let mut states = self.state.clone();
        let running = loop {
            let state = states.borrow_and_update().clone();
            match state {
                BatchState::Runs(running) => match running.submissions.send(submission).await {
                    Ok(()) => break running,
                    // It ended just now; another one comes.
                    Err(back) => submission = back.0,
                },
                BatchState::Failed(reason) => return Err(broken(&reason, true)),
                BatchState::Begins => {}
            }
            if states.changed().await.is_err() {
                return Err(broken("the model is being unloaded", true));
            }
        };
        tokio::select! {
            biased;
            ended = ended => match ended {
                Ok(SequenceEnd::Finished) => Ok(()),
                Ok(SequenceEnd::Broken { reason, was_running }) => Err(Broken { reason, was_running, is_final: false }),
                Err(_) => Err(broken("the engine's thread has ended", false)),
            },
            () = running.given_up.cancelled() => {
                Err(Broken { reason: "the engine hangs".into(), was_running: running.pulse.computes(id), is_final: false })
            }
        }
    }

    /// A number that no other sequence of this batch has.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The blocks of the engine that runs; `None` if none does, or if the model is not paged.
    pub fn kv_blocks(&self) -> Option<KvBlocks> {
        self.tokens?;
        match &*self.state.borrow() {
            BatchState::Runs(running) => Some(running.pulse.blocks()),
            _ => None,
        }
    }

    /// Estimates how long it takes until the keys and values of a prompt's first tokens are cached: those that are not are computed,
    /// or fetched if that is faster. Zero for a model that is not paged, which caches none.
    pub fn reading(&self, tenant: &str, tokens: &[u32]) -> Duration {
        if self.tokens.is_none() {
            return Duration::ZERO;
        }
        let cached = self.cached.count(BlockName::root(&self.model, tenant).chain(tokens)) * BLOCK;
        let missing = tokens.len().saturating_sub(cached);
        if missing == 0 {
            return Duration::ZERO;
        }
        let rate = match &*self.state.borrow() {
            BatchState::Runs(running) => running.pulse.reads(),
            _ => throughput::UNKNOWN_RATE,
        };
        let computing = Duration::from_secs_f64(missing as f64 / rate.max(1.0));
        let fetching = self.exchange.as_ref().and_then(|exchange| exchange.fetching(missing));
        fetching.map_or(computing, |fetching| fetching.min(computing))
    }

    /// Returns when an engine runs.
    pub async fn runs(&self) {
        let mut states = self.state.clone();
        let _ = states.wait_for(|state| matches!(state, BatchState::Runs(_))).await;
    }
}

impl Keeper {
    /// Keeps an engine running, another whenever one has broken.
    async fn keep(mut self) {
        let mut faults = 0;
        loop {
            let (submissions, inbox) = mpsc::channel(self.places.max(1));
            let pulse = Arc::new(Pulse::default());
            let inputs = EngineInputs {
                pipeline: self.pipeline.clone(),
                submissions: inbox,
                places: self.places,
                blocks: self.blocks,
                cached: self.cached.clone(),
                exchange: self.exchange.clone(),
                model: self.source.kv_name(),
                pulse: pulse.clone(),
            };
            let Some(thread_ended) = begin(inputs) else {
                self.state.send_replace(BatchState::Failed("a thread for the engine cannot be begun".into()));
                tokio::time::sleep(RETRY.0).await;
                continue;
            };
            let given_up = CancellationToken::new();
            let running = RunningEngine { submissions, pulse: pulse.clone(), given_up: given_up.clone() };
            self.state.send_replace(BatchState::Runs(Arc::new(running)));
            let hangs = tokio::select! {
                _ = thread_ended => None,
                reason = pulse.clone().stops() => Some(reason),
            };
            self.state.send_replace(BatchState::Begins);
            faults = if pulse.steps() > STEADY { 1 } else { faults + 1 };
            // A thread that hangs holds the pipeline for good; one that fails at once may have broken it.
            if let Some(reason) = &hangs {
                tracing::error!(reason, "the engine hangs; the model is loaded again beside it");
                given_up.cancel();
            }
            if hangs.is_some() || faults >= MOST_FAULTS {
                self.load_again().await;
                faults = 0;
            }
        }
    }

    /// Loads the model, for as long as it takes.
    async fn load_again(&mut self) {
        let mut pause = RETRY.0;
        loop {
            match loader::load(self.source.clone()).await {
                Ok(pipeline) => {
                    self.pipeline = pipeline;
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the model cannot be loaded again; trying on");
                    self.state.send_replace(BatchState::Failed(error.to_string()));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

/// Faults in a row, each within a few steps, after which the model itself is taken for broken.
const MOST_FAULTS: u32 = 3;
/// Steps after which an engine is taken for sound.
const STEADY: u64 = 64;

/// Begins an engine's thread. The receiver ends with the thread.
fn begin(inputs: EngineInputs) -> Option<oneshot::Receiver<()>> {
    let (alive, ended) = oneshot::channel::<()>();
    let begun = std::thread::Builder::new().name("engine".into()).spawn(move || {
        let _alive = alive;
        // candle's own operations run in the pool of the thread that calls them; a hand-over to another thread would take longer
        // than most of them.
        let pool = ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
        if let Err(error) = &pool {
            tracing::warn!(%error, "the engine's thread has no pool of its own, and is slower");
        }
        EngineLoop::new(inputs).run();
    });
    begun.inspect_err(|error| tracing::error!(%error, "a thread for the engine cannot be begun")).ok().map(|_| ended)
}
