//! Renderers: make wire events from a header and its entries. Rendering is pure, so a response's events and their numbers are the same
//! on every connection and every replica, at any time.

pub mod chat;
mod input;
mod items;
pub mod responses;
mod snapshot;
#[cfg(test)]
mod tests;

pub use input::{input_items, items_of};
pub use responses::{Renderer, response};
