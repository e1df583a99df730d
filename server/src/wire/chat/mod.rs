//! Chat completions, for chat UIs without the Responses API: the request, which is parsed into a
//! [`Create`](super::request::Create), and the answers.

mod completion;
mod messages;
mod request;
mod shape;

pub use completion::{
    ChatUsage, Choice, ChoiceLogprobs, Chunk, ChunkChoice, Completion, Delta, FunctionDelta, Message, ToolCall,
    ToolCallDelta,
};
pub use request::{Body as ChatBody, ChatRequest};
