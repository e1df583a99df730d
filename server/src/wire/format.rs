//! The format that the text of an output must have.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::WireError,
    read::{check_name, read_field, type_of},
    shorten,
};

/// Most bytes of a schema or a grammar.
const MAX_FORMAT_BYTES: usize = 256 * 1024;

/// `text` of a request and a response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "TextOptions")]
pub struct TextConfig {
    pub format: Format,
}

/// `text.format`. The response echoes every field of the type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "TextFormat")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Format {
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    JsonSchema(JsonSchema),
    /// An extension: a grammar that llguidance compiles.
    Grammar(GrammarFormat),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "JsonSchemaFormat")]
#[serde(deny_unknown_fields)]
pub struct JsonSchema {
    #[schemars(pattern(r"^[A-Za-z0-9_-]{1,64}$"))]
    pub name: String,
    pub description: Option<String>,
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub schema: Value,
    /// `true`: the server refuses a schema with parts that it cannot enforce.
    #[serde(default)]
    pub strict: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrammarFormat {
    pub syntax: Syntax,
    pub definition: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "GrammarSyntax")]
#[serde(rename_all = "lowercase")]
pub enum Syntax {
    Lark,
    Regex,
}

/// Parses `text.format`.
pub fn parse_format(mut format: Value) -> Result<Format, WireError> {
    const PATH: &str = "text.format";
    /// A format without fields beside its type.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bare {}
    let kind = type_of(PATH, &format)?.to_owned();
    if let Some(members) = format.as_object_mut() {
        members.remove("type");
    }
    let format = match kind.as_str() {
        "text" => read_field(PATH, format).map(|Bare {}| Format::Text)?,
        "json_object" => read_field(PATH, format).map(|Bare {}| Format::JsonObject)?,
        "json_schema" => Format::JsonSchema(read_field(PATH, format)?),
        "grammar" => Format::Grammar(read_field(PATH, format)?),
        _ => {
            let message = format!("Formats of type '{}' are not supported.", shorten(&kind));
            return Err(WireError::invalid("text.format.type", message));
        }
    };
    let bytes = match &format {
        Format::Text | Format::JsonObject => 0,
        Format::JsonSchema(JsonSchema { name, schema, .. }) => {
            check_name("text.format.name", name)?;
            if !schema.is_object() {
                let message = "'text.format.schema' must be a JSON schema.";
                return Err(WireError::invalid("text.format.schema", message));
            }
            schema.to_string().len()
        }
        Format::Grammar(grammar) => grammar.definition.len(),
    };
    if bytes > MAX_FORMAT_BYTES {
        return Err(WireError::invalid(PATH, format!("A format may have at most {MAX_FORMAT_BYTES} bytes.")));
    }
    Ok(format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats_are_echoed_with_all_their_fields() {
        for format in [
            json!({"type": "text"}),
            json!({"type": "json_object"}),
            json!({"type": "json_schema", "name": "n", "description": null, "schema": {"type": "object"}, "strict": true}),
            json!({"type": "grammar", "syntax": "lark", "definition": "start: \"a\""}),
        ] {
            let parsed = parse_format(format.clone()).unwrap();
            assert_eq!(serde_json::to_value(&parsed).unwrap(), format);
            assert_eq!(serde_json::from_value::<Format>(format).unwrap(), parsed, "as stores read it");
        }
    }

    #[test]
    fn errors_name_the_field() {
        for (format, param) in [
            (json!(1), "text.format"),
            (json!({}), "text.format.type"),
            (json!({"type": null}), "text.format.type"),
            (json!({"type": 7}), "text.format.type"),
            (json!({"type": "xml"}), "text.format.type"),
            (json!({"type": "text", "colour": 1}), "text.format.colour"),
            (json!({"type": "json_schema", "schema": {}}), "text.format.name"),
            (json!({"type": "json_schema", "name": "n"}), "text.format.schema"),
            (json!({"type": "json_schema", "name": "n", "schema": []}), "text.format.schema"),
            (json!({"type": "json_schema", "name": "a b", "schema": {}}), "text.format.name"),
            (json!({"type": "grammar", "syntax": "bnf", "definition": "x"}), "text.format.syntax"),
            (json!({"type": "grammar", "syntax": "regex", "definition": "x".repeat(270_000)}), "text.format"),
        ] {
            match parse_format(format.clone()) {
                Err(WireError::InvalidRequest { param: Some(found), .. }) => assert_eq!(found, param, "{format}"),
                other => panic!("{format}: {other:?}"),
            }
        }
    }
}
