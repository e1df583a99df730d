//! Engines: prompt tokens in, deltas out. This module owns the contract between the server and whatever produces tokens;
//! it knows nothing of responses, sockets or stores.
//!
//! `scripted` is deterministic and made for tests and load; `mistral` drives mistral.rs and is the only code that names it.

pub mod decoder;
pub mod sampler;
pub mod scripted;

#[cfg(feature = "mistralrs")]
pub mod mistral;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use sampler::{Sampler, Sampling};

/// One model as clients see it in `GET /v1/models`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name a request's `model` field selects.
    pub id: String,
    /// Tokens that prompt and output may take together.
    pub context_length: u32,
    /// When the model's file was made, Unix seconds.
    pub created: u64,
    /// Such as `Q8_0`; absent where it has no meaning.
    pub quantisation: Option<String>,
}

/// Who said a message; the chat template decides how each role is written.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

/// One message of the prompt, before the model's chat template turns the messages into tokens.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

/// Everything an engine needs for one generation. It is complete: the same request gives the same tokens on any replica.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// The rendered prompt.
    pub prompt: Vec<u32>,
    /// Whose it is: KV is reused within a scope and never across.
    pub scope: Arc<str>,
    /// Tokens already generated for this prompt. Not empty when a generation is continued after a loss: their text is not
    /// sent again, but it counts for stop strings, for the position of the sampler and for `max_output_tokens`.
    pub output: Vec<u32>,
    pub sampling: Sampling,
    /// Stop strings; the output ends before the first of them.
    pub stop: Vec<String>,
    /// Bound on the tokens of the whole output, `output` included. At least 1.
    pub max_output_tokens: u32,
    /// When cancelled the engine ends the generation within one token, with [`Finish::Cancelled`].
    pub cancel: CancellationToken,
}

/// What an engine says, in order. The text of all deltas, joined, is the output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// The token ids that this delta adds. The end-of-sequence token is not among them.
    pub tokens: Vec<u32>,
    /// The text that may be shown now. Empty while a character is incomplete or a stop string may be beginning; held text
    /// comes with a later delta, at the latest with the last one.
    pub text: String,
    /// Set on the last delta, and only there.
    pub finish: Option<Finish>,
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
    /// The engine broke; the text says how, for the log and never for the client.
    Failed(String),
}

/// What an engine can answer with before it has started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("unknown model `{0}`")]
    UnknownModel(String),
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    #[error("{0}")]
    Load(String),
}

/// Produces deltas. Implementations are shared by all connections and never block the caller.
pub trait Engine: Send + Sync + 'static {
    /// The models it serves; the first is the default.
    fn models(&self) -> &[ModelInfo];

    /// Renders messages by the model's chat template, ready for the reply to begin, and tokenises them.
    fn tokenize(&self, model: &str, messages: &[Message]) -> Result<Vec<u32>, EngineError>;

    /// How many generations can run at once. Admission never asks for more.
    fn slots(&self) -> usize;

    /// Starts a generation. The channel has room for the whole reply, so the engine never waits for its reader. It closes
    /// when the slot is free again, which is after the delta with `finish`; closed without one, the engine has crashed.
    fn generate(&self, model: &str, request: GenerateRequest) -> Result<mpsc::Receiver<Delta>, EngineError>;
}
