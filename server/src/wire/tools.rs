//! The functions that the model may call or must call.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    error::WireError,
    read::{FOREIGN, check_id, check_name, is_foreign, read_field, type_of},
    shorten,
};

/// Most functions of a request; OpenAI's limit.
const MAX_TOOLS: usize = 128;
/// Most bytes of one tool's description and parameters, as JSON.
const MAX_TOOL_BYTES: usize = 256 * 1024;

/// A function that the client offers. The response echoes every field; a field without a value is null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionTool {
    #[serde(rename = "type")]
    kind: Function,
    pub name: String,
    pub description: Option<String>,
    /// A JSON schema of type `object`.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub parameters: Option<Value>,
    pub strict: Option<bool>,
    /// The namespace tool that declared the function. Calls of the function carry the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The path in the request, such as `tools[1]` or `tools[0].tools[2]`. Empty if the function was read from a log.
    #[serde(skip)]
    pub path: String,
}

/// The constant `"function"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FunctionType")]
#[serde(rename_all = "snake_case")]
pub enum Function {
    Function,
}

/// Which functions the model may call, and whether it must call one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    Mode(Mode),
    Named(Named),
    Allowed(Allowed),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ToolChoiceMode")]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Auto,
    None,
    Required,
}

/// `{"type": "function", "name": …}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NamedFunction")]
pub struct Named {
    #[serde(rename = "type")]
    kind: Function,
    pub name: String,
}

/// `{"type": "allowed_tools", "mode": …, "tools": […]}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AllowedTools")]
pub struct Allowed {
    #[serde(rename = "type")]
    kind: AllowedToolsType,
    /// `auto` or `required`.
    #[schemars(with = "String", extend("enum" = ["auto", "required"]))]
    pub mode: Mode,
    pub tools: Vec<Named>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AllowedToolsType")]
#[serde(rename_all = "snake_case")]
pub enum AllowedToolsType {
    AllowedTools,
}

impl Default for ToolChoice {
    fn default() -> Self {
        Self::Mode(Mode::Auto)
    }
}

impl ToolChoice {
    /// Returns whether the output must be a call.
    pub fn is_required(&self) -> bool {
        match self {
            Self::Mode(mode) => *mode == Mode::Required,
            Self::Named(_) => true,
            Self::Allowed(allowed) => allowed.mode == Mode::Required,
        }
    }

    /// Returns whether the choice names the one function to call.
    pub fn is_named(&self) -> bool {
        matches!(self, Self::Named(_))
    }

    /// Returns whether the model may call the function.
    pub fn allows(&self, name: &str) -> bool {
        match self {
            Self::Mode(mode) => *mode != Mode::None,
            Self::Named(named) => named.name == name,
            Self::Allowed(allowed) => allowed.tools.iter().any(|tool| tool.name == name),
        }
    }

    /// Returns the names of the functions in the choice.
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Mode(_) => vec![],
            Self::Named(named) => vec![&named.name],
            Self::Allowed(allowed) => allowed.tools.iter().map(|tool| tool.name.as_str()).collect(),
        }
    }
}

/// The parsed `tools` of a request.
#[derive(Debug, Default)]
pub struct Tools {
    pub functions: Vec<FunctionTool>,
    /// Tools that this server does not have, such as `tools[0]: web_search`. They are left out of the prompt.
    pub ignored: Vec<String>,
}

/// Types of tools that a provider runs, or that are not called like a function. They are left out of the prompt.
const ELSEWHERE: [&str; 14] = [
    "web_search",
    "file_search",
    "computer",
    "code_interpreter",
    "image_generation",
    "mcp",
    "local_shell",
    "shell",
    "custom",
    "apply_patch",
    "tool_search",
    "programmatic_tool_calling",
    "computer_use_preview",
    "namespace",
];

/// Returns whether the server accepts and ignores tools of this type: a hosted tool, or one of another implementation. The type of
/// a search may end in a date, such as `web_search_2025_08_26`.
fn is_elsewhere(kind: &str) -> bool {
    ELSEWHERE.contains(&kind) || kind.starts_with("web_search_") || is_foreign(kind)
}

