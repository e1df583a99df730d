//! Deserialising with errors that name the field.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{error::WireError, shorten};

/// Of ids that clients choose.
pub const MAX_ID_BYTES: usize = 256;

pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, WireError> {
    read_field("", value)
}

/// Deserialises with the path of what was wrong in `param`.
pub fn read_field<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, WireError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let message = error.inner().to_string();
        // A key that is none has no path of its own.
        let inner = error.path().to_string().trim_end_matches(".?").to_owned();
        // serde names an unknown or missing field in its message only.
        let named = ["unknown field `", "missing field `"]
            .iter()
            .find_map(|start| message.strip_prefix(start)?.split('`').next().map(str::to_owned));
        let segments = [Some(path.to_owned()), Some(inner).filter(|p| p != "."), named];
        let mut param = String::new();
        for segment in segments.into_iter().flatten().filter(|s| !s.is_empty()) {
            // A path to an unknown field ends in that field already.
            if param == segment || param.ends_with(&format!(".{segment}")) {
                continue;
            }
            if !param.is_empty() && !segment.starts_with('[') {
                param.push('.');
            }
            param.push_str(&shorten(&segment));
        }
        let message = match message.strip_prefix("unknown field `") {
            Some(_) => format!("Unknown field '{param}'."),
            None => shorten(&message),
        };
        WireError::InvalidRequest { param: Some(param).filter(|p| !p.is_empty()), message }
    })
}

pub fn missing(param: &str) -> WireError {
    WireError::invalid(param, format!("'{param}' is missing."))
}

pub fn unsupported(param: &str) -> WireError {
    WireError::invalid(param, format!("'{param}' is not supported by this server with the value given."))
}

/// 1 to [`MAX_ID_BYTES`] bytes.
pub fn check_id(param: &str, id: &str) -> Result<(), WireError> {
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        return Err(WireError::invalid(param, format!("'{param}' must have 1 to {MAX_ID_BYTES} bytes.")));
    }
    Ok(())
}

/// `[A-Za-z0-9_-]{1,64}`, as functions and schemas are named.
pub fn check_name(param: &str, name: &str) -> Result<(), WireError> {
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if !fits {
        return Err(WireError::invalid(param, format!("'{param}' must be 1 to 64 characters of A-Z a-z 0-9 _ -")));
    }
    Ok(())
}
