//! Generations: from a validated request to a log (`create`, `admission`, `run`), and from a log to events (`follow`). The
//! two halves meet in the store and nowhere else. Knows nothing of sockets.

pub mod admission;
mod assembly;
pub mod budget;
pub mod conversation;
mod counts;
pub mod create;
mod follow;
mod offers;
mod prompt_cache;
pub mod refusal;
mod run;
mod service;

pub use budget::bounded;
pub use counts::Counted;
pub use create::{Caller, rates::LimitedKey, start::CreatedResponse};
pub use follow::Follow;
pub use service::Generations;
