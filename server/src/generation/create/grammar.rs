//! The grammar that constrains a response's output. It follows from the request and the model's dialect.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    dialect::{
        Calls, Dialect,
        lark::{self, CallRules, Callable, GrammarBody, Output},
        regex,
        schema::{self, Loosened, Refused},
    },
    engine::{Grammar, Rules},
    store::{GenerationSpec, Header},
    wire::{
        error::WireError,
        format::{Format, GrammarFormat, Syntax},
        reasoning::Effort,
        tools::FunctionTool,
    },
};

/// The parts of a request's schemas that do not constrain the output. The key is the name of the function, or empty for
/// `text.format`.
pub type Holding = BTreeMap<String, Loosened>;

/// Builds the grammar of a response's output. Returns `None` if nothing constrains the output.
///
/// # Errors
/// `invalid_request` for a combination that no grammar expresses, a malformed schema, or a strict schema that cannot constrain an
/// output. `param` is the path of the keyword.
pub fn grammar(header: &Header) -> Result<Option<Grammar>, WireError> {
    let rules = rules(&header.dialect, &header.spec, &header.holding)?;
    Ok(rules.map(|rules| Grammar { tenant: header.tenant.as_str().into(), rules }))
}

fn rules(dialect: &Dialect, spec: &GenerationSpec, holding: &Holding) -> Result<Option<Rules>, WireError> {
    let format = &spec.text.format;
    let is_json = matches!(format, Format::JsonObject | Format::JsonSchema(_));
    let calls = call_rules(spec, holding)?;
    match &calls {
        Some(_) if matches!(format, Format::Grammar(_)) => {
            return refuse("A grammar cannot be combined with tools, unless 'tool_choice' is 'none'.");
        }
        Some(calls) if dialect.calls == Calls::Llama && is_json && !calls.required => {
            return refuse(
                "This model writes calls as plain JSON, so its text cannot be JSON as well: set 'tool_choice' to 'none' or 'required'.",
            );
        }
        None if dialect.reasoning.is_none() => return format_rules(format, holding),
        None if *format == Format::Text => return Ok(None),
        _ => {}
    }
    let schema = schema(format, holding)?;
    let expression = match format {
        Format::Grammar(GrammarFormat { syntax: Syntax::Regex, definition }) => Some(regex::ascii(definition)),
        _ => None,
    };
    let body = match (format, &schema, &expression) {
        (_, Some(schema), _) => GrammarBody::Json(schema),
        (_, _, Some(expression)) => GrammarBody::Regex(expression),
        (Format::Grammar(_), ..) => {
            return refuse(
                "This model thinks before it answers, which a Lark grammar of yours leaves no room for. Use a regex or a JSON schema.",
            );
        }
        _ => GrammarBody::Text,
    };
    let thinks = spec.reasoning.effort != Some(Effort::None);
    Ok(Some(Rules::Lark(lark::lark(dialect, &Output { calls, body, thinks }))))
}

/// Returns the rules for calls; `None` if the request has no functions to call.
fn call_rules<'c>(spec: &'c GenerationSpec, holding: &Holding) -> Result<Option<CallRules<'c>>, WireError> {
    let mut functions = Vec::new();
    for tool in spec.callable() {
        let loosened = holding.get(&tool.name).cloned().unwrap_or_default();
        let arguments = lark::arguments(tool, &loosened).map_err(|why| refused(&parameters_of(tool), &why))?;
        functions.push(Callable { name: &tool.name, arguments });
    }
    Ok((!functions.is_empty()).then(|| CallRules {
        functions,
        required: spec.tool_choice.is_required(),
        // With a named function in `tool_choice`, the model calls that function once.
        parallel: spec.parallel_tool_calls && !spec.tool_choice.is_named(),
    }))
}

