//! The handlers of the routes, one file for each resource. A handler validates a request, calls
//! [`generation`](crate::generation) and answers.

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
