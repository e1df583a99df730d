//! Turns the nested shapes of this API into the flat ones of `POST /v1/responses`, and field names in errors back into those of
//! this API.

use serde_json::{Map, Value};

use crate::wire::{
    error::WireError,
    read::{missing, type_of},
    shorten,
};

/// The names in this request of the fields that have one name in the Responses API and several here.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// The name of the limit of the output's tokens.
    pub bound: &'static str,
    /// The path of the format's fields.
    pub format: &'static str,
}

impl Names {
    /// Translates the field names of an error of the Responses API into those of this API.
    pub fn rename(self, error: WireError) -> WireError {
        match error {
            WireError::InvalidRequest { param: Some(param), message } => {
                let name = self.name(&param);
                WireError::InvalidRequest { message: message.replace(&param, &name), param: Some(name) }
            }
            WireError::ContextLengthExceeded { prompt, context, .. } => {
                WireError::ContextLengthExceeded { prompt, context, field: "messages" }
            }
            other => other,
        }
    }

    fn name(self, param: &str) -> String {
        match param {
            "input" => return "messages".into(),
            "max_output_tokens" => return self.bound.into(),
            "reasoning.effort" => return "reasoning_effort".into(),
            "text.verbosity" => return "verbosity".into(),
            "text.format" => return "response_format".into(),
            "text.format.type" => return "response_format.type".into(),
            "tool_choice.name" => return "tool_choice.function.name".into(),
            "tool_choice.mode" => return "tool_choice.allowed_tools.mode".into(),
            _ => {}
        }
        if let Some(field) = param.strip_prefix("text.format.") {
            return format!("{}.{field}", self.format);
        }
        if let Some(tools) = param.strip_prefix("tool_choice.tools") {
            return format!("tool_choice.allowed_tools.tools{}", tools.replace("].name", "].function.name"));
        }
        match param.strip_prefix("tools[").and_then(|rest| rest.split_once("].")) {
            // The functions of a namespace are flat in both APIs.
            Some((at, field)) if field != "type" && !field.starts_with("tools[") => {
                format!("tools[{at}].function.{field}")
            }
            _ => param.to_owned(),
        }
    }
}

/// Flattens `{type, inner: {…}}` into `{type, …}`.
fn flat(path: &str, value: Value, inner: &str) -> Result<Value, WireError> {
    let Value::Object(mut outer) = value else { return Ok(value) };
    let kind = outer.remove("type");
    let path_of = |field: &str| format!("{path}.{field}");
    let mut members = match outer.remove(inner) {
        Some(Value::Object(members)) => members,
        None | Some(Value::Null) => return Err(missing(&path_of(inner))),
        Some(_) => {
            let path = path_of(inner);
            return Err(WireError::invalid(&path, format!("'{path}' must be an object.")));
        }
    };
    let is_given = |(_, value): &(&String, &Value)| !value.is_null();
    let unknown = outer.iter().find(is_given).map(|(field, _)| path_of(&shorten(field)));
    let twice = || members.get("type").filter(|kind| !kind.is_null()).map(|_| path_of(&format!("{inner}.type")));
    if let Some(path) = unknown.or_else(twice) {
        return Err(WireError::invalid(&path, format!("Unknown field '{path}'.")));
    }
    members.insert("type".into(), kind.unwrap_or_default());
    Ok(Value::Object(members))
}

/// Flattens a function tool. Returns a tool of another type unchanged.
fn tool(path: &str, tool: Value) -> Result<Value, WireError> {
    if tool.get("type").is_some_and(|kind| kind == "function") { flat(path, tool, "function") } else { Ok(tool) }
}

pub fn tools(tools: Vec<Value>) -> Result<Value, WireError> {
    let flattened = tools.into_iter().enumerate().map(|(at, value)| tool(&format!("tools[{at}]"), value));
    flattened.collect::<Result<Vec<_>, _>>().map(Value::Array)
}

pub fn tool_choice(choice: Value) -> Result<Value, WireError> {
    const PATH: &str = "tool_choice";
    if choice.get("type").is_none_or(|kind| kind != "allowed_tools") {
        return tool(PATH, choice);
    }
    let mut choice = flat(PATH, choice, "allowed_tools")?;
    if let Some(Value::Array(tools)) = choice.get_mut("tools") {
        for (at, value) in tools.iter_mut().enumerate() {
            *value = tool(&format!("{PATH}.allowed_tools.tools[{at}]"), std::mem::take(value))?;
        }
    }
    Ok(choice)
}

/// Flattens `{type, json_schema: {…}}` into `{type, …}`. Returns the path of its fields for errors, too.
pub fn format(format: Value) -> Result<(Value, &'static str), WireError> {
    const PATH: &str = "response_format";
    Ok(match type_of(PATH, &format)? {
        "json_schema" => (flat(PATH, format, "json_schema")?, "response_format.json_schema"),
        _ => (format, PATH),
    })
}

/// Returns `text` of the Responses API; `None` if neither member is given.
pub fn text(format: Option<Value>, verbosity: Option<Value>) -> Option<Value> {
    let members = [("format", format), ("verbosity", verbosity)];
    let given: Map<String, Value> =
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    (!given.is_empty()).then_some(Value::Object(given))
}
