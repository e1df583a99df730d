//! One slot: an engine with its own copy of the model and its own threads, which runs one sequence at a time.

use std::{sync::Arc, time::Duration};

use candle_core::{Result as CandleResult, Tensor};
use mistralrs_core::{
    Constraint, CustomLogitsProcessor, NormalRequest, Request, RequestMessage, Response, SamplingParams, StopTokens,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    kv::Home,
    load::{Loaded, Shared},
    source::Source,
    step::AtOnce,
    threads::Helpers,
    watchdog::{Expected, Watch},
};
use crate::engine::EngineError;

/// A token outside every vocabulary. (The largest number means "no token" to candle and gives zeros.)
const NO_TOKEN: u32 = u32::MAX - 1;

/// How long a run of one token is expected to take, of the slowest model.
const STARTS: Expected = Expected { prefill: Duration::from_secs(2), step: Duration::from_secs(2) };

/// How a run went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The engine answered with an error and goes on. What its cache holds is not known.
    #[error("the engine refused the sequence: {0}")]
    Error(String),
    /// The engine's thread has ended.
    #[error("the engine crashed")]
    Dead,
    /// The engine says nothing. It cannot be stopped, only left alone.
    #[error("the engine hangs: {0}")]
    Hung(String),
}

/// What an engine runs.
pub struct Sequence {
    pub tokens: Vec<u32>,
    /// Tokens of output at which the engine ends it by itself.
    pub max_len: usize,
    /// Ends it when `steps` choose it.
    pub end: u32,
    /// Comes before `end` where they choose it at once. See [`Watched`].
    pub spare: u32,
    pub steps: Arc<dyn CustomLogitsProcessor>,
    pub watch: Arc<Watch>,
}

pub struct Slot {
    source: Arc<Source>,
    loaded: Loaded,
    /// Sequences that it runs at once.
    pub running: usize,
    threads: usize,
    pub helpers: Arc<Helpers>,
}

impl Slot {
    pub fn new(source: Arc<Source>, loaded: Loaded, running: usize, threads: usize) -> Self {
        // With several sequences the engine samples on threads of the process's pool.
        let helpers = Arc::new(if running > 1 { Helpers::none() } else { Helpers::new(threads) });
        Self { source, loaded, running, threads, helpers }
    }

    /// Another slot like this one, ready to run.
    pub async fn again(&self, shared: &Shared) -> Result<Self, EngineError> {
        let loaded = load(self.source.clone(), self.running).await?;
        let slot = Self::new(self.source.clone(), loaded, self.running, self.threads);
        slot.warm_up(shared, shared.end)
            .await
            .map_err(|broken| EngineError::Load(format!("the engine does not start: {broken}")))?;
        Ok(slot)
    }

    /// Runs a sequence to its end: `steps` decides where that is. The engine is idle again when this returns, but where it
    /// hangs.
    pub async fn run(&self, sequence: Sequence, expected: Expected) -> Result<(), Broken> {
        // Room for the one answer, so that the engine never waits for it to be read.
        let (sender, mut answer) = mpsc::channel(4);
        let mut sampling = SamplingParams::neutral();
        // None would mean 1; 0 takes the largest logit.
        sampling.temperature = Some(0.0);
        sampling.max_len = Some(sequence.max_len);
        sampling.stop_toks = Some(StopTokens::Ids(vec![sequence.end]));
        let Sequence { tokens, end, spare, steps, watch, .. } = sequence;
        let watched = Watched { steps, end, spare, watch: watch.clone() };
        let request = Request::Normal(Box::new(NormalRequest {
            messages: RequestMessage::CompletionTokens(tokens),
            sampling_params: sampling,
            response: sender,
            return_logprobs: false,
            is_streaming: false,
            id: 0,
            constraint: Constraint::None,
            suffix: None,
            tools: None,
            tool_choice: None,
            logits_processors: Some(vec![Arc::new(watched)]),
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        }));
        let requests = self.loaded.engine.get_sender(None).map_err(|_| Broken::Dead)?;
        requests.send(request).await.map_err(|_| Broken::Dead)?;
        let answered = tokio::select! {
            answered = answer.recv() => answered,
            reason = watch.hangs(self.helpers.threads(), expected) => {
                // An engine that wakes up later finds somebody who hears it out, ends, and gives its memory back.
                tokio::spawn(async move { answer.recv().await });
                return Err(Broken::Hung(reason));
            }
        };
        match answered {
            Some(Response::CompletionDone(_)) => Ok(()),
            Some(Response::CompletionModelError(error, _)) => Err(Broken::Error(error)),
            Some(Response::InternalError(error) | Response::ValidationError(error)) => {
                Err(Broken::Error(error.to_string()))
            }
            Some(_) => Err(Broken::Error("an answer of a kind that was not asked for".into())),
            None => Err(Broken::Dead),
        }
    }

