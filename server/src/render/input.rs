//! The items of a response's input, as `GET /v1/responses/{id}/input_items` lists them.

use serde_json::{Value, json};

use crate::{
    store::Header,
    wire::{
        input::{InputItem, InputRole},
        item::ListedItem,
        output::{FunctionCall, ItemStatus, OutputItem, OutputMessage, OutputText, SummaryText, Thought},
    },
};

/// Renders the input items in order, each with an id.
pub fn input_items(header: &Header) -> Vec<Value> {
    items_of(&header.spec.input, header.id.strip_prefix("resp_").unwrap_or(&header.id))
}

/// Renders items as clients see them. Their ids end in `suffix` and the item's number.
pub fn items_of(items: &[InputItem], suffix: &str) -> Vec<Value> {
    let items = items.iter().enumerate();
    items.filter_map(|(at, item)| input_item(item, &format!("{suffix}_in{at}"))).map(|item| json!(item)).collect()
}

/// Renders an item; `None` if the server ignores items of its type.
fn input_item(item: &InputItem, suffix: &str) -> Option<ListedItem> {
    let status = ItemStatus::Completed;
    let id = |prefix: &str| format!("{prefix}_{suffix}");
    Some(match item {
        InputItem::Message(message) if message.role == InputRole::Assistant => {
            let content = vec![OutputText::new(message.text.clone(), vec![])];
            let metadata = message.metadata.clone();
            let answer = OutputMessage { id: id("msg"), status, role: "assistant", content, metadata };
            ListedItem::Output(OutputItem::Message(answer))
        }
        InputItem::Message(message) => ListedItem::message(id("msg"), message.clone()),
        InputItem::FunctionCall(call) => ListedItem::Output(OutputItem::FunctionCall(FunctionCall {
            id: id("fc"),
            status,
            call_id: call.call_id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
            namespace: None,
        })),
        InputItem::FunctionCallOutput(output) => {
            ListedItem::call_output(id("fco"), output.call_id.clone(), output.output.clone())
        }
        InputItem::Reference(reference) => ListedItem::reference(reference.id.clone()),
        InputItem::Reasoning(thought) => {
            let summary = vec![SummaryText::new(thought.summary.clone())];
            ListedItem::Output(OutputItem::Reasoning(Thought { id: id("rs"), status, summary }))
        }
        InputItem::Ignored(_) => return None,
    })
}
