//! The handlers of the routes, a file a resource: each validates a request, calls [`generation`](crate::generation) and answers.

pub mod admin;
pub mod chat;
pub mod client_secrets;
pub mod compact;
pub mod contract;
pub mod conversations;
pub mod input_tokens;
pub mod model_file;
pub mod models;
pub mod page;
pub mod probes;
pub mod prompts;
pub mod responses;
