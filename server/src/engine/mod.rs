//! Engines: prompt tokens in, deltas out. This module owns the contract between the server and the code that produces tokens. It
//! does not depend on responses, sockets or stores.
//!
//! `scripted` is deterministic, for tests and load tests; `mistral` runs models of mistral.rs and is the only code that names it.

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

/// Everything that an engine needs for one generation. The same request gives the same tokens on any replica.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// The rendered prompt.
    pub prompt: Vec<u32>,
    /// Keys and values are reused within a tenant and never across tenants.
    pub tenant: Arc<str>,
    /// Whether a later prompt is expected to begin with this prompt.
    pub reuse: kv::Reuse,
    /// Tokens already generated for this prompt. Not empty if a lost generation is continued: the engine does not send their text
    /// again, but counts it for stop strings, for the position of the sampler and for `max_output_tokens`.
    pub output: Vec<u32>,
    pub sampling: Sampling,
    /// The output ends before the first stop string.
    pub stop: StopStrings,
    /// The whole output must match the grammar. Near `max_output_tokens` the engine completes the output if a completion is known;
    /// otherwise the output is cut.
    pub grammar: Option<Grammar>,
    /// Requests log-probabilities of every token and of this many likeliest tokens at its place, at most 20.
    pub logprobs: Option<u8>,
    /// Bound on the tokens of the whole output, `output` included. With 0 the engine computes and caches the prompt's keys and values,
    /// then ends.
    pub max_output_tokens: u32,
    /// When this token is cancelled, the engine ends the generation within one token, with [`Finish::Cancelled`].
    pub cancel: CancellationToken,
}

/// A piece of an output. The joined text of all deltas of a generation is the output.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// The token ids that this delta adds. The end-of-sequence token is not among them.
    pub tokens: Vec<u32>,
    /// The text that may be shown now. Empty while a character is incomplete or a stop string may have begun; such text comes with a
    /// later delta, at the latest with the last one.
    pub text: String,
    /// One for each token, if the request asked for log-probabilities. Empty for tokens that complete an output at its bound, because
    /// the model did not compute them.
    pub logprobs: Vec<Logprobs>,
    /// The number of prompt tokens that were not computed, because their keys and values were cached. Set on the first delta.
    pub cached_tokens: Option<u32>,
    /// Set on the last delta only.
    pub finish: Option<Finish>,
}

/// What the text of an output must match. Its compilation counts as work of `tenant`.
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

/// The log-probability of a token, and of the likeliest tokens at its place. Natural logarithms of the model's own distribution,
/// before temperature, penalties and filters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logprobs {
    pub token: TokenLogprob,
    /// The likeliest first.
    pub top: Vec<TokenLogprob>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token's text; U+FFFD replaces bytes that are not a whole character.
    pub token: String,
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

/// The reason why a generation ended.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", tag = "reason", content = "message")]
pub enum Finish {
    /// The model ended its output, or a stop string was found.
    Stop,
    /// `max_output_tokens` or the context's end was reached.
    Length,
    /// The request's token was cancelled.
    Cancelled,
    /// The client steered: a successor continues the output. Engines never return it.
    Steered,
    /// The engine failed. The text is the reason for the server's log; clients never see it.
    Failed(String),
    /// The generation never began; code and message are for the client. Engines never return it.
    Refused { code: String, message: String },
}

/// The reason why an engine did not start a generation.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("unknown model `{0}`")]
    UnknownModel(String),
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    /// The prompt has at least `tokens` tokens, more than it may have.
    #[error("the prompt has more than {tokens} tokens")]
    TooLong { tokens: usize },
    /// The grammar cannot be compiled.
    #[error("{0}")]
    Grammar(String),
    /// The grammar's turn to be compiled did not come in time.
    #[error("too many grammars wait to be compiled")]
    Busy { retry_after_ms: u64 },
    #[error("{0}")]
    Load(String),
}

impl EngineError {
    /// Makes a `Load` of a reason, without the backtrace that candle prints in its errors.
    pub fn load(reason: impl std::fmt::Display) -> Self {
        let reason = reason.to_string();
        let lines: Vec<&str> = reason.lines().take_while(|line| !line.trim_start().starts_with("0: ")).collect();
        Self::Load(lines.join("\n"))
    }
}

/// Produces deltas. All connections share an implementation. Its methods never block the caller unless their comment says so.
pub trait Engine: Send + Sync + 'static {
    /// The models of the engine; the first is the default.
    fn models(&self) -> Vec<Arc<ModelInfo>>;

    /// Renders a prompt with the model's chat template, up to the start of the output, and tokenises it. A long prompt takes
    /// milliseconds of computation.
    fn tokenize(&self, model: &str, prompt: &Prompt) -> Result<Vec<u32>, EngineError>;

    /// Checks that the engine can enforce the grammar. Blocks while the grammar is compiled, for seconds at most.
    fn check(&self, model: &str, grammar: &Grammar, max_output_tokens: u32) -> Result<(), EngineError>;

    /// The bounds on what the model runs at once. Admission never asks for more sequences.
    fn capacity(&self, model: &str) -> Capacity;

    /// The number of blocks of keys and values that are used now; `None` if the engine has no blocks.
    fn kv_blocks(&self, model: &str) -> Option<KvBlocks>;

    /// Counts prompt tokens whose keys and values came from a store beyond this process; `None` if there is no such store.
    fn fetched_tokens(&self, _model: &str) -> Option<FetchedTokens> {
        None
    }

    /// Estimates the time until the keys and values of a prompt's first tokens are in the engine's cache, computed or fetched.
    /// Cached tokens take no time. Zero for an engine without a cache.
    fn prompt_time(&self, _model: &str, _tenant: &str, _tokens: &[u32]) -> Duration {
        Duration::ZERO
    }

    /// Which models are loaded.
    fn status(&self) -> Vec<ModelStatus>;

    /// Loads the model's files again beside the old model, then switches: running generations end on the old model, new ones run on
    /// the new model. The reload continues if the future is dropped.
    fn reload<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<Reloaded, ReloadError>>;

    /// Returns when the keys and values of ended generations are stored beyond this process, if they are to be stored.
    fn flush_blocks(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Starts a generation. The channel has room for the whole output, so the engine never waits for its reader. The channel closes
    /// when the sequence has left the engine, after the delta with `finish`. A channel that closes without one: the engine crashed.
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
