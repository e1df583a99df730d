//! Reads a client's schema keyword by keyword.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    super::regex,
    disjoint,
    keywords::{BOUNDS, Kind, TYPES, is_format, kind},
    loosened::{Level, Loosened},
};

/// Most levels of nested schemas.
const MAX_DEPTH: usize = 128;
/// The largest absolute value of a range's bound. The compiler overflows its stack at some larger ones, so wider ranges are
/// narrowed.
const FARTHEST: f64 = 1e18;
/// 2^53. The compiler stores integers as floats, which are exact below this.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// The place of all definitions that references name.
const DEFINITIONS: &str = "#/$defs/";

/// The reason why a schema is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The path of the keyword within the schema, such as `properties.name.pattern`. Empty: the schema itself.
    pub path: String,
    pub reason: String,
}

/// The constraints of one place of a schema, as a separate schema.
#[derive(Debug, PartialEq)]
pub struct Site {
    /// The path of the place. [`join`] makes the path of a keyword from it.
    pub path: String,
    /// The keywords in the order in which they are dropped.
    pub keywords: Vec<String>,
    pub schema: Value,
}

/// Reads one schema.
pub struct Walker<'s> {
    root: &'s Value,
    loosened: &'s Loosened,
    strict: bool,
    /// The names of the definitions, by the pointer into the root.
    names: HashMap<String, String>,
    /// The definitions that are not read yet: name, schema and path.
    unread: Vec<(String, &'s Value, String)>,
    /// The definitions that are made here: schemas that hold for several names, by the definition's name.
    shared: Map<String, Value>,
    sites: Vec<Site>,
    depth: usize,
}

impl<'s> Walker<'s> {
    pub fn new(root: &'s Value, loosened: &'s Loosened, strict: bool) -> Self {
        Self {
            root,
            loosened,
            strict,
            names: HashMap::new(),
            unread: vec![],
            shared: Map::new(),
            sites: vec![],
            depth: 0,
        }
    }

    /// Reads all definitions that references name.
    pub fn definitions(&mut self) -> Result<Map<String, Value>, Refused> {
        let mut definitions = Map::new();
        while let Some((name, schema, mut path)) = self.unread.pop() {
            let read = self.schema(schema, &mut path)?;
            definitions.insert(name, read);
        }
        definitions.append(&mut self.shared);
        Ok(definitions)
    }

    pub fn into_sites(self) -> Vec<Site> {
        self.sites
    }

