//! Closes the schemas of objects: without `additionalProperties`, an object may have only the named properties. A model that may
//! add properties adds them until its output ends.
//!
//! In a union or an intersection, each part allows the properties that any part names.

use std::{cell::Cell, collections::HashSet};

use serde_json::{Map, Value, json};

/// Most levels of nested parts of one schema.
const MAX_DEPTH: usize = 16;
/// Most values that closing may read or add: a number for each value of the schema, and a constant. Parts that refer to each
/// other, and properties of many alternatives, would multiply.
const GROWTH: usize = 8;
const GROWTH_BESIDE: usize = 4096;
const DEFINITIONS: &str = "#/$defs/";

/// Closes `root` and the `definitions` that it refers to, and joins them. All objects stay open if the closed schema would be too
/// large.
pub fn close(root: Value, definitions: Map<String, Value>) -> Value {
    let values = size(&root) + definitions.values().map(size).sum::<usize>();
    let closer = Closer { definitions: &definitions, left: Cell::new(GROWTH_BESIDE + GROWTH * values) };
    let closed = closer.close(root.clone(), &PropertyNames::default(), 0);
    let places = definitions
        .iter()
        .map(|(name, schema)| (name.clone(), closer.close(schema.clone(), &PropertyNames::default(), 0)))
        .collect();
    if closer.left.get() == 0 {
        return joined(root, definitions);
    }
    joined(closed, places)
}

fn joined(mut root: Value, definitions: Map<String, Value>) -> Value {
    if let Value::Object(members) = &mut root
        && !definitions.is_empty()
    {
        members.insert("$defs".into(), Value::Object(definitions));
    }
    root
}

/// Counts the values within a value, including itself.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(all) => all.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum(),
        _ => 0,
    }
}

/// Distinct names of properties, in the order of their first occurrence.
#[derive(Clone, Default)]
struct PropertyNames {
    all: Vec<String>,
    known: HashSet<String>,
}

impl Extend<String> for PropertyNames {
    fn extend<I: IntoIterator<Item = String>>(&mut self, more: I) {
        for name in more {
            if self.known.insert(name.clone()) {
                self.all.push(name);
            }
        }
    }
}

struct Closer<'d> {
    definitions: &'d Map<String, Value>,
    /// The number of values that may still be read or added.
    left: Cell<usize>,
}

