//! The protocol as serde types: requests, events, the response object, error and close codes.
//!
//! Owns the names and shapes of `PROTOCOL.md`. Imports no other module of the crate except [`crate::limits`].

pub mod cache;
pub mod chat;
pub mod client;
pub mod client_secret;
pub mod close;
pub mod compaction;
pub mod contract;
pub mod conversation;
pub mod envelope;
pub mod error;
pub mod event;
pub mod format;
pub mod input;
pub mod item;
mod json;
pub mod lane;
pub mod logprobs;
pub mod metadata;
pub mod object;
pub mod output;
pub mod prompt;
pub mod read;
pub mod reasoning;
pub mod request;
pub mod response;
pub mod sampling;
pub mod steer;
pub mod tools;
pub mod values;

/// The subprotocol that turns the `caudal:` extensions on.
pub const SUBPROTOCOL: &str = "caudal.responses.v1";
/// Prefix of the subprotocol that carries a browser's short-lived key.
pub const KEY_SUBPROTOCOL_PREFIX: &str = "openai-insecure-api-key.";

/// Cuts a client's text, so that an error message can quote it.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
