//! Makes deltas of logits, for one generation. The engine's thread passes the logits of each step. The next token is picked,
//! decoded, matched against stop strings and the grammar, and sent as a delta, before the engine computes it.

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

/// The output of one generation, shared by the engine's thread and the generation's task.
pub struct TokenProcessor {
    state: Mutex<TokenState>,
    shared: Arc<Shared>,
}

/// What a processor had sent when it was fenced.
pub struct OutputSnapshot {
    /// Tokens that were sent since the processor was made.
    pub tokens: Vec<u32>,
    /// Whether the last delta was sent.
    pub finished: bool,
}

struct TokenState {
    /// Has room for all deltas. Weak, so that the channel closes when the generation's task ends, even if the engine still holds
    /// this processor.
    sender: mpsc::WeakSender<Delta>,
    decoder: Decoder<Detokenizer>,
    sampler: Sampler,
    grammar: Option<Constraint>,
    /// The number of the likeliest tokens that are sent with each token; `None`: no log-probabilities are sent.
    logprobs: Option<u8>,
    cancel: CancellationToken,
    /// Tokens of the prompt that were not computed. Sent with the next delta.
    cached_tokens: Option<u32>,
    /// Whether the output had no token when this processor was made.
    is_first: bool,
    /// The most tokens of the whole output.
    max: u64,
    /// Tokens that this processor has sent.
    sent: Vec<u32>,
    finished: bool,
}

impl TokenProcessor {
    /// `max`: the most tokens of the whole output, `request.output` included. `grammar`: the request's, in its state after
    /// `request.output`. `sender` has room for all deltas.
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
        // A continued output may be complete already.
        if stopped.is_some() {
            state.finish(Delta::default(), Finish::Stop);
        } else if complete {
            state.end(Finish::Stop);
        } else if state.sampler.position() >= state.max && request.max_output_tokens > 0 {
            state.end(Finish::Length);
        }
        Self { state: Mutex::new(state), shared: shared.clone() }
    }

    /// Picks the next token from the logits of the last computed one, and sends it. Returns `None` if the generation has ended.
    pub fn next(&self, logits: &mut [f32]) -> Option<u32> {
        self.state.lock().next(&self.shared, logits)
    }

    /// Whether the generation has ended: the last delta was sent, the receiver is gone, or the generation is cancelled. Sends the
    /// last delta of a cancelled generation.
    pub fn has_ended(&self) -> bool {
        let mut state = self.state.lock();
        if !state.finished && state.cancel.is_cancelled() {
            state.end(Finish::Cancelled);
        }
        state.finished |= state.sender.upgrade().is_none_or(|sender| sender.is_closed());
        state.finished
    }

    /// Reports with the first delta how many of the prompt's tokens were not computed. Does nothing for a sequence that begins
    /// again, because it has reported its number before.
    pub fn reused(&self, tokens: usize) {
        let mut state = self.state.lock();
        if state.is_first && state.sent.is_empty() {
            state.cached_tokens = Some(u32::try_from(tokens).unwrap_or(u32::MAX));
        }
    }

    /// Sends the last delta now, unless it was sent.
    pub fn finish(&self, finish: Finish) {
        let mut state = self.state.lock();
        if !state.finished {
            state.end(finish);
        }
    }

    /// As [`Self::finish`], but returns `false` and does nothing while a token is picked.
    pub fn try_finish(&self, finish: Finish) -> bool {
        let Some(mut state) = self.state.try_lock() else { return false };
        if !state.finished {
            state.end(finish);
        }
        true
    }

    /// Stops all sending, even if the engine continues later, and returns what was sent. `None` while a token is picked.
    pub fn try_fence(&self) -> Option<OutputSnapshot> {
        let mut state = self.state.try_lock()?;
        let finished = std::mem::replace(&mut state.finished, true);
        Some(OutputSnapshot { tokens: std::mem::take(&mut state.sent), finished })
    }

    /// Ends a generation whose token could not be picked because of a panic.
    pub fn fail(&self, reason: String) {
        let mut state = self.state.lock();
        if !state.finished {
            // The panic may have damaged the decoder, so the text that it holds back is dropped.
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
        // Only with a bound of 0: the request wants the prompt computed and no output.
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

    /// Completes an output with a grammar in one delta, because its bound is reached or because the grammar needs more work than
    /// is allowed. The model did not compute logits for these tokens, so they have no log-probabilities.
    fn close(&mut self, reason: &str) {
        tracing::debug!(reason, "an output is completed without the model");
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

    /// Sends the last delta, with the text that the decoder holds back.
    fn end(&mut self, finish: Finish) {
        let text = self.decoder.finish();
        self.finish(Delta { text, ..Delta::default() }, finish);
    }

    fn finish(&mut self, last: Delta, finish: Finish) {
        self.send(Delta { finish: Some(finish), ..last });
        self.finished = true;
    }

    /// Sends a delta. If the receiver is gone, ends the generation and returns `false`.
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
