//! Rules of schemas that no single field has.

use serde_json::{Value, json};

/// The member is there, and is not null.
pub fn given(name: &str) -> Value {
    json!({"required": [name], "properties": {name: {"not": {"type": "null"}}}})
}

/// At most one of the members is given.
pub fn not_together(one: &str, other: &str) -> Value {
    json!({"not": {"allOf": [given(one), given(other)]}})
}

/// A member with this value has a rule.
pub fn when(name: &str, value: &Value, rule: &Value) -> Value {
    json!({"if": {"required": [name], "properties": {name: value}}, "then": rule})
}

/// Values of `logit_bias`.
pub fn bias() -> Value {
    json!({"type": ["number", "null"], "minimum": -100, "maximum": 100})
}
