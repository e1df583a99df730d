//! Converts inputs and outputs of responses to items of a conversation.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    engine::Finish,
    random::random_hex,
    render,
    store::{Entry, Header, conversations::Item},
    wire::input::InputItem,
};

/// Converts items of a request to items of the conversation `id`. Their ids contain the conversation's id, so that a reference
/// finds them.
pub fn new_items(id: &str, items: &[InputItem]) -> Vec<Item> {
    named(render::items_of(items, &id_suffix(id)))
}

/// Copies items for the conversation `id`, with new ids in the form of [`new_items`].
pub fn copied_items(id: &str, items: &[Item]) -> Vec<Item> {
    let suffix = id_suffix(id);
    let copies = items.iter().enumerate().map(|(at, item)| {
        let (prefix, _) = item.id.split_once('_').unwrap_or(("item", ""));
        let mut body = item.body.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.insert("id".to_owned(), format!("{prefix}_{suffix}_in{at}").into());
        }
        body
    });
    named(copies.collect())
}

fn id_suffix(conversation: &str) -> String {
    let conversation = conversation.strip_prefix("conv_").unwrap_or(conversation);
    let random: String = random_hex().chars().take(16).collect();
    format!("{conversation}-{random}")
}

/// Returns the items of a response's input.
pub fn input_items(header: &Header) -> Vec<Item> {
    named(render::input_items(header))
}

/// Returns the output items of a response that its conversation stores: none if the response failed, and no empty message.
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
