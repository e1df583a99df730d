//! What each keyword of JSON Schema means here.

/// What a keyword is to an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The engine holds an output to it.
    Held,
    /// As `Held`, and given up at [`super::Level::Shape`].
    Bound,
    /// It constrains values, and the engine cannot hold an output to it.
    Unheld,
    /// It constrains nothing.
    Annotation,
}

/// Formats that the engine knows.
const FORMATS: [&str; 15] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uuid",
    "uuid1",
    "uuid3",
    "uuid4",
    "uuid5",
    "uuid7",
];

pub const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

pub fn kind(keyword: &str) -> Kind {
    match keyword {
        "type"
        | "enum"
        | "const"
        | "properties"
        | "required"
        | "additionalProperties"
        | "items"
        | "prefixItems"
        | "anyOf"
        | "oneOf"
        | "allOf"
        | "$ref" => Kind::Held,
        "pattern" | "format" | "minLength" | "maxLength" | "minimum" | "maximum" | "exclusiveMinimum"
        | "exclusiveMaximum" | "multipleOf" | "minItems" | "maxItems" | "minProperties" | "maxProperties"
        | "patternProperties" => Kind::Bound,
        "not"
        | "if"
        | "then"
        | "else"
        | "dependentRequired"
        | "dependentSchemas"
        | "dependencies"
        | "contains"
        | "minContains"
        | "maxContains"
        | "uniqueItems"
        | "propertyNames"
        | "unevaluatedItems"
        | "unevaluatedProperties"
        | "$dynamicRef"
        | "$recursiveRef" => Kind::Unheld,
        // Words that JSON Schema does not know constrain nothing either.
        _ => Kind::Annotation,
    }
}

pub fn is_format(name: &str) -> bool {
    FORMATS.contains(&name)
}

/// The bounds that stand at one value, those of its type together, in the order in which they are given up.
pub const BOUNDS: [(&str, &[&str]); 4] = [
    ("string", &["format", "maxLength", "minLength", "pattern"]),
    ("number", &["multipleOf", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"]),
    ("array", &["maxItems", "minItems"]),
    ("object", &["maxProperties", "minProperties", "patternProperties"]),
];
