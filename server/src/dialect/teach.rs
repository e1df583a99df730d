//! Calls as text, in the Hermes format, for models whose chat template knows no tools.

use serde_json::{Value, json};

use crate::wire::tools::FunctionTool;

/// Tells a model of functions and how to call them.
pub fn instructions<'f>(functions: impl Iterator<Item = &'f FunctionTool>) -> String {
    let functions: Vec<String> = functions.map(|function| describe(function).to_string()).collect();
    format!(
        "You can call these functions:\n{}\n\nTo call one, answer with its name and its arguments:\n<tool_call>\n\
         {{\"name\": \"the function's name\", \"arguments\": {{\"parameter\": \"value\"}}}}\n</tool_call>\nWhat it \
         returned comes next, in <tool_response></tool_response>. If no function helps, answer without one.",
        functions.join("\n")
    )
}

/// A function as models are told of it: `{name, description?, parameters}`.
pub fn describe(function: &FunctionTool) -> Value {
    let none = json!({"type": "object", "properties": {}});
    let parameters = function.parameters.as_ref().unwrap_or(&none);
    match &function.description {
        Some(description) => json!({"name": function.name, "description": description, "parameters": parameters}),
        None => json!({"name": function.name, "parameters": parameters}),
    }
}

/// A call as the model wrote it.
pub fn call(name: &str, arguments: &str) -> String {
    format!("<tool_call>\n{{\"name\": {}, \"arguments\": {arguments}}}\n</tool_call>", Value::from(name))
}

/// What a call came to.
pub fn output(output: &str) -> String {
    format!("<tool_response>\n{output}\n</tool_response>")
}