    /// Reads one schema. `path`: its place in the root.
    pub fn schema(&mut self, schema: &'s Value, path: &mut String) -> Result<Value, Refused> {
        let members = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(members) => members,
            _ => return refuse(path, "must be a JSON schema, so an object or a boolean"),
        };
        if self.depth >= MAX_DEPTH {
            return refuse(path, &format!("is nested deeper than {MAX_DEPTH} schemas"));
        }
        self.depth += 1;
        let mut out = Map::new();
        for (keyword, value) in members {
            let length = path.len();
            *path = join(path, keyword);
            let read = self.keyword(keyword, value, members, path, &mut out);
            read?;
            path.truncate(length);
        }
        self.names_of_properties(members, &mut out);
        self.site(path, &out);
        self.depth -= 1;
        Ok(Value::Object(out))
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &'s Value,
        members: &Map<String, Value>,
        path: &mut String,
        out: &mut Map<String, Value>,
    ) -> Result<(), Refused> {
        match kind(keyword) {
            Kind::Annotation => return Ok(()),
            Kind::Unenforced if is_trivial(keyword, value, members) => return Ok(()),
            Kind::Unenforced => return self.ignore(path, "is a keyword that the server cannot enforce"),
            // The pattern beside an unknown format defines it.
            Kind::Bound if keyword == "format" && members.contains_key("pattern") && !is_known_format(value) => {
                return Ok(());
            }
            Kind::Bound if self.loosened.level >= Level::Shape => return self.ignore(path, "is too complex"),
            Kind::Bound if self.loosened.dropped.contains(path.as_str()) => {
                return self.ignore(path, "cannot be compiled, or is too complex");
            }
            Kind::Bound => return self.bound(keyword, value, path, out),
            Kind::Enforced => {}
        }
        let read = match keyword {
            "type" => types(value, path)?,
            "enum" | "const" if is_inexact(value) => {
                return self.ignore(path, "has an integer with more digits than the server can enforce");
            }
            "enum" | "const" | "required" => value.clone(),
            "$ref" => match self.reference(value) {
                Some(reference) => reference,
                None => return self.ignore(path, "refers to a schema outside this one"),
            },
            "properties" => self.map(value, path)?,
            "items" if value.is_array() => {
                // The notation of a tuple up to draft 2019-09.
                out.insert("prefixItems".into(), self.list(value, path)?);
                let rest = members.get("additionalItems").cloned().unwrap_or(Value::Bool(true));
                out.insert("items".into(), Value::Bool(rest != Value::Bool(false)));
                return Ok(());
            }
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => self.list(value, path)?,
            _ => self.schema(value, path)?,
        };
        match keyword {
            "oneOf" => self.one_of(value, read, path, out),
            "enum" if read.as_array().is_none_or(Vec::is_empty) => refuse(path, "must be an array of values"),
            "required" if !read.as_array().is_some_and(|names| names.iter().all(Value::is_string)) => {
                refuse(path, "must be an array of names")
            }
            _ => {
                out.insert(keyword.to_owned(), read);
                Ok(())
            }
        }
    }

    /// Replaces `oneOf` by `anyOf`, which means the same if no value fits two of the schemas.
    fn one_of(&self, given: &Value, read: Value, path: &str, out: &mut Map<String, Value>) -> Result<(), Refused> {
        let options = given.as_array().map(Vec::as_slice).unwrap_or_default();
        if !disjoint::all(self.root, options) {
            self.ignore(path, "has alternatives that may both fit one value, which is not checked")?;
        }
        if out.contains_key("anyOf") {
            let also = out.entry("allOf").or_insert_with(|| json!([]));
            also.as_array_mut().into_iter().for_each(|all| all.push(json!({"anyOf": read})));
        } else {
            out.insert("anyOf".into(), read);
        }
        Ok(())
    }

    fn bound(
        &mut self,
        keyword: &str,
        value: &'s Value,
        path: &mut String,
        out: &mut Map<String, Value>,
    ) -> Result<(), Refused> {
        let fits = match keyword {
            "pattern" => value.is_string(),
            "format" if !is_known_format(value) => {
                return self.ignore(path, "is a format that the server cannot enforce");
            }
            "format" => true,
            "patternProperties" => value.is_object(),
            "exclusiveMinimum" | "exclusiveMaximum" => value.is_number() || value.is_boolean(),
            "minimum" | "maximum" => value.is_number(),
            "multipleOf" => value.as_f64().is_some_and(|n| n > 0.0),
            _ => value.as_f64().is_some_and(|n| n >= 0.0 && n.fract() == 0.0),
        };
        if !fits {
            return self.ignore(path, "has a value of the wrong type");
        }
        let read = match keyword {
            "pattern" => regex::pattern(value.as_str().unwrap_or_default()).into(),
            "patternProperties" => match self.map(value, path)? {
                Value::Object(all) => {
                    all.into_iter().map(|(pattern, schema)| (regex::pattern(&pattern), schema)).collect()
                }
                other => other,
            },
            name if name.ends_with("Minimum")
                || name.ends_with("Maximum")
                || name == "minimum"
                || name == "maximum" =>
            {
                match within(name, value) {
                    Some(bound) => bound,
                    None => return self.ignore(path, "is farther from zero than 10^18"),
                }
            }
            // All versions of a UUID are written alike.
            "format" if value.as_str().is_some_and(|name| name.starts_with("uuid")) => json!("uuid"),
            // 3.0 is an integer in JSON Schema.
            name if name.ends_with("Length") || name.ends_with("Items") || name.ends_with("Properties") => {
                json!(value.as_f64().unwrap_or(0.0) as u64)
            }
            _ => value.clone(),
        };
        out.insert(keyword.to_owned(), read);
        Ok(())
    }

    /// Ignores a keyword, or refuses it if the client is strict.
    fn ignore(&self, path: &str, reason: &str) -> Result<(), Refused> {
        if self.strict { refuse(path, reason) } else { Ok(()) }
    }

    fn map(&mut self, value: &'s Value, path: &mut String) -> Result<Value, Refused> {
        let Some(members) = value.as_object() else { return refuse(path, "must be an object of JSON schemas") };
        let mut out = Map::new();
        for (name, schema) in members {
            let length = path.len();
            path.push('.');
            path.push_str(name);
            out.insert(name.clone(), self.schema(schema, path)?);
            path.truncate(length);
        }
        Ok(Value::Object(out))
    }

    fn list(&mut self, value: &'s Value, path: &mut String) -> Result<Value, Refused> {
        let Some(schemas) = value.as_array().filter(|schemas| !schemas.is_empty()) else {
            return refuse(path, "must be an array of JSON schemas");
        };
        let mut out = Vec::new();
        for (at, schema) in schemas.iter().enumerate() {
            let length = path.len();
            path.push_str(&format!("[{at}]"));
            out.push(self.schema(schema, path)?);
            path.truncate(length);
        }
        Ok(Value::Array(out))
    }

    fn reference(&mut self, value: &Value) -> Option<Value> {
        // Decoded, so that one place has one name in every spelling.
        let pointer = decoded(value.as_str()?.strip_prefix('#')?);
        let target = self.root.pointer(&pointer)?;
        let next = format!("d{}", self.names.len());
        let name = match self.names.get(&pointer) {
            Some(name) => name.clone(),
            None => {
                let place = pointer.trim_start_matches('/').replace('/', ".");
                self.names.insert(pointer, next.clone());
                self.unread.push((next.clone(), target, place));
                next
            }
        };
        Some(Value::String(format!("{DEFINITIONS}{name}")))
    }

    /// Turns `propertyNames` with a list or a pattern into properties of these names.
    fn names_of_properties(&mut self, members: &Map<String, Value>, out: &mut Map<String, Value>) {
        let Some(names) = members.get("propertyNames") else { return };
        let listed =
            names.get("enum").and_then(Value::as_array).cloned().or_else(|| Some(vec![names.get("const")?.clone()]));
        let pattern = names.get("pattern").and_then(Value::as_str).map(regex::pattern);
        let (place, names): (&str, Vec<&str>) = match (&listed, &pattern) {
            (Some(listed), _) => ("properties", listed.iter().filter_map(Value::as_str).collect()),
            (None, Some(pattern)) => ("patternProperties", vec![pattern.as_str()]),
            (None, None) => return,
        };
        let value = out.remove("additionalProperties").unwrap_or(Value::Bool(true));
        // All names share one copy.
        let value = if names.len() > 1 && value.is_object() { self.shared(value) } else { value };
        if let Some(members) = out.entry(place).or_insert_with(|| json!({})).as_object_mut() {
            for name in names {
                members.entry(name).or_insert(value.clone());
            }
        }
        out.insert("additionalProperties".into(), Value::Bool(false));
    }

    /// Makes a definition of a schema, and returns the reference to it.
    fn shared(&mut self, schema: Value) -> Value {
        let name = format!("s{}", self.shared.len());
        let reference = json!({"$ref": format!("{DEFINITIONS}{name}")});
        self.shared.insert(name, schema);
        reference
    }

    /// Collects the bounds of one place.
    fn site(&mut self, path: &str, out: &Map<String, Value>) {
        for (kind, keywords) in BOUNDS {
            let found: Vec<String> = keywords
                .iter()
                .filter(|keyword| out.contains_key(**keyword))
                .map(|keyword| (*keyword).to_owned())
                .collect();
            if found.is_empty() {
                continue;
            }
            let mut schema = Map::from_iter([("type".to_owned(), json!(kind))]);
            for keyword in &found {
                let value = match (keyword.as_str(), out.get(keyword)) {
                    ("patternProperties", Some(Value::Object(patterns))) => {
                        patterns.keys().map(|pattern| (pattern.clone(), json!(true))).collect::<Map<_, _>>().into()
                    }
                    (_, value) => value.cloned().unwrap_or_default(),
                };
                schema.insert(keyword.clone(), value);
            }
            self.sites.push(Site { path: path.to_owned(), keywords: found, schema: Value::Object(schema) });
        }
    }
}

