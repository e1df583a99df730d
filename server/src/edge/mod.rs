//! The edge: actix, sockets, HTTP. Turns requests into calls on [`Generations`](crate::generation::Generations), and followed
//! events into frames and SSE events. The only module that names actix. Decides nothing about generations.

mod auth;
mod body;
mod cors;
mod door;
mod error;
mod extract;
mod grants;
mod handlers;
mod headers;
mod hosts;
mod paging;
mod peer;
mod query;
mod refusal;
mod reply;
mod resource;
mod server;
mod sse;
mod state;
mod sums;
mod traced;
mod v1;
pub mod waiting;
mod ws;

pub use server::{Listeners, serve};
pub use state::{Edge, Phase};
