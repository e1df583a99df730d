//! What was asked and said, as items of a conversation.

use std::sync::Arc;

use serde_json::Value;

use super::random::random_hex;
use crate::{
    engine::Finish,
    render,
    store::{Entry, Header, conversations::Item},
    wire::input::InputItem,
};

/// Items of a request, as the conversation `id` keeps them. Their ids name the conversation, so that a reference finds
/// them.
pub fn new_items(id: &str, items: &[InputItem]) -> Vec<Item> {
    let conversation = id.strip_prefix("conv_").unwrap_or(id);
    let random: String = random_hex().chars().take(16).collect();
    named(render::items_of(items, &format!("{conversation}-{random}")))
}

/// The items of a response's input.
pub fn input_items(header: &Header) -> Vec<Item> {
    named(render::input_items(header))
}

/// What a response said, as far as it is kept: all but what failed, and nothing that is empty.
pub fn output_items(header: &Arc<Header>, entries: &[Arc<Entry>]) -> Vec<Item> {
    let failed = entries.last().is_some_and(|last| {
        matches!(&**last, Entry::Finished { finish: Finish::Failed(_) | Finish::Refused { .. }, .. })
    });
    if failed {
        return vec![];
    }
    let (response, _) = render::response(header, entries.iter().map(|entry| &**entry));
    let items = response.output.into_iter().filter_map(|item| serde_json::to_value(item).ok());
    named(items.filter(|item| !is_empty(item)).collect())
}

fn is_empty(item: &Value) -> bool {
    let parts = item["content"].as_array();
    item["type"] == "message" && parts.is_none_or(|parts| parts.iter().all(|part| part["text"] == ""))
}

fn named(bodies: Vec<Value>) -> Vec<Item> {
    let named = bodies.into_iter().map(|body| Item { id: body["id"].as_str().unwrap_or_default().to_owned(), body });
    named.collect()
}