impl Closer<'_> {
    /// Subtracts from the remaining number of values. Returns `false` if none remain, also in all later calls.
    fn spend(&self, values: usize) -> bool {
        let left = self.left.get().saturating_sub(values);
        self.left.set(left);
        left > 0
    }

    /// Closes a schema. `also`: the names of properties that other parts of the same union or intersection allow.
    fn close(&self, schema: Value, also: &PropertyNames, depth: usize) -> Value {
        let Value::Object(mut members) = schema else { return schema };
        if depth > MAX_DEPTH || !self.spend(1 + also.all.len()) {
            return Value::Object(members);
        }
        self.close_places(&mut members, depth);
        let is_union = members.contains_key("anyOf");
        let is_intersection = members.contains_key("allOf");
        if members.contains_key("additionalProperties") && !is_union && !is_intersection {
            return Value::Object(members);
        }
        let own = names(&members);
        if let Some(reference) = members.get("$ref").cloned() {
            // The definition is closed on its own, unless this schema adds properties.
            if own.all.is_empty() && also.all.is_empty() && !is_union && !is_intersection {
                return Value::Object(members);
            }
            members.remove("$ref");
            let all = members.entry("allOf").or_insert_with(|| json!([]));
            all.as_array_mut().into_iter().for_each(|all| all.insert(0, json!({"$ref": reference})));
        }
        let parts: Vec<Value> = members.get("allOf").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut allowed = also.clone();
        allowed.extend(own.all);
        match parts.as_slice() {
            // A single part, such as a reference that is wrapped to add a description.
            [one] if allowed.all.is_empty() && !is_union => {
                members.insert("allOf".into(), json!([self.close(one.clone(), &PropertyNames::default(), depth + 1)]));
                return Value::Object(members);
            }
            parts => parts.iter().for_each(|part| allowed.extend(self.all_names(part, 0).all)),
        }
        let explicit = members.contains_key("additionalProperties");
        let mut is_closed = explicit;
        if let Some(Value::Array(options)) = members.get_mut("anyOf") {
            for option in options.iter_mut() {
                let given = std::mem::take(option);
                let whole = if allowed.all.is_empty() { given } else { self.inlined(given, 0) };
                *option = if explicit { whole } else { self.close(whole, &allowed, depth + 1) };
            }
            is_closed = true;
        }
        if !parts.is_empty() {
            let parts = parts.into_iter().map(|part| {
                let part = self.inlined(part, 0);
                // Closing one union among the parts closes the whole intersection.
                if !is_closed && part.get("anyOf").is_some() {
                    is_closed = true;
                    return self.close(part, &allowed, depth + 1);
                }
                let Value::Object(mut members) = part else { return part };
                self.close_places(&mut members, depth);
                Value::Object(members)
            });
            let parts = parts.collect();
            members.insert("allOf".into(), Value::Array(parts));
        }
        if !is_closed {
            seal(&mut members, &allowed);
        }
        Value::Object(members)
    }

    /// Closes the schemas of properties and items.
    fn close_places(&self, members: &mut Map<String, Value>, depth: usize) {
        for (keyword, value) in members.iter_mut() {
            let close =
                |schema: &mut Value| *schema = self.close(std::mem::take(schema), &PropertyNames::default(), depth + 1);
            match (keyword.as_str(), value) {
                ("properties" | "patternProperties", Value::Object(all)) => all.values_mut().for_each(close),
                ("prefixItems", Value::Array(all)) => all.iter_mut().for_each(close),
                ("items" | "additionalProperties", schema) => close(schema),
                _ => {}
            }
        }
    }

    /// Replaces a schema that is only a reference by its target.
    fn inlined(&self, schema: Value, depth: usize) -> Value {
        let target = match schema.as_object() {
            Some(members) if members.len() == 1 => members.get("$ref").and_then(|reference| self.target(reference)),
            _ => None,
        };
        match target {
            Some(target) if depth < MAX_DEPTH && self.spend(size(target)) => self.inlined(target.clone(), depth + 1),
            _ => schema,
        }
    }

    fn target(&self, reference: &Value) -> Option<&Value> {
        self.definitions.get(reference.as_str()?.strip_prefix(DEFINITIONS)?)
    }

    /// Returns the names of properties in all parts of a schema.
    fn all_names(&self, schema: &Value, depth: usize) -> PropertyNames {
        let Some(members) = schema.as_object().filter(|_| depth < MAX_DEPTH) else { return PropertyNames::default() };
        let mut all = names(members);
        let parts = ["anyOf", "allOf"].into_iter().filter_map(|keyword| members.get(keyword)?.as_array()).flatten();
        for part in parts.chain(members.get("$ref").and_then(|reference| self.target(reference))) {
            if !self.spend(1 + all.all.len()) {
                break;
            }
            all.extend(self.all_names(part, depth + 1).all);
        }
        all
    }
}

/// Returns the names of properties in the schema itself, without its parts.
fn names(members: &Map<String, Value>) -> PropertyNames {
    let mut names = PropertyNames::default();
    names.extend(members.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned());
    let required = members.get("required").and_then(Value::as_array).into_iter().flatten();
    names.extend(required.filter_map(Value::as_str).map(str::to_owned));
    names
}

/// Closes an object. It stays open if it names no properties, or if it must have more properties than it names.
fn seal(members: &mut Map<String, Value>, allowed: &PropertyNames) {
    let is_object = members.get("type").is_none_or(|kind| {
        *kind == "object" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "object"))
    });
    let names_some = members.contains_key("properties") || !allowed.all.is_empty();
    let least = members.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
    if !is_object || !names_some || least > allowed.all.len() as u64 {
        return;
    }
    let has_patterns = members.contains_key("patternProperties");
    let properties = members.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut().filter(|_| !has_patterns) {
        for name in &allowed.all {
            properties.entry(name.clone()).or_insert(Value::Bool(true));
        }
    }
    members.insert("additionalProperties".into(), Value::Bool(false));
}