    /// Builds the threads' pool with a request of one token. The error says that `end` cannot end a sequence.
    pub async fn warm_up(&self, shared: &Shared, end: u32) -> Result<(), Broken> {
        self.run(self.ends_at_once(shared, vec![end], end), STARTS).await?;
        self.empty_cache(shared).await
    }

    /// Empties the engine's prefix cache, which never evicts on CPU. There is no call for that; but the engine empties it
    /// whenever a forward pass fails, and a token outside the vocabulary makes it fail before any work is done.
    pub async fn empty_cache(&self, shared: &Shared) -> Result<(), Broken> {
        match self.run(self.piece(shared, vec![NO_TOKEN]), STARTS).await {
            Err(Broken::Error(_)) => Ok(()),
            Ok(()) => Err(Broken::Error("the engine accepted a token outside its vocabulary".into())),
            Err(broken) => Err(broken),
        }
    }

    /// Where the engine has the keys and values of the sequence that has just ended.
    pub async fn home(&self) -> Option<Home> {
        Home::of(&*self.loaded.pipeline.lock().await)
    }

    #[cfg(test)]
    pub fn engine(&self) -> &mistralrs_core::MistralRs {
        &self.loaded.engine
    }

    /// The model in it; gone when its memory is given back.
    #[cfg(test)]
    pub fn model(&self) -> &Arc<tokio::sync::Mutex<dyn mistralrs_core::Pipeline + Send + Sync>> {
        &self.loaded.pipeline
    }

    /// The beginning of a prompt, of which only the KV is wanted.
    pub fn piece(&self, shared: &Shared, tokens: Vec<u32>) -> Sequence {
        self.ends_at_once(shared, tokens, shared.end)
    }

    fn ends_at_once(&self, shared: &Shared, tokens: Vec<u32>, end: u32) -> Sequence {
        let steps = Arc::new(AtOnce { helpers: self.helpers.clone(), end });
        let spare = shared.spare(&[end]);
        Sequence { tokens, max_len: 3, end, spare, steps, watch: Arc::new(Watch::new()) }
    }
}

/// Marks the steps of a run, and sees to it that no sequence ends with its first. The engine takes one that does for running
/// and makes another step after it has answered, in which it reads and keeps KV that it should not; so another token goes
/// first, and the end comes with the second step.
struct Watched {
    steps: Arc<dyn CustomLogitsProcessor>,
    end: u32,
    spare: u32,
    watch: Arc<Watch>,
}

impl CustomLogitsProcessor for Watched {
    fn apply(&self, logits: &Tensor, context: &[u32]) -> CandleResult<Tensor> {
        self.watch.step();
        let choice = self.steps.apply(logits, context)?;
        let ends_at_once = self.watch.steps() == 1 && choice.get(self.end as usize)?.to_scalar::<f32>()? > 0.0;
        if ends_at_once {
            self.watch.end_at_once();
            let token = Tensor::new(&[self.spare], logits.device())?;
            return choice.zeros_like()?.scatter_add(&token, &Tensor::ones(1, choice.dtype(), choice.device())?, 0);
        }
        Ok(choice)
    }
}

/// [`Source::load`] on a thread of its own, outside the runtime: within one the engine runs a request of its own while it
/// starts, the KV of which would stay.
pub async fn load(source: Arc<Source>, running: usize) -> Result<Loaded, EngineError> {
    let (sender, loaded) = oneshot::channel();
    let path = source.shown().to_owned();
    std::thread::Builder::new()
        .name("model-load".into())
        .spawn(move || drop(sender.send(source.load(running))))
        .map_err(|error| EngineError::Load(format!("cannot start a thread to load the model: {error}")))?;
    loaded
        .await
        .map_err(|_| EngineError::Load(format!("the engine cannot read {}; its panic is in the log", path.display())))?
}