/// Returns the format as the grammar of the whole output.
fn format_rules(format: &Format, holding: &Holding) -> Result<Option<Rules>, WireError> {
    Ok(match format {
        Format::Grammar(GrammarFormat { syntax: Syntax::Lark, definition }) => Some(Rules::Lark(definition.clone())),
        Format::Grammar(GrammarFormat { syntax: Syntax::Regex, definition }) => {
            Some(Rules::Regex(regex::ascii(definition)))
        }
        json => schema(json, holding)?.map(|schema| Rules::JsonSchema(lark::compact(&schema))),
    })
}

/// Returns the schema that constrains the text of a JSON format; `None` for other formats.
fn schema(format: &Format, holding: &Holding) -> Result<Option<Value>, WireError> {
    let format = match format {
        Format::JsonObject => return Ok(Some(json!({"type": "object"}))),
        Format::JsonSchema(format) => format,
        Format::Text | Format::Grammar(_) => return Ok(None),
    };
    let loosened = holding.get("").cloned().unwrap_or_default();
    let held = schema::hold(&format.schema, &loosened, format.strict == Some(true));
    let mut held = held.map_err(|why| refused(SCHEMA, &why))?;
    // `x-guidance` sets how white space is written.
    if let (Some(members), Some(options), schema::Level::Whole | schema::Level::Shape) =
        (held.as_object_mut(), format.schema.get("x-guidance"), loosened.level)
    {
        members.insert("x-guidance".into(), options.clone());
    }
    Ok(Some(held))
}

/// The path of the field with a format's schema.
pub const SCHEMA: &str = "text.format.schema";

/// Returns the path of the field with a tool's parameters.
pub fn parameters_of(tool: &FunctionTool) -> String {
    format!("{}.parameters", tool.path)
}

/// Maps a refused schema of the field `param` to an error for the client.
pub fn refused(param: &str, why: &Refused) -> WireError {
    let param = schema::join(param, &why.path);
    WireError::invalid(&param, format!("'{param}' {}.", why.reason))
}