/// Parses `tools`. Errors name the tool and its field. The functions of a namespace are added to the other functions.
pub fn sort_tools(tools: Vec<Value>) -> Result<Tools, WireError> {
    let mut parsed = Tools::default();
    for (at, tool) in tools.into_iter().enumerate() {
        let path = format!("tools[{at}]");
        match type_of(&path, &tool)? {
            "function" => parsed.add(&path, parse_tool(&path, tool)?)?,
            "namespace" => parsed.add_namespace(&path, tool)?,
            kind if is_elsewhere(kind) => parsed.ignored.push(format!("{path}: {}", shorten(kind))),
            kind => return Err(unsupported_type(&path, "Tools", kind)),
        }
    }
    Ok(parsed)
}

/// Parses `tools` and returns the functions.
#[cfg(test)]
pub fn parse_tools(tools: Vec<Value>) -> Result<Vec<FunctionTool>, WireError> {
    Ok(sort_tools(tools)?.functions)
}

impl Tools {
    fn add(&mut self, path: &str, tool: FunctionTool) -> Result<(), WireError> {
        if self.functions.len() >= MAX_TOOLS {
            return Err(WireError::invalid("tools", format!("'tools' may have at most {MAX_TOOLS} functions.")));
        }
        if self.functions.iter().any(|other| other.name == tool.name) {
            let message = format!("'{path}.name' is already the name of an earlier tool.");
            return Err(WireError::invalid(format!("{path}.name"), message));
        }
        self.functions.push(tool);
        Ok(())
    }

    /// Adds the functions of a namespace. A function with the name of an earlier one is left out, because the names of
    /// different namespaces may be equal.
    fn add_namespace(&mut self, path: &str, tool: Value) -> Result<(), WireError> {
        let namespace: NamespaceBody = read_field(path, tool)?;
        check_id(&format!("{path}.name"), &namespace.name)?;
        for (at, tool) in namespace.tools.unwrap_or_default().into_iter().enumerate() {
            let path = format!("{path}.tools[{at}]");
            match type_of(&path, &tool)? {
                "function" => {
                    let tool = parse_tool(&path, tool)?;
                    if self.functions.iter().any(|other| other.name == tool.name) {
                        self.ignored.push(format!("{path}: {}", tool.name));
                    } else {
                        self.add(&path, FunctionTool { namespace: Some(namespace.name.clone()), ..tool })?;
                    }
                }
                kind if is_elsewhere(kind) => self.ignored.push(format!("{path}: {}", shorten(kind))),
                kind => return Err(unsupported_type(&path, "Tools", kind)),
            }
        }
        Ok(())
    }
}

/// A function tool of a request.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "FunctionTool")]
struct FunctionBody {
    #[serde(rename = "type")]
    #[schemars(with = "Function")]
    _kind: Value,
    #[schemars(pattern(r"^[A-Za-z0-9_-]{1,64}$"))]
    name: String,
    description: Option<String>,
    /// The JSON schema of the arguments, of type `object`.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    parameters: Option<Value>,
    strict: Option<bool>,
    // Hints for tools of other kinds.
    #[serde(rename = "allowed_callers")]
    _allowed_callers: Option<Value>,
    #[serde(rename = "async")]
    _async: Option<Value>,
    #[serde(rename = "defer_loading")]
    _defer_loading: Option<Value>,
    #[serde(rename = "output_schema")]
    _output_schema: Option<Value>,
}

/// A group of functions with a common name.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NamespaceTool")]
struct NamespaceBody {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "namespace"))]
    _kind: String,
    #[schemars(length(min = 1, max = 256))]
    name: String,
    #[schemars(with = "Option<Vec<ToolBody>>")]
    tools: Option<Vec<Value>>,
}

/// A tool that this server does not have. It is left out of the prompt.
#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "HostedTool")]
pub struct HostedBody {
    #[serde(rename = "type")]
    #[schemars(extend("anyOf" = hosted_types()))]
    kind: String,
}

/// A tool without a nested shape in a chat completion.
#[allow(dead_code, private_interfaces)]
#[derive(JsonSchema)]
#[schemars(rename = "ChatOtherTool")]
#[serde(untagged)]
pub enum OtherTool {
    Namespace(NamespaceBody),
    Hosted(HostedBody),
}

