//! One slot: an engine with its own copy of the model and its own threads, which runs one sequence at a time.

use std::sync::{Arc, Mutex};

use mistralrs_core::{
    Constraint, CustomLogitsProcessor, MistralRs, NormalRequest, Request, RequestMessage, Response, SamplingParams,
    StopTokens,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    load::{Loaded, Shared},
    source::Source,
    step::Steps,
    threads::{Helpers, lock},
};
use crate::engine::EngineError;

/// A token outside every vocabulary. (The largest number means "no token" to candle and gives zeros.)
const NO_TOKEN: u32 = u32::MAX - 1;

/// How a run went wrong.
#[derive(Debug)]
pub enum Broken {
    /// The engine answered with an error and goes on; its cached KV is gone.
    Error(String),
    /// The engine is dead.
    Dead,
}

pub struct Slot {
    source: Arc<Source>,
    /// Sequences that it runs at once.
    running: usize,
    engine: Mutex<Arc<MistralRs>>,
    pub helpers: Arc<Helpers>,
}

impl Slot {
    pub fn new(source: Arc<Source>, engine: Arc<MistralRs>, running: usize, threads: usize) -> Self {
        // With several sequences the engine samples on threads of the process's pool.
        let helpers = if running > 1 { Helpers::none() } else { Helpers::new(threads) };
        Self { source, running, engine: Mutex::new(engine), helpers: Arc::new(helpers) }
    }

    /// Runs a sequence to its end: `steps` decides where that is. The engine is idle again when this returns.
    pub async fn run(
        &self,
        tokens: Vec<u32>,
        max_len: usize,
        end: u32,
        steps: Arc<dyn CustomLogitsProcessor>,
    ) -> Result<(), Broken> {
        // Room for the one answer, so that the engine never waits for it to be read.
        let (sender, mut answer) = mpsc::channel(4);
        let mut sampling = SamplingParams::neutral();
        // None would mean 1; 0 takes the largest logit.
        sampling.temperature = Some(0.0);
        sampling.max_len = Some(max_len);
        sampling.stop_toks = Some(StopTokens::Ids(vec![end]));
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
            logits_processors: Some(vec![steps]),
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        }));
        let engine = lock(&self.engine).clone();
        let requests = engine.get_sender(None).map_err(|_| Broken::Dead)?;
        requests.send(request).await.map_err(|_| Broken::Dead)?;
        match answer.recv().await {
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
        let steps = Steps::warm_up(end, shared.tokens.bytes(), self.helpers.clone());
        self.run(vec![end], 2, end, Arc::new(steps)).await
    }

    /// Empties the engine's prefix cache, which never evicts on CPU. There is no call for that; but the engine empties it
    /// whenever a forward pass fails, and a token outside the vocabulary makes it fail before any work is done.
    pub async fn empty_cache(&self, shared: &Shared) -> Result<(), Broken> {
        let steps = Steps::warm_up(shared.end, shared.tokens.bytes(), self.helpers.clone());
        match self.run(vec![NO_TOKEN], 2, shared.end, Arc::new(steps)).await {
            Err(Broken::Error(_)) => Ok(()),
            Err(Broken::Dead) => Err(Broken::Dead),
            Ok(()) => Err(Broken::Error("the engine accepted a token outside its vocabulary".into())),
        }
    }

    /// Loads the model again, after the engine has died: its state is not to be trusted.
    pub async fn reload(&self, shared: &Shared) -> Result<(), EngineError> {
        let loaded = load(self.source.clone(), self.running).await?;
        *lock(&self.engine) = loaded.engine;
        self.warm_up(shared, shared.end)
            .await
            .map_err(|broken| EngineError::Load(format!("the engine does not start: {broken:?}")))
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
