//! Calls as text in the Hermes notation, for models whose chat template has no tools.

use serde_json::{Value, json};

use crate::wire::tools::FunctionTool;

/// Writes instructions that describe the functions and the notation of calls to a model.
pub fn instructions<'f>(functions: impl Iterator<Item = &'f FunctionTool>) -> String {
    let functions: Vec<String> = functions.map(|function| describe(function).to_string()).collect();
    format!(
        "You can call these functions:\n{}\n\nTo call one, answer with its name and its arguments:\n<tool_call>\n\
         {{\"name\": \"the function's name\", \"arguments\": {{\"parameter\": \"value\"}}}}\n</tool_call>\nWhat it \
         returned comes next, in <tool_response></tool_response>. If no function helps, answer without one.",
        functions.join("\n")
    )
}

/// Returns the description of a function for a model: `{name, description?, parameters}`.
pub fn describe(function: &FunctionTool) -> Value {
    let none = json!({"type": "object", "properties": {}});
    let parameters = function.parameters.as_ref().unwrap_or(&none);
    match &function.description {
        Some(description) => json!({"name": function.name, "description": description, "parameters": parameters}),
        None => json!({"name": function.name, "parameters": parameters}),
    }
}

/// Writes an earlier call of the model.
pub fn call(name: &str, arguments: &str) -> String {
    format!("<tool_call>\n{{\"name\": {}, \"arguments\": {arguments}}}\n</tool_call>", Value::from(name))
}

/// Writes the output of a call.
pub fn output(output: &str) -> String {
    format!("<tool_response>\n{output}\n</tool_response>")
}
