//! Engines: prompt tokens in, deltas out. This module owns the contract between the server and whatever produces tokens;
//! it knows nothing of responses, sockets or stores.
//!
//! `scripted` is deterministic and made for tests and load; `mistral` drives mistral.rs and is the only code that names it.

pub mod decoder;
pub mod kv;
pub mod logprobs;
pub mod model;
pub mod prompt;
pub mod sampler;
pub mod scripted;
pub mod stop;
pub mod text;

#[cfg(feature = "mistralrs")]
pub mod mistral;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use model::{Capacity, FetchedTokens, KvBlocks, ModelInfo, ModelStatus, ReloadError, Reloaded};
pub use prompt::{Message, Prompt, Role, ToolCall};
pub use sampler::{Sampler, Sampling};
pub use stop::StopStrings;

/// Everything an engine needs for one generation. It is complete: the same request gives the same tokens on any replica.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// The rendered prompt.
    pub prompt: Vec<u32>,
    /// Whose it is. Keys and values are reused within a tenant and never across.
    pub tenant: Arc<str>,
    /// Whether a later prompt is expected to begin with this one.
    pub reuse: kv::Reuse,
    /// Tokens already generated for this prompt. Not empty when a generation is continued after a loss: their text is not
    /// sent again, but it counts for stop strings, for the position of the sampler and for `max_output_tokens`.
    pub output: Vec<u32>,
    pub sampling: Sampling,
    /// The output ends before the first of them.
    pub stop: StopStrings,
    /// What the whole output must match. The engine closes what is open within `max_output_tokens` where it knows how to; an
    /// output that ends there otherwise is cut.
    pub grammar: Option<Grammar>,
    /// Log-probabilities of every token, with this many of the likeliest beside it, at most 20.
    pub logprobs: Option<u8>,
    /// Bound on the tokens of the whole output, `output` included. 0 computes the prompt's KV, to be reused, and ends.
    pub max_output_tokens: u32,
    /// When cancelled the engine ends the generation within one token, with [`Finish::Cancelled`].
    pub cancel: CancellationToken,
}

/// What an engine says, in order. The text of all deltas, joined, is the output.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// The token ids that this delta adds. The end-of-sequence token is not among them.
    pub tokens: Vec<u32>,
    /// The text that may be shown now. Empty while a character is incomplete or a stop string may be beginning; held text
    /// comes with a later delta, at the latest with the last one.
    pub text: String,
    /// One a token, where the request asked for them; none with the tokens that close an output at its bound, for which the
    /// model was not asked.
    pub logprobs: Vec<Logprobs>,
    /// How many of the prompt's tokens were not computed, because their keys and values were cached. On the first delta of an
    /// output.
    pub cached_tokens: Option<u32>,
    /// Set on the last delta, and only there.
    pub finish: Option<Finish>,
}

/// What the text of an output must match, and whose it is: compiling it counts as that tenant's work.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar {
    pub tenant: Arc<str>,
    pub rules: Rules,
}

/// The text of a grammar. A token whose text is shown, such as `<tool_call>` in many vocabularies, counts as its characters.
#[derive(Debug, Clone, PartialEq)]
pub enum Rules {
    JsonSchema(serde_json::Value),
    Regex(String),
    /// In llguidance's variant of Lark.
    Lark(String),
}

/// How likely the model found a token, and what it found likeliest at its place. Natural logarithms, of the model's own
/// distribution: before temperature, penalties and filters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logprobs {
    pub token: TokenLogprob,
    /// The likeliest first.
    pub top: Vec<TokenLogprob>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token's text; U+FFFD stands for bytes that are no whole character.
    pub token: String,
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

/// Why a generation ended.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", tag = "reason", content = "message")]
pub enum Finish {
    /// The model ended its reply, or a stop string was found.
    Stop,
    /// `max_output_tokens` or the context's end was reached.
    Length,
    /// The request's token was cancelled.
    Cancelled,
    /// The client steers: a successor goes on from here. Not the engine's to say.
    Steered,
    /// The engine broke; the text says how, for the log and never for the client.
    Failed(String),
    /// It never began; code and message are for the client. Not the engine's to say.
    Refused { code: String, message: String },
}

/// What an engine can answer with before it has started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("unknown model `{0}`")]
    UnknownModel(String),
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    /// The prompt has more tokens than it may have: so many at least.
    #[error("the prompt has more than {tokens} tokens")]
    TooLong { tokens: usize },
    /// The grammar cannot be compiled.
    #[error("{0}")]
    Grammar(String),
    /// Others' grammars are compiled first.
    #[error("too many grammars wait to be compiled")]
    Busy { retry_after_ms: u64 },
    #[error("{0}")]
    Load(String),
}

impl EngineError {
    /// Why a model cannot be loaded, without the backtrace that candle prints in its errors.
    pub fn load(reason: impl std::fmt::Display) -> Self {
        let reason = reason.to_string();
        let lines: Vec<&str> = reason.lines().take_while(|line| !line.trim_start().starts_with("0: ")).collect();
        Self::Load(lines.join("\n"))
    }
}

/// Produces deltas. Implementations are shared by all connections and never block the caller, but for what says so.
pub trait Engine: Send + Sync + 'static {
    /// The models it serves; the first is the default.
    fn models(&self) -> Vec<Arc<ModelInfo>>;

    /// Renders a prompt by the model's chat template, ready for the reply to begin, and tokenises it. Takes milliseconds of
    /// computation where the prompt is long.
    fn tokenize(&self, model: &str, prompt: &Prompt) -> Result<Vec<u32>, EngineError>;

    /// Whether outputs can be held to the grammar. Blocks while it is compiled, for seconds at most.
    fn check(&self, model: &str, grammar: &Grammar, max_output_tokens: u32) -> Result<(), EngineError>;

    /// What can run at once of the model. Admission never asks for more sequences.
    fn capacity(&self, model: &str) -> Capacity;

    /// How many blocks of keys and values are used now; `None` without blocks.
    fn kv_blocks(&self, model: &str) -> Option<KvBlocks>;

    /// What the model did not have to compute because a store beyond this process had it; `None` if there is no such store.
    fn fetched_tokens(&self, _model: &str) -> Option<FetchedTokens> {
        None
    }

    /// Estimates how long it takes until the keys and values of a prompt's first tokens are in the engine's cache, whether they are
    /// computed or fetched; those that are there already take no time. Zero for an engine without a cache.
    fn reading(&self, _model: &str, _tenant: &str, _tokens: &[u32]) -> Duration {
        Duration::ZERO
    }

    /// Which models are loaded.
    fn status(&self) -> Vec<ModelStatus>;

    /// Loads the model's files again beside it and switches: generations that run end on the old one, new ones go to the
    /// new one. Goes on when the future is dropped.
    fn reload<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<Reloaded, ReloadError>>;

    /// Returns when the keys and values of what has ended are stored, where they are stored beyond this process.
    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Starts a generation. The channel has room for the whole reply, so the engine never waits for its reader. It closes
    /// when the sequence has left the engine, which is after the delta with `finish`; closed without one, the engine has crashed.
    fn generate(&self, model: &str, request: GenerateRequest) -> Result<mpsc::Receiver<Delta>, EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backtrace_is_no_part_of_the_reason() {
        let reason =
            "x.gguf: unknown magic\n   0: candle_core::error::Error::bt\n             at /src/error.rs:7\n   1: main";
        assert_eq!(EngineError::load(reason).to_string(), "x.gguf: unknown magic");
        assert_eq!(EngineError::load("two\nlines").to_string(), "two\nlines");
    }
}
