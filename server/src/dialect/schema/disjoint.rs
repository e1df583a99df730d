//! Checks that no value fits two of several schemas, in time that grows with their size and not with the number of pairs.

use std::collections::HashSet;

use serde_json::Value;

use super::keywords::TYPES;

/// Most references in a chain that are followed.
const MAX_REFERENCES: usize = 16;
/// Most alternatives that are compared in pairs.
const MAX_PAIRED: usize = 64;
/// Most bytes of values, as JSON, that are compared: a few times the largest schema.
const MAX_COMPARED: usize = 1 << 20;

/// Returns whether no value fits two of the schemas; `false` if the result is not known.
pub fn all(root: &Value, schemas: &[Value]) -> bool {
    let mut comparison = Comparison { root, left: MAX_COMPARED };
    let schemas: Vec<&Value> = schemas.iter().map(|schema| comparison.resolved(schema)).collect();
    let lists: Vec<_> = schemas.iter().map(|schema| values(schema)).collect();
    if lists.iter().all(Option::is_some) {
        return comparison.are_distinct(lists.into_iter().flatten());
    }
    if comparison.has_discriminator(&schemas) {
        return true;
    }
    let types: Vec<_> = schemas.iter().map(|schema| types(schema)).collect();
    schemas.len() <= MAX_PAIRED
        && (0..schemas.len()).all(|at| {
            (0..at).all(|other| {
                let lists = [values(schemas[at]), values(schemas[other])];
                are_disjoint(&types[at], &types[other])
                    || comparison.has_discriminator(&[schemas[at], schemas[other]])
                    || lists.iter().all(Option::is_some) && comparison.are_distinct(lists.into_iter().flatten())
            })
        })
}

struct Comparison<'s> {
    root: &'s Value,
    /// Bytes of values that may still be compared.
    left: usize,
}

impl<'s> Comparison<'s> {
    /// Returns whether all schemas are of objects that require the same property, with different values in each schema.
    fn has_discriminator(&mut self, schemas: &[&'s Value]) -> bool {
        let Some(first) = schemas.first().filter(|_| schemas.iter().all(|schema| types(schema) == ["object"])) else {
            return false;
        };
        let others: Vec<HashSet<&str>> = schemas.iter().skip(1).map(|schema| required(schema).collect()).collect();
        required(first).filter(|name| others.iter().all(|names| names.contains(name))).any(|name| {
            let list = |schema: &&'s Value| if self.left > 0 { self.property(schema, name) } else { None };
            let lists: Option<Vec<_>> = schemas.iter().map(list).collect();
            lists.is_some_and(|lists| self.are_distinct(lists.into_iter()))
        })
    }

    /// Returns whether no value is in two of the lists.
    fn are_distinct(&mut self, lists: impl Iterator<Item = Vec<&'s Value>>) -> bool {
        let mut seen = HashSet::new();
        for list in lists {
            let mut own = HashSet::new();
            for value in list {
                let text = value.to_string();
                self.left = self.left.saturating_sub(text.len());
                if self.left == 0 || seen.contains(&text) {
                    return false;
                }
                own.insert(text);
            }
            seen.extend(own);
        }
        true
    }

    /// Returns the values of a property, if they are enumerated.
    fn property(&self, schema: &'s Value, name: &str) -> Option<Vec<&'s Value>> {
        values(self.resolved(schema.get("properties")?.get(name)?))
    }

    /// Follows the references of a schema to their target.
    fn resolved(&self, mut schema: &'s Value) -> &'s Value {
        for _ in 0..MAX_REFERENCES {
            let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
            match pointer.and_then(|pointer| self.root.pointer(pointer)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Returns the values of an enumeration.
fn values(schema: &Value) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum").and_then(Value::as_array)) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(values)) => Some(values.iter().collect()),
        (None, None) => None,
    }
}

/// Returns the distinct names of the types of a schema's values.
fn types(schema: &Value) -> Vec<&str> {
    let mut names = match schema.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => match values(schema) {
            Some(values) => values.into_iter().map(type_of).collect(),
            None => TYPES.to_vec(),
        },
    };
    names.sort_unstable();
    names.dedup();
    names
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

/// Returns whether the lists of types have no type in common.
fn are_disjoint(first: &[&str], second: &[&str]) -> bool {
    let is_number = |kind: &str| kind == "integer" || kind == "number";
    let overlap = |first: &str, second: &str| first == second || (is_number(first) && is_number(second));
    !first.iter().any(|kind| second.iter().any(|other| overlap(kind, other)))
}
