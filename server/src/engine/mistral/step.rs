//! One generation, token by token, on the engine's own thread. Everything happens in the logits processor: it picks the
//! token, detokenises, matches stop strings, sends the delta, and then tells the engine, by logits that leave no choice,
//! which token to go on with or that the sequence is over. The engine's own sampling, stopping and streaming are not used.

use std::sync::{Arc, Mutex, TryLockError};

use candle_core::{Result, Tensor};
use mistralrs_core::CustomLogitsProcessor;
use tokio::sync::mpsc;

use super::{
    grammar::{Held, Pushed},
    load::Shared,
    logits::{FirstLogits, Logits},
    threads::{Helpers, lock},
    tokens::Detokenizer,
};
use crate::engine::{Delta, Finish, GenerateRequest, Logprobs, Sampler, decoder::Decoder, logprobs};

/// The logits processor of one generation.
pub struct Steps {
    state: Mutex<State>,
    shared: Arc<Shared>,
    helpers: Arc<Helpers>,
}

/// What a run starts with beside its request.
pub struct Start<'a> {
    /// Bound on the whole output, `request.output` included.
    pub max: u64,
    /// The request's grammar after its output.
    pub held: Option<Held>,
    /// How many of the prompt's tokens the engine need not compute.
    pub cached_tokens: usize,
    /// Whether the engine runs nothing else. It is then given the prompt alone and makes the tokens of the output again. Their
    /// keys and values are then the same to the last bit as when they were first picked, which those of a prefill are not; on
    /// a CPU that costs no more. And its first logits are kept.
    pub alone: bool,
    /// Has room for the whole reply.
    pub sender: &'a mpsc::Sender<Delta>,
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
    held: Option<Held>,
    /// How many of the likeliest tokens are told, where any are.
    logprobs: Option<u8>,
    cancel: tokio_util::sync::CancellationToken,
    /// Told with the next delta.
    cached_tokens: Option<u32>,
    /// Output tokens at which it ends.
    max: u64,
    /// The tokens that the engine makes again, before any is picked.
    again: Vec<u32>,
    /// Those it has made in this run, again or for the first time.
    made: Vec<u32>,
    /// The tokens this run has picked and said.
    picked: Vec<u32>,
    /// Where they are to be kept.
    logits: Option<FirstLogits>,
    finished: bool,
}

impl Steps {
    pub fn new(shared: &Arc<Shared>, request: &GenerateRequest, start: Start, helpers: Arc<Helpers>) -> Self {
        let Start { max, held, cached_tokens, alone, sender } = start;
        let mut decoder = Decoder::new(shared.tokens.bytes(), request.stop.clone());
        let mut sampler = Sampler::new(request.sampling.clone(), &request.prompt);
        let mut stopped = None;
        for token in &request.output {
            // Its text has been shown already.
            let (_, finish) = decoder.push(*token);
            sampler.push(*token);
            stopped = stopped.or(finish);
        }
        let complete = held.as_ref().is_some_and(Held::is_complete);
        let first = request.output.is_empty();
        let mut state = State {
            sender: sender.downgrade(),
            decoder,
            sampler,
            held,
            logprobs: request.logprobs,
            cancel: request.cancel.clone(),
            cached_tokens: first.then(|| count(cached_tokens)),
            max,
            again: if alone { request.output.clone() } else { Vec::new() },
            made: Vec::new(),
            picked: Vec::new(),
            logits: alone.then(|| FirstLogits::of_prompt(request.prompt.len())),
            finished: false,
        };
        // A continued output may already have its end.
        if stopped.is_some() {
            state.finish(Delta::default(), Finish::Stop);
        } else if complete {
            state.end(Finish::Stop);
        } else if state.sampler.position() >= state.max && request.max_output_tokens > 0 {
            state.end(Finish::Length);
        }
        Self { state: Mutex::new(state), shared: shared.clone(), helpers }
    }

    /// Sends the last delta now, unless one was sent. The engine follows at its next step.
    pub fn finish(&self, finish: Finish) {
        let mut state = lock(&self.state);
        if !state.finished {
            state.end(finish);
        }
    }

    pub fn finished(&self) -> bool {
        lock(&self.state).finished
    }

    /// The tokens that the engine has made in this run so far, again or for the first time.
    pub fn made(&self) -> Vec<u32> {
        lock(&self.state).made.clone()
    }

    /// Picks a token by logits that were kept, as if the engine had given them. None when the generation is over.
    pub fn recall(&self, logits: &Logits) -> Option<u32> {
        let mut state = lock(&self.state);
        state.keep(|| logits.clone());
        state.step(&self.shared, &mut logits.to_vec())
    }

    /// The engine is given the tokens that were recalled, together with the prompt.
    pub fn give_recalled(&self) {
        let state = &mut *lock(&self.state);
        state.again.drain(..state.made.len().min(state.again.len()));
        state.made.clear();
    }

    /// The engine makes the tokens that were recalled again, and need not compute `cached_tokens` of the prompt.
    pub fn make_recalled(&self, cached_tokens: usize) {
        let state = &mut *lock(&self.state);
        // Of a continued output that was told when it began. Told now, for the slot may break before the next token.
        if state.again.is_empty() && !state.finished {
            state.cached_tokens = Some(count(cached_tokens));
            state.send(Delta::default());
        }
        let rest = state.again.split_off(state.made.len().min(state.again.len()));
        state.again = std::mem::take(&mut state.made);
        state.again.extend(rest);
    }

    pub fn first_logits(&self) -> FirstLogits {
        lock(&self.state).logits.take().unwrap_or_default()
    }

