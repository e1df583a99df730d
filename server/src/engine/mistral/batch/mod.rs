//! The batch of one model: an engine's thread, which runs the model's sequences together, and its replacement after a fault.
//!
//! | file | owns |
//! |---|---|
//! | `engine` | the thread: receives sequences, computes steps, removes sequences |
//! | `schedule` | which sequences a step computes, and how many tokens of each |
//! | `step` | the inputs of one forward pass |
//! | `sequence` | one generation in the batch |
//! | `transfer` | blocks that are copied into and out of the cache |
//! | `throughput` | measured speed of steps |
//! | `pulse` | detection of a thread that hangs |
//! | `faults` | steps that fail on purpose, for tests |

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

/// The pause before an engine that could not be started is tried again: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Runs the sequences of one model. When it is dropped, its engine ends after its last sequence.
pub struct Batch {
    state: watch::Receiver<BatchState>,
    /// The most sequences that run at once.
    pub places: usize,
    /// Tokens whose keys and values fit the cache; `None` for a model that is not paged.
    pub tokens: Option<usize>,
    /// `None` if keys and values are not stored outside this process.
    pub exchange: Option<Arc<KvExchange>>,
    cached: CachedNames,
    /// The model's name in the block names of `cached`.
    model: String,
    ids: AtomicU64,
    /// Stops the supervisor when the batch is dropped.
    _supervisor: tokio_util::sync::DropGuard,
}

#[derive(Clone)]
enum BatchState {
    Runs(Arc<RunningEngine>),
    /// An engine is being started.
    Begins,
    /// An engine could not be started, for this reason. The supervisor tries again.
    Failed(String),
}

struct RunningEngine {
    submissions: mpsc::Sender<Submission>,
    pulse: Arc<Pulse>,
    /// Cancelled when the engine is abandoned because it hangs.
    given_up: CancellationToken,
}

/// The reason why a sequence did not run to its end.
#[derive(Debug)]
pub struct Broken {
    pub reason: String,
    /// The failed step computed this sequence.
    pub was_running: bool,
    /// No engine runs, and none can be started now: the generation fails.
    pub is_final: bool,
}

/// Starts engines, one after the other, each when the last has failed.
struct Supervisor {
    source: Arc<ModelSource>,
    pipeline: LoadedModel,
    places: usize,
    blocks: usize,
    cached: CachedNames,
    exchange: Option<Arc<KvExchange>>,
    state: watch::Sender<BatchState>,
}

