//! Chat completions, which today's chat UIs still speak: the request, read as a [`Create`](super::request::Create), and the
//! answers.

mod completion;
mod messages;
mod request;
mod shape;

pub use completion::{
    ChatUsage, Choice, ChoiceLogprobs, Chunk, ChunkChoice, Completion, Delta, FunctionDelta, Message, ToolCall,
    ToolCallDelta,
};
pub use request::{Body as ChatBody, ChatRequest};
