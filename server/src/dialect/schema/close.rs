//! Closing objects. An object whose schema does not say whether it may have other properties has none: a model that may add
//! properties adds them until its output ends.
//!
//! Where a schema is a union or an intersection, the properties that any of its parts names are allowed in each part.

use std::{cell::Cell, collections::HashSet};

use serde_json::{Map, Value, json};

/// Parts within parts of one schema.
const MAX_DEPTH: usize = 16;
/// Values that closing may read or add, for each value of the schema, and beside those: parts that refer to each other, and
/// properties of many alternatives, multiply.
const GROWTH: usize = 8;
const GROWTH_BESIDE: usize = 4096;
const DEFINITIONS: &str = "#/$defs/";

/// Closes `root` and the `definitions` that it refers to, and puts them together. Objects stay open if closing all of them
/// would let the schema grow too far.
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

/// How many values a value has, itself included.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(all) => all.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum(),
        _ => 0,
    }
}

/// PropertyNames of properties, each once, in the order in which they came.
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
    /// Values that may still be read or added.
    left: Cell<usize>,
}

impl Closer<'_> {
    /// Takes from what is left; returns `false`, now and later, if that is too little.
    fn spend(&self, values: usize) -> bool {
        let left = self.left.get().saturating_sub(values);
        self.left.set(left);
        left > 0
    }

    /// Closes the schema of a place. `also`: names of properties that other parts of the schema of that place allow.
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
            // What is referred to closes itself, unless something is added to it here.
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
            // A reference in a wrapper, as some write it to add a description.
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
                // One union within is enough to close the whole.
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

    /// Closes the schemas of the values within a value.
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

    /// A schema in the place of a reference to it.
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

    /// The properties that any part of the schema names.
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

/// The properties that a schema itself names.
fn names(members: &Map<String, Value>) -> PropertyNames {
    let mut names = PropertyNames::default();
    names.extend(members.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned());
    let required = members.get("required").and_then(Value::as_array).into_iter().flatten();
    names.extend(required.filter_map(Value::as_str).map(str::to_owned));
    names
}

/// Closes an object whose properties are known. One that names none, and one that must have more than it names, stay open.
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
