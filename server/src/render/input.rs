//! The items that a response was created with, as `GET /v1/responses/{id}/input_items` lists them.

use serde_json::{Value, json};

use crate::{
    store::Header,
    wire::input::{InputItem, InputRole},
};

/// The input, in order, each item with an id.
pub fn input_items(header: &Header) -> Vec<Value> {
    items_of(&header.create.input, header.id.strip_prefix("resp_").unwrap_or(&header.id))
}

/// Items as clients see them, with ids that end in `suffix` and their number.
pub fn items_of(items: &[InputItem], suffix: &str) -> Vec<Value> {
    let items = items.iter().enumerate();
    items.map(|(at, item)| input_item(item, &format!("{suffix}_in{at}"))).collect()
}

fn input_item(item: &InputItem, suffix: &str) -> Value {
    match item {
        InputItem::Message(message) => {
            let part = if message.role == InputRole::Assistant { "output_text" } else { "input_text" };
            json!({"id": format!("msg_{suffix}"), "type": "message", "status": "completed", "role": message.role,
                   "content": [{"type": part, "text": message.text}]})
        }
        InputItem::FunctionCall(call) => {
            json!({"id": format!("fc_{suffix}"), "type": "function_call", "status": "completed", "call_id": call.call_id,
                   "name": call.name, "arguments": call.arguments})
        }
        InputItem::FunctionCallOutput(output) => {
            json!({"id": format!("fco_{suffix}"), "type": "function_call_output", "status": "completed",
                   "call_id": output.call_id, "output": output.output})
        }
        InputItem::Reference(reference) => json!({"id": reference.id, "type": "item_reference"}),
        InputItem::Reasoning(thought) => {
            json!({"id": format!("rs_{suffix}"), "type": "reasoning", "status": "completed",
                   "summary": [{"type": "summary_text", "text": thought.summary}]})
        }
    }
}
