//! Generations. `create`, `admission` and `run` turn a validated request into a log; `follow` turns a log into events. The two
//! halves share nothing but the store. This room knows no sockets.

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
