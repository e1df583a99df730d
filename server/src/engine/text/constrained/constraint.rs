//! One output's place in its grammar: which tokens may come next, and how the output can be completed from there.

use std::sync::Arc;

use llguidance::Matcher;

use super::{completion::Closers, limits::MAX_COMPLETION};
use crate::engine::EngineError;

/// Tokens between two searches while no completion is known.
const SEARCH_EVERY: u64 = 8;
/// If no completion is found after a token and at most this many tokens more than the last completion needs are left, the output ends
/// with the last completion.
const MARGIN: usize = 32;

/// One output's place in its grammar.
pub struct Constraint {
    matcher: Matcher,
    closers: Arc<Closers>,
    texts: Arc<[Vec<u32>]>,
    /// Tokens that complete the output from here; empty if the output is complete. Absent if no completion is known: then an output
    /// that reaches its bound is cut.
    closing: Option<Vec<u32>>,
    /// Tokens of the output.
    length: u64,
}

/// The state of an output after a token.
#[derive(Debug, PartialEq)]
pub enum Pushed {
    /// More tokens may follow.
    Open,
    /// No token can follow.
    Complete,
    /// With this token the output might not be completed before its bound, so the caller must drop the token.
    NoRoom,
}

impl Constraint {
    /// Makes the constraint of an empty output. `closing` completes the empty output, if known; `max` bounds the output's tokens.
    pub(super) fn new(
        matcher: Matcher,
        closers: Arc<Closers>,
        texts: Arc<[Vec<u32>]>,
        closing: Option<Vec<u32>>,
        max: u64,
    ) -> Self {
        let closing = closing.filter(|closing| closing.len() as u64 <= max);
        Self { matcher, closers, texts, closing, length: 0 }
    }

    /// Sets the logits of all tokens to −∞ that may not come next. `eos` may come next if the output may end here.
    ///
    /// # Errors
    /// The step took more work than is allowed, or no token may follow.
    pub fn mask(&mut self, logits: &mut [f32], eos: &[u32]) -> Result<(), String> {
        let mut mask = self.matcher.compute_mask().map_err(|error| plain(&error.to_string()))?;
        if !self.matcher.is_accepting().map_err(|error| plain(&error.to_string()))? {
            // A grammar may name the end-of-sequence token itself.
            eos.iter().for_each(|token| mask.disallow_token(*token));
        }
        let mut left = 0;
        let known = mask.len().min(logits.len());
        mask.iter_entries(|allowed, token| match logits.get_mut(token) {
            Some(_) if allowed => left += 1,
            Some(logit) => *logit = f32::NEG_INFINITY,
            None => {}
        });
        if let Some(beyond) = logits.get_mut(known..) {
            beyond.fill(f32::NEG_INFINITY);
        }
        if left == 0 { Err("the grammar leaves no token".into()) } else { Ok(()) }
    }

    /// Adds a token that [`Self::mask`] allowed. `room`: how many more tokens the output may have after it.
    ///
    /// # Errors
    /// The token does not fit the grammar, or the step took more work than is allowed.
    pub fn push(&mut self, token: u32, room: u64) -> Result<Pushed, String> {
        self.matcher.consume_token(token).map_err(|error| plain(&error.to_string()))?;
        self.length += 1;
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(MAX_COMPLETION);
        let found = match &self.closing {
            Some(before) => self.closers.follow(&mut self.matcher, before, &self.texts, room),
            None if self.length.is_multiple_of(SEARCH_EVERY) => {
                self.closers.follow(&mut self.matcher, &[], &self.texts, room)
            }
            None => None,
        };
        if let (None, Some(before)) = (&found, &self.closing)
            && room <= before.len() + MARGIN
        {
            return Ok(Pushed::NoRoom);
        }
        self.closing = found;
        Ok(if self.matcher.is_stopped() { Pushed::Complete } else { Pushed::Open })
    }

    /// Tokens that complete the output, without a token for which [`Self::push`] returned `NoRoom` or an error. Empty if the output is
    /// complete or no completion is known.
    pub fn closing(&self) -> &[u32] {
        self.closing.as_deref().unwrap_or_default()
    }

    /// Whether no token can follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// Adds the tokens of an output that is continued, with the same steps as when they were picked, because the state depends on the
    /// tokens alone. `max` bounds the whole output.
    pub(super) fn replay(&mut self, output: &[u32], max: u64) -> Result<(), EngineError> {
        let unfit =
            |reason: &str| EngineError::Grammar(format!("the output to continue does not fit the grammar: {reason}"));
        for (at, token) in (1..).zip(output) {
            match self.push(*token, max.saturating_sub(at)) {
                Ok(Pushed::NoRoom) => return Err(unfit("there is no room to complete it")),
                Ok(_) => {}
                Err(error) => return Err(unfit(&error)),
            }
        }
        Ok(())
    }
}

/// Shortens a message of llguidance to one line, without its quotes of the grammar.
pub(super) fn plain(error: &str) -> String {
    let lines = error.lines().take_while(|line| !line.starts_with('<'));
    let short = lines.filter(|line| !line.starts_with(' ')).map(|line| line.chars().take(200).collect::<String>());
    short.take(4).collect::<Vec<_>>().join(" ")
}
