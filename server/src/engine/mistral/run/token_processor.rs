//! One generation, token by token. The engine's thread brings the logits; the token is picked here, detokenised, matched
//! against stop strings and the grammar, and sent as a delta before the engine goes on with it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::{
    Delta, Finish, GenerateRequest, Logprobs, Sampler,
    decoder::Decoder,
    logprobs,
    mistral::model::shared::Shared,
    text::{
        constrained::{Constraint, Pushed},
        model::Detokenizer,
    },
};

/// The state of one generation, shared by the engine's thread and the task that waits for its end.
pub struct TokenProcessor {
    state: Mutex<TokenState>,
    shared: Arc<Shared>,
}

/// What a generation had produced when it was fenced.
pub struct OutputSnapshot {
    /// Tokens that were sent since the processor was made.
    pub tokens: Vec<u32>,
    /// Whether the last delta was sent.
    pub finished: bool,
}

struct TokenState {
    /// Has room for the whole reply. Weak, so that the channel closes when the generation's task ends, whatever the engine
    /// still holds.
    sender: mpsc::WeakSender<Delta>,
    decoder: Decoder<Detokenizer>,
    sampler: Sampler,
    grammar: Option<Constraint>,
    /// How many of the likeliest tokens are sent with each, where any are.
    logprobs: Option<u8>,
    cancel: CancellationToken,
    /// Sent with the next delta.
    cached_tokens: Option<u32>,
    /// Whether the output has no token from before this processor.
    is_first: bool,
    /// Output tokens at which the generation ends.
    max: u64,
    sent: Vec<u32>,
    finished: bool,
}

impl TokenProcessor {
    /// `max`: bound on the whole output, `request.output` included. `grammar`: the request's, after its output. `sender` has
    /// room for the whole reply.
    pub fn new(
        shared: &Arc<Shared>,
        request: &GenerateRequest,
        max: u64,
        grammar: Option<Constraint>,
        sender: &mpsc::Sender<Delta>,
    ) -> Self {
        let mut decoder = Decoder::new(shared.tokens.bytes(), request.stop.clone());
        let mut sampler = Sampler::new(request.sampling.clone(), &request.prompt);
        let mut stopped = None;
        for token in &request.output {
            // The text of these tokens was sent before.
            let (_, finish) = decoder.push(*token);
            sampler.push(*token);
            stopped = stopped.or(finish);
        }
        let complete = grammar.as_ref().is_some_and(Constraint::is_complete);
        let mut state = TokenState {
            sender: sender.downgrade(),
            decoder,
            sampler,
            grammar,
            logprobs: request.logprobs,
            cancel: request.cancel.clone(),
            cached_tokens: None,
            is_first: request.output.is_empty(),
            max,
            sent: Vec::new(),
            finished: false,
        };
        // A continued output may have its end already.
        if stopped.is_some() {
            state.finish(Delta::default(), Finish::Stop);
        } else if complete {
            state.end(Finish::Stop);
        } else if state.sampler.position() >= state.max && request.max_output_tokens > 0 {
            state.end(Finish::Length);
        }
        Self { state: Mutex::new(state), shared: shared.clone() }
    }

    /// Picks the token after the computed ones, by their logits, and sends it. None: the generation has ended.
    pub fn next(&self, logits: &mut [f32]) -> Option<u32> {
        self.state.lock().next(&self.shared, logits)
    }

    /// Whether nothing more is wanted: the last delta was sent, nobody reads any more, or the generation is cancelled, which
    /// this sends.
    pub fn has_ended(&self) -> bool {
        let mut state = self.state.lock();
        if !state.finished && state.cancel.is_cancelled() {
            state.end(Finish::Cancelled);
        }
        state.finished |= state.sender.upgrade().is_none_or(|sender| sender.is_closed());
        state.finished
    }

    /// Tells the client how many of the prompt's tokens were not computed, with the first delta. A sequence that begins again
    /// after it waited for blocks has sent that already.
    pub fn reused(&self, tokens: usize) {
        let mut state = self.state.lock();
        if state.is_first && state.sent.is_empty() {
            state.cached_tokens = Some(u32::try_from(tokens).unwrap_or(u32::MAX));
        }
    }

    /// Sends the last delta now, unless one was sent.
    pub fn finish(&self, finish: Finish) {
        let mut state = self.state.lock();
        if !state.finished {
            state.end(finish);
        }
    }

    /// [`Self::finish`], unless a step is under way. False if one is.
    pub fn try_finish(&self, finish: Finish) -> bool {
        let Some(mut state) = self.state.try_lock() else { return false };
        if !state.finished {
            state.end(finish);
        }
        true
    }

    /// Sends nothing any more, whenever the engine wakes up, and returns what was sent; None if a step is under way.
    pub fn try_fence(&self) -> Option<OutputSnapshot> {
        let mut state = self.state.try_lock()?;
        let finished = std::mem::replace(&mut state.finished, true);
        Some(OutputSnapshot { tokens: std::mem::take(&mut state.sent), finished })
    }

    /// Ends a generation whose step panicked.
    pub fn fail(&self, reason: String) {
        let mut state = self.state.lock();
        if !state.finished {
            // The decoder's state is not known.
            state.finish(Delta::default(), Finish::Failed(reason));
        }
    }
}

impl TokenState {
    fn next(&mut self, shared: &Shared, logits: &mut [f32]) -> Option<u32> {
        if self.finished {
            return None;
        }
        if self.cancel.is_cancelled() {
            self.end(Finish::Cancelled);
            return None;
        }
        // The prompt was all that was asked for.
        if self.sampler.position() >= self.max {
            self.end(Finish::Length);
            return None;
        }
        let raw = self.logprobs.map(|_| logits.to_vec());
        if let Some(grammar) = &mut self.grammar
            && let Err(error) = grammar.mask(logits, &shared.eos)
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
        let complete = match self.grammar.as_mut().map(|grammar| grammar.push(token, room)) {
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

    /// Completes an output that is held to a grammar, in one delta, because its bound is reached or because the grammar needs
    /// more work than is allowed. The model was not asked for these tokens, so they have no likelihoods.
    fn close(&mut self, reason: &str) {
        tracing::debug!(reason, "an output is closed");
        let closing = self.grammar.as_ref().map(|grammar| grammar.closing().to_vec()).unwrap_or_default();
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

    /// Ends the generation with the text that is held back.
    fn end(&mut self, finish: Finish) {
        let text = self.decoder.finish();
        self.finish(Delta { text, ..Delta::default() }, finish);
    }

    fn finish(&mut self, last: Delta, finish: Finish) {
        self.send(Delta { finish: Some(finish), ..last });
        self.finished = true;
    }

    /// False, and the generation is over, if nobody reads any more.
    fn send(&mut self, delta: Delta) -> bool {
        let tokens = delta.tokens.clone();
        let delta = Delta { cached_tokens: self.cached_tokens.take(), ..delta };
        let sent = self.sender.upgrade().is_some_and(|sender| sender.try_send(delta).is_ok());
        if sent {
            self.sent.extend(tokens);
        }
        self.finished |= !sent;
        sent
    }
}
