//! The schemas of a document, each under the name of its type.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

const WRITTEN: &str = "#/components/schemas/";
/// The path of the schemas that the server reads, until [`Schemas::finish`] names them.
const READ: &str = "#/components/read/";

/// Collects schemas of types that the server writes, in which a field without a value may be null, and of types that it reads,
/// in which such a field may be left out.
pub struct Schemas {
    written: SchemaGenerator,
    read: SchemaGenerator,
    /// Schemas without a Rust type, such as the events of a response.
    own: Map<String, Value>,
}

impl Schemas {
    pub fn new() -> Self {
        let settings = |path: &str| {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = path.trim_start_matches('#').trim_end_matches('/').to_owned().into();
                settings.meta_schema = None;
            })
        };
        Self {
            written: settings(WRITTEN).for_serialize().into_generator(),
            read: settings(READ).for_deserialize().into_generator(),
            own: Map::new(),
        }
    }

    /// Returns a reference to the schema of a type that the server writes.
    pub fn written<T: JsonSchema + ?Sized>(&mut self) -> Value {
        self.written.subschema_for::<T>().to_value()
    }

    /// Returns a reference to the schema of a type that the server reads.
    pub fn read<T: JsonSchema + ?Sized>(&mut self) -> Value {
        self.read.subschema_for::<T>().to_value()
    }

    /// Adds a schema under a name. Returns a reference to it.
    pub fn add(&mut self, name: &str, schema: Value) -> Value {
        self.own.insert(name.into(), schema);
        reference(name)
    }

    /// Returns the variants of a tagged enum that the server writes, each with its tag.
    pub fn variants<T: JsonSchema>(&mut self) -> Vec<(String, Value)> {
        let schema = T::json_schema(&mut self.written).to_value();
        let variants = schema["oneOf"].as_array().cloned().unwrap_or_default();
        variants.into_iter().map(|variant| (tag(&variant).unwrap_or_default().to_owned(), variant)).collect()
    }

    /// Returns the schema of an object that the server reads, not a reference.
    pub fn fields<T: JsonSchema>(&mut self) -> Value {
        T::json_schema(&mut self.read).to_value()
    }

    /// Adds all schemas to `document`. A type with a different shape in each direction is added twice; the name of the one that
    /// the server reads ends in `Param`.
    pub fn finish(mut self, mut document: Value) -> Value {
        let mut written = self.written.take_definitions(true);
        let mut read = self.read.take_definitions(true);
        written.append(&mut self.own);
        for definitions in [&mut written, &mut read] {
            definitions.values_mut().for_each(plain_numbers);
            merge_tags(definitions);
        }
        let mut twice: Vec<String> = vec![];
        loop {
            let differs = |(name, schema): &(&String, &Value)| {
                let mut schema = (*schema).clone();
                each_reference(&mut schema, &mut |path| rename(path, &twice));
                !twice.contains(name) && written.get(*name).is_some_and(|other| *other != schema)
            };
            let Some((name, _)) = read.iter().find(differs) else { break };
            twice.push(name.clone());
        }
        for (name, mut schema) in read {
            let name = if twice.contains(&name) { format!("{name}Param") } else { name };
            each_reference(&mut schema, &mut |path| rename(path, &twice));
            written.insert(name, schema);
        }
        each_reference(&mut document, &mut |path| rename(path, &twice));
        written.values_mut().for_each(|schema| {
            plain_numbers(schema);
            each_reference(schema, &mut |path| rename(path, &twice));
        });
        written.sort_keys();
        document["components"]["schemas"] = Value::Object(written);
        document
    }
}

pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{WRITTEN}{name}") })
}

/// Returns the name of an event's schema: `response.output_text.delta` → `ResponseOutputTextDeltaEvent`.
pub fn event_name(tag: &str) -> String {
    let words = tag.split(|c: char| !c.is_ascii_alphanumeric());
    let mut name: String = words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect();
    name.push_str("Event");
    name
}

fn rename(path: &mut String, twice: &[String]) {
    if let Some(name) = path.strip_prefix(READ) {
        let suffix = if twice.iter().any(|other| other == name) { "Param" } else { "" };
        *path = format!("{WRITTEN}{name}{suffix}");
    }
}

/// Visits each `$ref`.
pub fn each_reference(value: &mut Value, visit: &mut impl FnMut(&mut String)) {
    match value {
        Value::Object(members) => members.iter_mut().for_each(|(key, value)| match value {
            Value::String(path) if key == "$ref" => visit(path),
            other => each_reference(other, visit),
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| each_reference(item, visit)),
        _ => {}
    }
}

/// Replaces Rust's number formats, such as `uint64`, by standard keywords.
fn plain_numbers(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let most = match members.get("format").and_then(Value::as_str) {
                Some("uint8") => Some(json!(u8::MAX)),
                Some("uint16") => Some(json!(u16::MAX)),
                Some("uint32") => Some(json!(u32::MAX)),
                Some("uint" | "uint64" | "int128" | "float" | "double") => None,
                _ => return members.values_mut().for_each(plain_numbers),
            };
            members.remove("format");
            if let Some(most) = most.filter(|_| !members.contains_key("maximum")) {
                members.insert("maximum".into(), most);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain_numbers),
        _ => {}
    }
}

fn tag(variant: &Value) -> Option<&str> {
    variant["properties"]["type"]["const"].as_str()
}

/// Moves the tags of enums into the objects that they tag.
fn merge_tags(definitions: &mut Map<String, Value>) {
    let mut tags: Vec<(String, String)> = vec![];
    for schema in definitions.values_mut() {
        let Some(variants) = schema.get_mut("oneOf").and_then(Value::as_array_mut) else { continue };
        for variant in variants {
            let name = variant["$ref"].as_str().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
            if let (Some(name), Some(tag)) = (name, tag(variant)) {
                tags.push((name, tag.to_owned()));
                *variant = json!({ "$ref": variant["$ref"] });
            }
        }
    }
    for (name, tag) in tags {
        if let Some(schema) = definitions.get_mut(&name) {
            add_first(schema, "type", json!({"type": "string", "const": tag}));
        }
    }
}

/// Puts a required property before the others.
pub fn add_first(schema: &mut Value, name: &str, property: Value) {
    let Some(members) = schema.as_object_mut() else { return };
    let mut properties = Map::from_iter([(name.to_owned(), property)]);
    if let Some(Value::Object(others)) = members.remove("properties") {
        properties.extend(others.into_iter().filter(|(other, _)| other != name));
    }
    members.insert("properties".into(), Value::Object(properties));
    let required = members.entry("required").or_insert_with(|| json!([]));
    if let Some(required) = required.as_array_mut().filter(|required| !required.iter().any(|other| other == name)) {
        required.insert(0, name.into());
    }
}

/// Adds properties to an object, required ones or not.
pub fn add(schema: &mut Value, required: bool, properties: &[(&str, Value)]) {
    for (name, property) in properties {
        schema["properties"][*name] = property.clone();
        if required {
            let names = schema.as_object_mut().map(|members| members.entry("required").or_insert_with(|| json!([])));
            if let Some(names) = names.and_then(Value::as_array_mut) {
                names.push((*name).into());
            }
        }
    }
}

/// Returns the schema of an event's `type`.
pub fn type_of(tag: &str) -> Value {
    json!({"type": "string", "const": tag})
}
