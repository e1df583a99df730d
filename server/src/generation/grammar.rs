//! What a response's output is held to, by the request and the model's dialect.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::{
    dialect::{
        Calls, Dialect,
        lark::{self, Body, CallRules, Output},
    },
    engine::Grammar,
    wire::{
        error::WireError,
        format::{Format, GrammarFormat, Syntax},
        reasoning::Effort,
        request::Create,
    },
};

/// The grammar of the output; `None` where it is free.
///
/// # Errors
/// `invalid_request` for combinations that no grammar expresses.
pub fn grammar(dialect: &Dialect, create: &Create) -> Result<Option<Grammar>, WireError> {
    let functions: Vec<_> = create.callable().collect();
    let format = &create.text.format;
    let is_json = matches!(format, Format::JsonObject | Format::JsonSchema(_));
    let calls = (!functions.is_empty()).then(|| CallRules {
        functions,
        required: create.tool_choice.is_required(),
        parallel: create.parallel_tool_calls,
    });
    match &calls {
        Some(_) if matches!(format, Format::Grammar(_)) => {
            return refuse("A grammar cannot be combined with tools, unless 'tool_choice' is 'none'.");
        }
        Some(calls) if dialect.calls == Calls::Llama && is_json && !calls.required => {
            return refuse(
                "This model writes calls as plain JSON, so its text cannot be JSON as well: set 'tool_choice' to 'none' or 'required'.",
            );
        }
        None if dialect.reasoning.is_none() => return Ok(alone(format)),
        None if *format == Format::Text => return Ok(None),
        _ => {}
    }
    let schema = schema(format);
    let body = match (format, &schema) {
        (_, Some(schema)) => Body::Json(schema),
        (Format::Grammar(GrammarFormat { syntax: Syntax::Regex, definition }), _) => Body::Regex(definition),
        (Format::Grammar(_), _) => {
            return refuse(
                "This model thinks before it answers, which a Lark grammar of yours leaves no room for. Use a regex or a JSON schema.",
            );
        }
        _ => Body::Text,
    };
    let thinks = create.reasoning.effort != Some(Effort::None);
    Ok(Some(Grammar::Lark(lark::lark(dialect, &Output { calls, body, thinks }))))
}

/// The format as the whole output's grammar.
fn alone(format: &Format) -> Option<Grammar> {
    match format {
        Format::Grammar(GrammarFormat { syntax: Syntax::Lark, definition }) => Some(Grammar::Lark(definition.clone())),
        Format::Grammar(GrammarFormat { syntax: Syntax::Regex, definition }) => {
            Some(Grammar::Regex(definition.clone()))
        }
        json => schema(json).map(|schema| Grammar::JsonSchema(lark::compact(&schema))),
    }
}

fn schema(format: &Format) -> Option<Cow<'_, Value>> {
    match format {
        Format::JsonObject => Some(Cow::Owned(json!({"type": "object"}))),
        Format::JsonSchema(schema) => Some(Cow::Borrowed(&schema.schema)),
        Format::Text | Format::Grammar(_) => None,
    }
}

fn refuse<T>(message: &str) -> Result<T, WireError> {
    Err(WireError::invalid("text.format", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Tags;

    fn of(dialect: &Dialect, mut fields: Value) -> Result<Option<Grammar>, WireError> {
        fields["input"] = "x".into();
        grammar(dialect, &Create::from_value(fields).unwrap())
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
        assert_eq!(grammar, Some(Grammar::Lark("start: \"a\"".into())));
        let regex = json!({"type": "grammar", "syntax": "regex", "definition": "a+"});
        assert_eq!(of(&plain, json!({"text": {"format": regex}})).unwrap(), Some(Grammar::Regex("a+".into())));
        let given =
            json!({"type": "json_schema", "name": "n", "schema": {"x-guidance": {"whitespace_flexible": true}}});
        let schema = |format| match of(&plain, json!({"text": {"format": format}})).unwrap() {
            Some(Grammar::JsonSchema(schema)) => schema,
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
            Some(Grammar::Lark(lark)) => lark,
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
}
