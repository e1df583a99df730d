//! The keywords of JSON Schema, and which of them the engine enforces.

/// The effect of a keyword on an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The engine enforces it.
    Enforced,
    /// The engine enforces it, except at [`super::Level::Shape`].
    Bound,
    /// It constrains values, and the engine cannot enforce it.
    Unenforced,
    /// It constrains nothing.
    Annotation,
}

/// Formats that the engine enforces.
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
        | "$ref" => Kind::Enforced,
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
        | "$recursiveRef" => Kind::Unenforced,
        // Unknown keywords constrain nothing either.
        _ => Kind::Annotation,
    }
}

pub fn is_format(name: &str) -> bool {
    FORMATS.contains(&name)
}

/// The bounds of each type, in the order in which they are dropped if the schema is too complex.
pub const BOUNDS: [(&str, &[&str]); 4] = [
    ("string", &["format", "maxLength", "minLength", "pattern"]),
    ("number", &["multipleOf", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"]),
    ("array", &["maxItems", "minItems"]),
    ("object", &["maxProperties", "minProperties", "patternProperties"]),
];