/// An element of `tools`.
// The schema of the types that `sort_tools` dispatches.
#[allow(dead_code, private_interfaces, clippy::large_enum_variant)]
#[derive(JsonSchema)]
#[schemars(rename = "Tool")]
#[serde(untagged)]
pub enum ToolBody {
    Function(FunctionBody),
    Namespace(NamespaceBody),
    Hosted(HostedBody),
}

/// Returns the schema of the types of hosted tools, without `namespace`.
fn hosted_types() -> Value {
    let dated = ["web_search_2025_08_26", "web_search_preview"];
    let known: Vec<&str> = ELSEWHERE.into_iter().filter(|kind| *kind != "namespace").chain(dated).collect();
    json!([{"enum": known}, {"type": "string", "pattern": FOREIGN}])
}

fn parse_tool(path: &str, tool: Value) -> Result<FunctionTool, WireError> {
    let tool: FunctionBody = read_field(path, tool)?;
    check_name(&format!("{path}.name"), &tool.name)?;
    let parameters = tool.parameters.filter(|parameters| !parameters.is_null());
    let place = path.to_owned();
    let path = format!("{path}.parameters");
    if let Some(schema) = &parameters {
        let is_object = schema.is_object() && schema.get("type").is_none_or(|kind| kind == "object");
        if !is_object {
            return Err(WireError::invalid(&path, format!("'{path}' must be a JSON schema of type 'object'.")));
        }
    }
    let bytes =
        parameters.as_ref().map_or(0, |p| p.to_string().len()) + tool.description.as_deref().map_or(0, str::len);
    if bytes > MAX_TOOL_BYTES {
        let message = format!("A tool's description and parameters may have at most {MAX_TOOL_BYTES} bytes.");
        return Err(WireError::invalid(path, message));
    }
    Ok(FunctionTool {
        kind: Function::Function,
        name: tool.name,
        description: tool.description,
        parameters,
        strict: tool.strict,
        namespace: None,
        path: place,
    })
}

fn unsupported_type(path: &str, what: &str, kind: &str) -> WireError {
    WireError::invalid(format!("{path}.type"), format!("{what} of type '{}' are not supported.", shorten(kind)))
}

/// Removes all tools except functions from `allowed_tools`: the model cannot call the others.
fn allowed_functions(mut choice: Value) -> Result<Value, WireError> {
    let Some(Value::Array(tools)) = choice.get_mut("tools") else { return Ok(choice) };
    let mut functions = Vec::with_capacity(tools.len());
    for (at, tool) in std::mem::take(tools).into_iter().enumerate() {
        let path = format!("tool_choice.tools[{at}]");
        match type_of(&path, &tool)? {
            "function" => functions.push(tool),
            kind if is_elsewhere(kind) => {}
            kind => return Err(unsupported_type(&path, "Tools", kind)),
        }
    }
    *tools = functions;
    Ok(choice)
}

