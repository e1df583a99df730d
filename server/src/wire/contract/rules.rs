//! Schema rules that concern several fields.

use serde_json::{Value, json};

/// Requires that the member is present and not null.
pub fn given(name: &str) -> Value {
    json!({"required": [name], "properties": {name: {"not": {"type": "null"}}}})
}

/// Requires that at most one of the members is given.
pub fn not_together(one: &str, other: &str) -> Value {
    json!({"not": {"allOf": [given(one), given(other)]}})
}

/// Applies `rule` if the member has this value.
pub fn when(name: &str, value: &Value, rule: &Value) -> Value {
    json!({"if": {"required": [name], "properties": {name: value}}, "then": rule})
}

/// Returns the schema of a value of `logit_bias`.
pub fn bias() -> Value {
    json!({"type": ["number", "null"], "minimum": -100, "maximum": 100})
}
