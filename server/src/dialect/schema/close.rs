//! Closing objects. An object whose schema does not say whether it may have other properties has none: a model that may add
//! properties adds them until its output ends.
//!
//! Where a schema is a union or an intersection, the properties that any of its parts names are allowed in each part.

use serde_json::{Map, Value, json};

/// Parts within parts of one schema.
const MAX_DEPTH: usize = 16;
const DEFINITIONS: &str = "#/$defs/";

/// Closes `root` and the `definitions` that it refers to, and puts them together.
pub fn close(root: Value, definitions: Map<String, Value>) -> Value {
    let closer = Closer { definitions: &definitions };
    let mut closed = closer.close(root, &[], 0);
    if let Value::Object(members) = &mut closed
        && !definitions.is_empty()
    {
        let all = definitions.iter().map(|(name, schema)| (name.clone(), closer.close(schema.clone(), &[], 0)));
        members.insert("$defs".into(), Value::Object(all.collect()));
    }
    closed
}

struct Closer<'d> {
    definitions: &'d Map<String, Value>,
}

impl Closer<'_> {
    /// The schema of a place. `also`: names of properties that other parts of the schema of that place allow.
    fn close(&self, schema: Value, also: &[String], depth: usize) -> Value {
        let Value::Object(mut members) = schema else { return schema };
        if depth > MAX_DEPTH {
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
            if own.is_empty() && also.is_empty() && !is_union && !is_intersection {
                return Value::Object(members);
            }
            members.remove("$ref");
            let all = members.entry("allOf").or_insert_with(|| json!([]));
            all.as_array_mut().into_iter().for_each(|all| all.insert(0, json!({"$ref": reference})));
        }
        let parts: Vec<Value> = members.get("allOf").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut allowed = also.to_vec();
        extend(&mut allowed, own.clone());
        match parts.as_slice() {
            // A reference in a wrapper, as some write it to add a description.
            [one] if allowed.is_empty() && !is_union => {
                members.insert("allOf".into(), json!([self.close(one.clone(), &[], depth + 1)]));
                return Value::Object(members);
            }
            parts => parts.iter().for_each(|part| extend(&mut allowed, self.all_names(part, 0))),
        }
        let explicit = members.contains_key("additionalProperties");
        let mut is_closed = explicit;
        if let Some(Value::Array(options)) = members.get_mut("anyOf") {
            for option in options.iter_mut() {
                let given = std::mem::take(option);
                let whole = if allowed.is_empty() { given } else { self.inlined(given, 0) };
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
            let close = |schema: &mut Value| *schema = self.close(std::mem::take(schema), &[], depth + 1);
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
            Some(target) if depth < MAX_DEPTH => self.inlined(target.clone(), depth + 1),
            _ => schema,
        }
    }

    fn target(&self, reference: &Value) -> Option<&Value> {
        self.definitions.get(reference.as_str()?.strip_prefix(DEFINITIONS)?)
    }

    /// The properties that any part of the schema names.
    fn all_names(&self, schema: &Value, depth: usize) -> Vec<String> {
        let Some(members) = schema.as_object().filter(|_| depth < MAX_DEPTH) else { return vec![] };
        let mut all = names(members);
        let parts = ["anyOf", "allOf"].into_iter().filter_map(|keyword| members.get(keyword)?.as_array()).flatten();
        for part in parts.chain(members.get("$ref").and_then(|reference| self.target(reference))) {
            extend(&mut all, self.all_names(part, depth + 1));
        }
        all
    }
}

/// The properties that a schema itself names.
fn names(members: &Map<String, Value>) -> Vec<String> {
    let mut names: Vec<String> =
        members.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned().collect();
    let required = members.get("required").and_then(Value::as_array).into_iter().flatten();
    extend(&mut names, required.filter_map(Value::as_str).map(str::to_owned).collect());
    names
}

fn extend(all: &mut Vec<String>, more: Vec<String>) {
    for name in more {
        if !all.contains(&name) {
            all.push(name);
        }
    }
}

/// Closes an object whose properties are known. One that names none, and one that must have more than it names, stay open.
fn seal(members: &mut Map<String, Value>, allowed: &[String]) {
    let is_object = members.get("type").is_none_or(|kind| {
        *kind == "object" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "object"))
    });
    let names_some = members.contains_key("properties") || !allowed.is_empty();
    let least = members.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
    if !is_object || !names_some || least > allowed.len() as u64 {
        return;
    }
    let has_patterns = members.contains_key("patternProperties");
    let properties = members.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut().filter(|_| !has_patterns) {
        for name in allowed {
            properties.entry(name.clone()).or_insert(Value::Bool(true));
        }
    }
    members.insert("additionalProperties".into(), Value::Bool(false));
}
