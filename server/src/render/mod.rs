//! Renderers: a header and its entries become wire events. Pure, so a response's events and their numbers are the same on
//! every connection, on every replica, for ever.

pub mod chat;
mod input;
mod items;
pub mod responses;
mod snapshot;

pub use input::{input_items, items_of};
pub use responses::{Renderer, response};