impl Batch {
    /// Starts an engine on a loaded model. Must be called inside the runtime.
    pub fn new(source: Arc<ModelSource>, pipeline: LoadedModel, sharing: Option<KvSharing>) -> Self {
        let metadata = pipeline.try_lock().ok().map(|pipeline| pipeline.get_metadata());
        let config = metadata.as_ref().and_then(|metadata| metadata.cache_config.clone());
        let tokens = config.map(|config| config.num_gpu_blocks * config.block_size);
        let context = source.info.context_length as usize;
        // A model that is not paged runs one sequence. Its blocks are only counted, they hold nothing.
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
        let supervisor =
            Supervisor { source, pipeline, places, blocks, cached: cached.clone(), exchange: exchange.clone(), state };
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = supervisor.run() => {}
            }
        });
        let ids = AtomicU64::new(0);
        Self { state: states, places, tokens, exchange, cached, model, ids, _supervisor: stop.drop_guard() }
    }

    /// Runs a sequence until its processor ends it.
    ///
    /// # Errors
    /// The engine failed before that. The sequence's processor knows what was sent until then.
    pub async fn run(&self, mut submission: Submission, ended: oneshot::Receiver<SequenceEnd>) -> Result<(), Broken> {
        let id = submission.id;
        let broken = |reason: &str, is_final| Broken { reason: reason.into(), was_running: false, is_final };
        let mut states = self.state.clone();
        let running = loop {
            let state = states.borrow_and_update().clone();
            match state {
                BatchState::Runs(running) => match running.submissions.send(submission).await {
                    Ok(()) => break running,
                    // This engine has just ended; the supervisor starts another.
                    Err(back) => submission = back.0,
                },
                BatchState::Failed(reason) => return Err(broken(&reason, true)),
                BatchState::Begins => {}
            }
            if states.changed().await.is_err() {
                return Err(broken("the model's engine has ended and is not started again", true));
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

    /// The blocks of the running engine; `None` if no engine runs or the model is not paged.
    pub fn kv_blocks(&self) -> Option<KvBlocks> {
        self.tokens?;
        match &*self.state.borrow() {
            BatchState::Runs(running) => Some(running.pulse.blocks()),
            _ => None,
        }
    }

    /// Estimates how long it takes until the keys and values of a prompt's first tokens are cached. Missing ones are computed, or
    /// fetched if that is faster. Zero for a model that is not paged, because it caches none.
    pub fn prompt_time(&self, tenant: &str, tokens: &[u32]) -> Duration {
        if self.tokens.is_none() {
            return Duration::ZERO;
        }
        let cached = self.cached.count(BlockName::root(&self.model, tenant).chain(tokens)) * BLOCK;
        let missing = tokens.len().saturating_sub(cached);
        if missing == 0 {
            return Duration::ZERO;
        }
        let rate = match &*self.state.borrow() {
            BatchState::Runs(running) => running.pulse.prompt_rate(),
            _ => throughput::UNKNOWN_RATE,
        };
        let computing = Duration::from_secs_f64(missing as f64 / rate.max(1.0));
        let fetching = self.exchange.as_ref().and_then(|exchange| exchange.fetching(missing));
        fetching.map_or(computing, |fetching| fetching.min(computing))
    }

    /// Waits until an engine runs.
    pub async fn runs(&self) {
        let mut states = self.state.clone();
        let _ = states.wait_for(|state| matches!(state, BatchState::Runs(_))).await;
    }
}

impl Supervisor {
    /// Starts an engine, and a new one whenever one has failed. Never returns.
    async fn run(mut self) {
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
                self.state.send_replace(BatchState::Failed("a thread for the engine cannot be started".into()));
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
            faults = if pulse.steps() > SOUND_STEPS { 1 } else { faults + 1 };
            // A hanging thread never releases the pipeline, and engines that fail at once may have damaged it.
            if let Some(reason) = &hangs {
                tracing::error!(reason, "the engine hangs and is abandoned; the model is loaded again");
                given_up.cancel();
            }
            if hangs.is_some() || faults >= MAX_FAULTS {
                self.load_again().await;
                faults = 0;
            }
        }
    }

    /// Loads the model, and tries again until that succeeds.
    async fn load_again(&mut self) {
        let mut pause = RETRY.0;
        loop {
            match loader::load(self.source.clone()).await {
                Ok(pipeline) => {
                    self.pipeline = pipeline;
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the model cannot be loaded again; trying again after a pause");
                    self.state.send_replace(BatchState::Failed(error.to_string()));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

/// So many faults, each at most [`SOUND_STEPS`] steps after the one before, are taken for a broken model: it is loaded again.
const MAX_FAULTS: u32 = 3;
/// The most steps between two faults that count together.
const SOUND_STEPS: u64 = 64;

/// Starts an engine's thread. The receiver reports the end of the thread.
fn begin(inputs: EngineInputs) -> Option<oneshot::Receiver<()>> {
    let (alive, ended) = oneshot::channel::<()>();
    let begun = std::thread::Builder::new().name("engine".into()).spawn(move || {
        let _alive = alive;
        // candle runs its operations in the rayon pool of the calling thread. A pool of this thread alone avoids hand-overs to
        // other threads, which take longer than most of the operations.
        let pool = ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
        if let Err(error) = &pool {
            tracing::warn!(%error, "the engine's thread cannot have its own pool, so steps are slower");
        }
        EngineLoop::new(inputs).run();
    });
    begun.inspect_err(|error| tracing::error!(%error, "a thread for the engine cannot be started")).ok().map(|_| ended)
}