/// Parses `tool_choice`, which may name only functions in `tools`.
pub fn parse_tool_choice(choice: Option<Value>, tools: &[FunctionTool]) -> Result<ToolChoice, WireError> {
    const PATH: &str = "tool_choice";
    let choice = match choice {
        None | Some(Value::Null) => return Ok(ToolChoice::default()),
        Some(Value::String(mode)) => ToolChoice::Mode(read_field(PATH, Value::String(mode))?),
        Some(choice) => match type_of(PATH, &choice)? {
            "allowed_tools" => ToolChoice::Allowed(read_field(PATH, allowed_functions(choice)?)?),
            "function" => ToolChoice::Named(read_field(PATH, choice)?),
            kind => return Err(unsupported_type(PATH, "Choices", kind)),
        },
    };
    if let Some(unknown) = choice.names().into_iter().find(|name| tools.iter().all(|tool| tool.name != **name)) {
        let message = format!("'{PATH}' names the function '{}', which is not in 'tools'.", shorten(unknown));
        return Err(WireError::invalid(PATH, message));
    }
    if choice.is_required() && !tools.iter().any(|tool| choice.allows(&tool.name)) {
        return Err(WireError::invalid(PATH, format!("'{PATH}' requires a call, and there is no function to call.")));
    }
    if let ToolChoice::Allowed(Allowed { mode: Mode::None, .. }) = choice {
        return Err(WireError::invalid("tool_choice.mode", "'tool_choice.mode' must be 'auto' or 'required'."));
    }
    Ok(choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str) -> Value {
        json!({"type": "function", "name": name, "parameters": {"type": "object"}})
    }

    fn param<T: std::fmt::Debug>(result: Result<T, WireError>) -> String {
        match result {
            Err(WireError::InvalidRequest { param: Some(param), .. }) => param,
            other => panic!("expected an invalid_request with a param, got {other:?}"),
        }
    }

    #[test]
    fn errors_name_the_tool() {
        let long = "n".repeat(65);
        for (tools, expected) in [
            (vec![json!({})], "tools[0].type"),
            (vec![json!({"type": "teleporter"})], "tools[0].type"),
            (vec![json!("f")], "tools[0]"),
            (
                vec![json!({"type": "namespace", "name": "n", "tools": [{"type": "function"}]})],
                "tools[0].tools[0].name",
            ),
            (vec![json!({"type": "function"})], "tools[0].name"),
            (vec![function("a b")], "tools[0].name"),
            (vec![function(&long)], "tools[0].name"),
            (vec![function("f"), function("f")], "tools[1].name"),
            (vec![json!({"type": "function", "name": "f", "colour": 1})], "tools[0].colour"),
            (vec![json!({"type": "function", "name": "f", "parameters": []})], "tools[0].parameters"),
            (vec![json!({"type": "function", "name": "f", "parameters": {"type": "string"}})], "tools[0].parameters"),
            (vec![json!({"type": "function", "name": "f", "description": "x".repeat(270_000)})], "tools[0].parameters"),
            ((0..129).map(|n| function(&format!("f{n}"))).collect(), "tools"),
        ] {
            assert_eq!(param(parse_tools(tools)), expected);
        }
    }

    #[test]
    fn tools_of_others_are_left_out_and_functions_in_namespaces_are_functions() {
        let inner = |name: &str| json!({"type": "function", "name": name, "strict": false, "defer_loading": true});
        let tools = sort_tools(vec![
            json!({"type": "web_search_2025_08_26", "filters": {}}),
            function("f"),
            json!({"type": "namespace", "name": "n", "description": "d", "tools": [inner("f"), inner("g"), {"type": "custom"}]}),
        ])
        .unwrap();
        let found: Vec<_> =
            tools.functions.iter().map(|f| (f.name.as_str(), f.namespace.as_deref(), f.path.as_str())).collect();
        assert_eq!(found, [("f", None, "tools[1]"), ("g", Some("n"), "tools[2].tools[1]")]);
        assert_eq!(
            tools.ignored,
            ["tools[0]: web_search_2025_08_26", "tools[2].tools[0]: f", "tools[2].tools[2]: custom"]
        );
    }

    #[test]
    fn a_choice_is_echoed_as_it_came_and_names_what_there_is() {
        let tools = parse_tools(vec![function("f"), function("g")]).unwrap();
        for choice in [
            json!("auto"),
            json!("none"),
            json!("required"),
            json!({"type": "function", "name": "g"}),
            json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}),
        ] {
            let parsed = parse_tool_choice(Some(choice.clone()), &tools).unwrap();
            assert_eq!(serde_json::to_value(&parsed).unwrap(), choice);
            assert_eq!(serde_json::from_value::<ToolChoice>(choice).unwrap(), parsed);
        }
        let allowed = json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]});
        let allowed = parse_tool_choice(Some(allowed), &tools).unwrap();
        assert!(allowed.allows("f") && !allowed.allows("g") && !allowed.is_required());
        for (choice, expected) in [
            (json!("sometimes"), "tool_choice"),
            (json!(7), "tool_choice"),
            (json!({"type": "web_search"}), "tool_choice.type"),
            (json!({"type": "function"}), "tool_choice.name"),
            (json!({"type": "function", "name": "h"}), "tool_choice"),
            (json!({"type": "allowed_tools", "mode": "none", "tools": []}), "tool_choice.mode"),
            (json!({"type": "allowed_tools", "mode": "required", "tools": []}), "tool_choice"),
            (
                json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "teleporter"}]}),
                "tool_choice.tools[0].type",
            ),
        ] {
            assert_eq!(param(parse_tool_choice(Some(choice.clone()), &tools)), expected, "{choice}");
        }
        assert_eq!(param(parse_tool_choice(Some(json!("required")), &[])), "tool_choice");
    }
}