/// Joins `path` and a keyword with a dot; an empty `path` without one.
pub fn join(path: &str, keyword: &str) -> String {
    if path.is_empty() { keyword.to_owned() } else { format!("{path}.{keyword}") }
}

/// Returns a bound that the compiler accepts; `None` if all numbers in the range are too far from zero.
fn within(keyword: &str, value: &Value) -> Option<Value> {
    let is_least = keyword == "minimum" || keyword == "exclusiveMinimum";
    match value.as_f64() {
        Some(number) if number.abs() <= FARTHEST => Some(value.clone()),
        Some(number) if (number < 0.0) == is_least => Some(json!(FARTHEST.copysign(number))),
        Some(_) => None,
        // In draft 4 the value is a flag for the bound beside it.
        None => Some(value.clone()),
    }
}

/// Returns whether a float would lose digits of an integer in the value.
fn is_inexact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64() && number.as_f64().is_none_or(|float| float.abs() >= EXACT),
        Value::Array(values) => values.iter().any(is_inexact),
        Value::Object(members) => members.values().any(is_inexact),
        _ => false,
    }
}

fn is_known_format(value: &Value) -> bool {
    value.as_str().is_some_and(is_format)
}

fn refuse<T>(path: &str, reason: &str) -> Result<T, Refused> {
    Err(Refused { path: path.to_owned(), reason: reason.to_owned() })
}

fn types(value: &Value, path: &str) -> Result<Value, Refused> {
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let known = match value {
        Value::Array(all) => !all.is_empty() && all.iter().all(is_type),
        one => is_type(one),
    };
    if known { Ok(value.clone()) } else { refuse(path, &format!("must be of {}", TYPES.join(", "))) }
}

/// Returns whether an unenforced keyword constrains nothing, or is enforced in another way.
fn is_trivial(keyword: &str, value: &Value, members: &Map<String, Value>) -> bool {
    match keyword {
        "uniqueItems" => *value == Value::Bool(false),
        "propertyNames" => {
            let says = |key: &str| value.get(key).is_some();
            *value == Value::Bool(true)
                || says("enum")
                || says("const")
                || says("pattern")
                || value.as_object().is_some_and(|names| names.keys().all(|key| key == "type"))
        }
        // Objects are closed anyway.
        "unevaluatedProperties" | "unevaluatedItems" => value.is_boolean(),
        "minContains" | "maxContains" => !members.contains_key("contains"),
        "then" | "else" => !members.contains_key("if"),
        _ => false,
    }
}

/// Decodes the percent escapes of a pointer.
fn decoded(pointer: &str) -> String {
    let mut bytes = Vec::with_capacity(pointer.len());
    let mut rest = pointer.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