fn refuse<T>(message: &str) -> Result<T, WireError> {
    Err(WireError::invalid("text.format", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dialect::Tags, wire::request::Create};

    fn of(dialect: &Dialect, mut fields: Value) -> Result<Option<Rules>, WireError> {
        fields["input"] = "x".into();
        rules(dialect, &Create::from_value(fields).unwrap().into(), &Holding::default())
    }

    fn thinking() -> Dialect {
        let tags = Tags { open: "<think>".into(), close: "</think>".into(), opened: false, optional: false };
        Dialect { reasoning: Some(tags), ..Dialect::default() }
    }

    #[test]
    fn a_format_alone_is_the_grammar() {
        let plain = Dialect::default();
        assert_eq!(of(&plain, json!({})).unwrap(), None);
        assert_eq!(of(&thinking(), json!({})).unwrap(), None);
        let lark = json!({"type": "grammar", "syntax": "lark", "definition": "start: \"a\""});
        let grammar = of(&plain, json!({"text": {"format": lark}})).unwrap();
        assert_eq!(grammar, Some(Rules::Lark("start: \"a\"".into())));
        let regex = json!({"type": "grammar", "syntax": "regex", "definition": "a+"});
        assert_eq!(of(&plain, json!({"text": {"format": regex}})).unwrap(), Some(Rules::Regex("a+".into())));
        let digits = json!({"type": "grammar", "syntax": "regex", "definition": r"\d"});
        assert_eq!(of(&plain, json!({"text": {"format": digits}})).unwrap(), Some(Rules::Regex("[0-9]".into())));
        let lark = match of(&thinking(), json!({"text": {"format": digits}})).unwrap() {
            Some(Rules::Lark(lark)) => lark,
            other => panic!("{other:?}"),
        };
        assert!(lark.contains("/[0-9]/"), "{lark}");
        let given =
            json!({"type": "json_schema", "name": "n", "schema": {"x-guidance": {"whitespace_flexible": true}}});
        let schema = |format| match of(&plain, json!({"text": {"format": format}})).unwrap() {
            Some(Rules::JsonSchema(schema)) => schema,
            other => panic!("{other:?}"),
        };
        assert_eq!(schema(given)["x-guidance"]["whitespace_flexible"], true);
        let object = schema(json!({"type": "json_object"}));
        assert_eq!((&object["type"], &object["x-guidance"]["whitespace_flexible"]), (&json!("object"), &json!(false)));
    }

    #[test]
    fn calls_and_thoughts_make_it_a_grammar_of_the_whole() {
        let tools = json!([{"type": "function", "name": "f"}, {"type": "function", "name": "g"}]);
        let lark = |dialect: &Dialect, fields: Value| match of(dialect, fields).unwrap() {
            Some(Rules::Lark(lark)) => lark,
            other => panic!("{other:?}"),
        };
        let auto = lark(&Dialect::default(), json!({"tools": tools}));
        assert!(auto.contains("\\\"f\\\"") && auto.contains("\\\"g\\\"") && auto.contains("lead"), "{auto}");
        let named =
            lark(&Dialect::default(), json!({"tools": tools, "tool_choice": {"type": "function", "name": "g"}}));
        assert!(!named.contains("\\\"f\\\"") && named.contains("\\\"g\\\"") && !named.contains("lead"), "{named}");
        assert_eq!(of(&Dialect::default(), json!({"tools": tools, "tool_choice": "none"})).unwrap(), None);
        let object = json!({"format": {"type": "json_object"}});
        assert!(lark(&thinking(), json!({"text": object})).contains("thought"));
        let not = lark(&thinking(), json!({"text": object, "reasoning": {"effort": "none"}}));
        assert!(!not.contains("thought"), "{not}");
    }

    #[test]
    fn what_no_grammar_expresses_is_refused() {
        let tools = json!([{"type": "function", "name": "f"}]);
        let lark = json!({"format": {"type": "grammar", "syntax": "lark", "definition": "start: \"a\""}});
        let llama = Dialect { calls: Calls::Llama, ..Dialect::default() };
        for (dialect, fields) in [
            (Dialect::default(), json!({"tools": tools, "text": lark})),
            (thinking(), json!({"text": lark})),
            (llama, json!({"tools": tools, "text": {"format": {"type": "json_object"}}})),
        ] {
            match of(&dialect, fields) {
                Err(WireError::InvalidRequest { param, .. }) => assert_eq!(param.as_deref(), Some("text.format")),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_named_function_is_called_once() {
        let tools = json!([{"type": "function", "name": "f"}]);
        let calls = |choice: Value| {
            let create = Create::from_value(json!({"input": "x", "tools": tools, "tool_choice": choice})).unwrap();
            let spec = create.into();
            let calls = call_rules(&spec, &Holding::default()).unwrap().unwrap();
            (calls.required, calls.parallel)
        };
        assert_eq!(calls(json!({"type": "function", "name": "f"})), (true, false));
        assert_eq!(calls(json!("required")), (true, true));
        assert_eq!(calls(json!("auto")), (false, true));
    }

    #[test]
    fn a_strict_schema_is_refused_with_the_path_of_the_keyword() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "format": "colour"}}});
        let format = |strict: bool| json!({"text": {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": strict}}});
        assert!(of(&Dialect::default(), format(false)).is_ok());
        let strict = json!({"type": "function", "name": "g", "parameters": schema, "strict": true});
        let tools = |before: Value, tool: &Value| json!({"tools": [before, tool]});
        let space = json!({"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "h"}, strict]});
        for (fields, expected) in [
            (format(true), "text.format.schema.properties.a.format"),
            (tools(json!({"type": "function", "name": "f"}), &strict), "tools[1].parameters.properties.a.format"),
            // Counted as the client sent them, those that are left out and those of namespaces included.
            (tools(json!({"type": "web_search"}), &strict), "tools[1].parameters.properties.a.format"),
            (tools(json!({"type": "web_search"}), &space), "tools[1].tools[1].parameters.properties.a.format"),
        ] {
            match of(&Dialect::default(), fields) {
                Err(WireError::InvalidRequest { param, .. }) => assert_eq!(param.as_deref(), Some(expected)),
                other => panic!("{other:?}"),
            }
        }
    }
}
