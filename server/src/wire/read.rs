//! Deserialises values; the errors name the field.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    error::WireError,
    json::{JsonError, Reader},
    shorten,
};

/// Most characters of an id that a client chooses.
pub const MAX_ID_CHARS: usize = 256;

/// Deserialises a whole body.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, WireError> {
    read_field("", value)
}

/// Deserialises the value at `path`. An error has the path of the wrong field in `param`.
pub fn read_field<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, WireError> {
    serde_path_to_error::deserialize(Reader(value)).map_err(|error| {
        let mut param = path.to_owned();
        // A key that is not valid has no path of its own.
        let inner = error.path().to_string().trim_end_matches(".?").to_owned();
        if inner != "." {
            push(&mut param, &inner);
        }
        match error.into_inner() {
            JsonError::Wrong(what) if param.is_empty() => {
                WireError::InvalidRequest { param: None, message: format!("The request {what}.") }
            }
            JsonError::Wrong(what) => WireError::invalid(&param, format!("'{param}' {what}.")),
            JsonError::Missing(field) => {
                push(&mut param, field);
                missing(&param)
            }
            JsonError::Unknown(field) => {
                // The path of an unknown field already ends in the field.
                let field = shorten(&field);
                if param != field && !param.ends_with(&format!(".{field}")) {
                    push(&mut param, &field);
                }
                WireError::invalid(&param, format!("Unknown field '{param}'."))
            }
        }
    })
}

/// Appends a segment to a path.
fn push(path: &mut String, segment: &str) {
    if !path.is_empty() && !segment.starts_with('[') {
        path.push('.');
    }
    path.push_str(&shorten(segment));
}

pub fn missing(param: &str) -> WireError {
    WireError::invalid(param, format!("'{param}' is missing."))
}

pub fn unsupported(param: &str) -> WireError {
    WireError::invalid(param, format!("'{param}' is not supported by this server with the value given."))
}

/// Returns the `type` of the object at `path`.
pub fn type_of<'v>(path: &str, value: &'v Value) -> Result<&'v str, WireError> {
    if !value.is_object() {
        return Err(WireError::invalid(path, format!("'{path}' must be an object.")));
    }
    let path = format!("{path}.type");
    match value.get("type") {
        Some(Value::String(kind)) => Ok(kind),
        None | Some(Value::Null) => Err(missing(&path)),
        Some(_) => Err(WireError::invalid(&path, format!("'{path}' must be a string."))),
    }
}

/// The pattern of the types that [`is_foreign`] accepts.
pub const FOREIGN: &str = "^[^:]+:.+";

/// Returns whether the type of an item or a tool belongs to another implementation, such as `acme:document_search`.
pub fn is_foreign(kind: &str) -> bool {
    kind.split_once(':').is_some_and(|(owner, name)| !owner.is_empty() && !name.is_empty())
}

/// Checks that an id has 1 to [`MAX_ID_CHARS`] characters.
pub fn check_id(param: &str, id: &str) -> Result<(), WireError> {
    if id.is_empty() || id.chars().count() > MAX_ID_CHARS {
        return Err(WireError::invalid(param, format!("'{param}' must have 1 to {MAX_ID_CHARS} characters.")));
    }
    Ok(())
}

/// Checks the name of a function or a schema: `[A-Za-z0-9_-]{1,64}`.
pub fn check_name(param: &str, name: &str) -> Result<(), WireError> {
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if !fits {
        return Err(WireError::invalid(param, format!("'{param}' must be 1 to 64 characters of A-Z a-z 0-9 _ -")));
    }
    Ok(())
}
