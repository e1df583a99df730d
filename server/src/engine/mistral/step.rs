//! One generation, token by token, on the engine's own thread. Everything happens in the logits processor: it picks the
//! token, detokenises, matches stop strings, sends the delta, and then tells the engine, by logits that leave no choice,
//! which token to go on with or that the sequence is over. The engine's own sampling, stopping and streaming are not used.

use std::sync::{Arc, Mutex, TryLockError};

use candle_core::{Result, Tensor};
use mistralrs_core::CustomLogitsProcessor;
use tokio::sync::mpsc;

use super::{
    threads::{Helpers, lock},
    tokens::Detokenizer,
};
use crate::engine::{Delta, Finish, GenerateRequest, Sampler, Sampling, decoder::Decoder};

/// The logits processor of one generation.
pub struct Steps {
    state: Mutex<State>,
    helpers: Arc<Helpers>,
    /// Ends the sequence in the engine.
    end: u32,
}

/// What a run has said until it was fenced.
pub struct Fenced {
    pub picked: Vec<u32>,
    /// The last delta was sent.
    pub finished: bool,
}

struct State {
    /// Has room for the whole reply. Weak, so that the channel closes when the slot is free and not when the engine happens
    /// to drop its last reference.
    sender: mpsc::WeakSender<Delta>,
    decoder: Decoder<Detokenizer>,
    sampler: Sampler,
    cancel: tokio_util::sync::CancellationToken,
    eos: Arc<[u32]>,
    /// Output tokens at which it ends.
    max: u64,
    /// The tokens this run has picked and said.
    picked: Vec<u32>,
    finished: bool,
}

impl Steps {
    /// `max` is the bound on the whole output, `request.output` included.
    pub fn new(
        request: &GenerateRequest,
        max: u64,
        detokenizer: Detokenizer,
        eos: Arc<[u32]>,
        end: u32,
        helpers: Arc<Helpers>,
        sender: &mpsc::Sender<Delta>,
    ) -> Self {
        let mut decoder = Decoder::new(detokenizer, request.stop.clone());
        let mut sampler = Sampler::new(request.sampling.clone(), &request.prompt);
        let mut stopped = None;
        for token in &request.output {
            // Its text has been shown already.
            let (_, finish) = decoder.push(*token);
            sampler.push(*token);
            stopped = stopped.or(finish);
        }
        let mut state = State {
            sender: sender.downgrade(),
            decoder,
            sampler,
            cancel: request.cancel.clone(),
            eos,
            max,
            picked: Vec::new(),
            finished: false,
        };
        // A continued output may already have its end.
        if stopped.is_some() {
            state.finish(Vec::new(), String::new(), Finish::Stop);
        } else if state.sampler.position() >= state.max {
            let rest = state.decoder.finish();
            state.finish(Vec::new(), rest, Finish::Length);
        }
        Self { state: Mutex::new(state), helpers, end }
    }

    /// Makes the engine's thread a member of its pool and ends at once.
    pub fn warm_up(end: u32, detokenizer: Detokenizer, helpers: Arc<Helpers>) -> Self {
        let (sender, _) = mpsc::channel(1);
        let state = State {
            sender: sender.downgrade(),
            decoder: Decoder::new(detokenizer, Vec::new()),
            sampler: Sampler::new(Sampling::default(), &[]),
            cancel: tokio_util::sync::CancellationToken::new(),
            eos: Arc::new([]),
            max: 0,
            picked: Vec::new(),
            finished: true,
        };
        Self { state: Mutex::new(state), helpers, end }
    }

    /// Sends the last delta now, unless one was sent. The engine follows at its next step.
    pub fn finish(&self, finish: Finish) {
        let mut state = lock(&self.state);
        if !state.finished {
            let rest = state.decoder.finish();
            state.finish(Vec::new(), rest, finish);
        }
    }

    pub fn finished(&self) -> bool {
        lock(&self.state).finished
    }

    /// The tokens this run has picked so far.
    pub fn picked(&self) -> Vec<u32> {
        lock(&self.state).picked.clone()
    }

    /// [`Self::finish`], unless a step is under way.
    pub fn try_finish(&self, finish: Finish) -> Option<()> {
        let mut state = self.state.try_lock().ok()?;
        if !state.finished {
            let rest = state.decoder.finish();
            state.finish(Vec::new(), rest, finish);
        }
        Some(())
    }

    /// Lets nothing be said any more, whenever the engine wakes up, and returns what was; unless a step is under way.
    pub fn try_fence(&self) -> Option<Fenced> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            // Its step panicked: before anything was said, or after.
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let finished = std::mem::replace(&mut state.finished, true);
        Some(Fenced { picked: state.picked.clone(), finished })
    }
}

impl CustomLogitsProcessor for Steps {
    /// `logits`: f32 of shape (vocabulary). Returns the same shape with 1 at the token to go on with and 0 elsewhere, of
    /// which the engine takes the largest.
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> Result<Tensor> {
        self.helpers.enter();
        let mut values = logits.to_vec1::<f32>()?;
        let token = lock(&self.state).step(&mut values).unwrap_or_else(|| {
            self.helpers.rest();
            self.end
        });
        let mut choice = vec![0f32; values.len()];
        match choice.get_mut(token as usize) {
            Some(place) => *place = 1.0,
            None => candle_core::bail!("token {token} is outside the vocabulary of {}", choice.len()),
        }
        let len = choice.len();
        Tensor::from_vec(choice, len, logits.device())
    }
}

impl State {
    /// The token to go on with, or none when the generation is over.
    fn step(&mut self, logits: &mut [f32]) -> Option<u32> {
        if self.finished {
            return None;
        }
        if self.cancel.is_cancelled() {
            let rest = self.decoder.finish();
            self.finish(Vec::new(), rest, Finish::Cancelled);
            return None;
        }
        let token = self.sampler.pick(logits);
        if self.eos.contains(&token) {
            let rest = self.decoder.finish();
            self.finish(Vec::new(), rest, Finish::Stop);
            return None;
        }
        self.sampler.push(token);
        let (mut text, stop) = self.decoder.push(token);
        if let Some(stop) = stop {
            self.finish(vec![token], text, stop);
            return None;
        }
        if self.sampler.position() >= self.max {
            text.push_str(&self.decoder.finish());
            self.finish(vec![token], text, Finish::Length);
            return None;
        }
        self.send(Delta { tokens: vec![token], text, ..Delta::default() }).then_some(token)
    }

    fn finish(&mut self, tokens: Vec<u32>, text: String, finish: Finish) {
        self.send(Delta { tokens, text, finish: Some(finish), ..Delta::default() });
        self.finished = true;
    }

    /// False, and the generation is over, where nobody reads any more.
    fn send(&mut self, delta: Delta) -> bool {
        let tokens = delta.tokens.clone();
        let sent = self.sender.upgrade().is_some_and(|sender| sender.try_send(delta).is_ok());
        if sent {
            self.picked.extend(tokens);
        }
        self.finished |= !sent;
        sent
    }
}
