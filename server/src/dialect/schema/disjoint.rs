//! Whether no value fits two schemas at once.

use serde_json::Value;

use super::keywords::TYPES;

/// References that are followed one after the other.
const MAX_REFERENCES: usize = 16;

/// Whether no value fits two of the schemas. `false` where that is not known.
pub fn all(root: &Value, schemas: &[Value]) -> bool {
    schemas.iter().enumerate().all(|(at, first)| {
        schemas.iter().skip(at + 1).all(|second| disjoint(resolved(root, first), resolved(root, second), root))
    })
}

/// What a schema refers to, or itself.
fn resolved<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    for _ in 0..MAX_REFERENCES {
        let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
        match pointer.and_then(|pointer| root.pointer(pointer)) {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

fn disjoint<'s>(first: &'s Value, second: &'s Value, root: &'s Value) -> bool {
    if let (Some(first), Some(second)) = (values(first), values(second)) {
        return first.iter().all(|value| !second.contains(value));
    }
    let (first_types, second_types) = (types(first), types(second));
    if first_types.iter().all(|kind| !second_types.iter().any(|other| overlap(kind, other))) {
        return true;
    }
    if first_types != ["object"] || second_types != ["object"] {
        return false;
    }
    // Objects that both must have a property, of which no value fits both.
    let required = |schema: &Value| -> Vec<String> {
        let names = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        names.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let also = required(second);
    required(first).iter().filter(|name| also.contains(name)).any(|name| {
        match (property(root, first, name), property(root, second, name)) {
            (Some(first), Some(second)) => first.iter().all(|value| !second.contains(value)),
            _ => false,
        }
    })
}

/// The values that a property may have, where they are enumerated.
fn property<'s>(root: &'s Value, schema: &'s Value, name: &str) -> Option<Vec<&'s Value>> {
    values(resolved(root, schema.get("properties")?.get(name)?))
}

/// The values of an enumeration.
fn values(schema: &Value) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum").and_then(Value::as_array)) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(values)) => Some(values.iter().collect()),
        (None, None) => None,
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => match values(schema) {
            Some(values) => values.into_iter().map(type_of).collect(),
            None => TYPES.to_vec(),
        },
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn overlap(first: &str, second: &str) -> bool {
    let is_number = |kind: &str| kind == "integer" || kind == "number";
    first == second || (is_number(first) && is_number(second))
}