    /// [`Self::finish`], unless a step is under way.
    pub fn try_finish(&self, finish: Finish) -> Option<()> {
        let mut state = self.state.try_lock().ok()?;
        if !state.finished {
            state.end(finish);
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
        let mut state = lock(&self.state);
        state.keep(|| values.as_slice().into());
        let token = state.step(&self.shared, &mut values).unwrap_or_else(|| {
            self.helpers.rest();
            self.shared.end
        });
        only(token, logits)
    }
}

/// A logits processor that makes the engine's thread a member of its pool and ends at once.
pub struct AtOnce {
    pub helpers: Arc<Helpers>,
    pub end: u32,
}

impl CustomLogitsProcessor for AtOnce {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> Result<Tensor> {
        self.helpers.enter();
        self.helpers.rest();
        only(self.end, logits)
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// Logits that leave no choice, in the shape of `logits`.
fn only(token: u32, logits: &Tensor) -> Result<Tensor> {
    let vocabulary = logits.elem_count();
    let mut choice = vec![0f32; vocabulary];
    match choice.get_mut(token as usize) {
        Some(place) => *place = 1.0,
        None => candle_core::bail!("token {token} is outside the vocabulary of {vocabulary}"),
    }
    Tensor::from_vec(choice, vocabulary, logits.device())
}

impl State {
    /// Keeps the logits that choose the next token, if it is one of the output's first.
    fn keep(&mut self, values: impl FnOnce() -> Logits) {
        let picks = !self.finished && self.made.len() >= self.again.len();
        if let Some(logits) = self.logits.as_mut().filter(|_| picks) {
            logits.keep(self.sampler.position(), values);
        }
    }

    /// The token to go on with, or none when the generation is over.
    fn step(&mut self, shared: &Shared, logits: &mut [f32]) -> Option<u32> {
        let token = self.next(shared, logits)?;
        self.made.push(token);
        Some(token)
    }

    fn next(&mut self, shared: &Shared, logits: &mut [f32]) -> Option<u32> {
        if self.finished {
            return None;
        }
        if self.cancel.is_cancelled() {
            self.end(Finish::Cancelled);
            return None;
        }
        if let Some(token) = self.again.get(self.made.len()) {
            return Some(*token);
        }
        // The prompt was all that was asked for.
        if self.sampler.position() >= self.max {
            self.end(Finish::Length);
            return None;
        }
        let raw = self.logprobs.map(|_| logits.to_vec());
        if let Some(held) = &mut self.held
            && let Err(error) = held.mask(logits, &shared.eos)
        {
            self.close(&error);
            return None;
        }
        let token = self.sampler.pick(logits);
        if shared.eos.contains(&token) {
            self.end(Finish::Stop);
            return None;
        }
        let room = self.max - self.sampler.position() - 1;
        let complete = match self.held.as_mut().map(|held| held.push(token, room)) {
            None | Some(Ok(Pushed::Open)) => false,
            Some(Ok(Pushed::Complete)) => true,
            Some(Ok(Pushed::NoRoom)) => {
                self.close("no room");
                return None;
            }
            Some(Err(error)) => {
                self.close(&error);
                return None;
            }
        };
        let logprobs = raw.into_iter().map(|raw| self.likelihoods(shared, &raw, token)).collect();
        self.sampler.push(token);
        let (text, stop) = self.decoder.push(token);
        let delta = Delta { tokens: vec![token], text, logprobs, ..Delta::default() };
        if let Some(stop) = stop {
            self.finish(delta, stop);
            return None;
        }
        if complete || room == 0 {
            let text = delta.text + &self.decoder.finish();
            self.finish(Delta { text, ..delta }, if complete { Finish::Stop } else { Finish::Length });
            return None;
        }
        self.send(delta).then_some(token)
    }

    fn likelihoods(&self, shared: &Shared, raw: &[f32], token: u32) -> Logprobs {
        logprobs::of(raw, token, self.logprobs.unwrap_or(0), |token| shared.vocabulary.tok_trie().decode(&[token]))
    }

    /// Completes the output that is held to a grammar, in one delta: its bound is reached, or the grammar asks for more work
    /// than is allowed. The model was not asked for these tokens, so they have no likelihoods.
    fn close(&mut self, reason: &str) {
        tracing::debug!(reason, "an output is closed");
        let closing = self.held.as_ref().map(|held| held.closing().to_vec()).unwrap_or_default();
        let mut delta = Delta::default();
        for token in closing {
            let (text, stop) = self.decoder.push(token);
            delta.tokens.push(token);
            delta.text.push_str(&text);
            if let Some(stop) = stop {
                return self.finish(delta, stop);
            }
        }
        delta.text.push_str(&self.decoder.finish());
        self.finish(delta, Finish::Length);
    }

    /// Ends it with the text that is held back.
    fn end(&mut self, finish: Finish) {
        let text = self.decoder.finish();
        self.finish(Delta { text, ..Delta::default() }, finish);
    }

    fn finish(&mut self, last: Delta, finish: Finish) {
        self.send(Delta { finish: Some(finish), ..last });
        self.finished = true;
    }

    /// False, and the generation is over, where nobody reads any more.
    fn send(&mut self, delta: Delta) -> bool {
        let tokens = delta.tokens.clone();
        let delta = Delta { cached_tokens: self.cached_tokens.take(), ..delta };
        let sent = self.sender.upgrade().is_some_and(|sender| sender.try_send(delta).is_ok());
        if sent {
            self.picked.extend(tokens);
        }
        self.finished |= !sent;
        sent
    }
}
