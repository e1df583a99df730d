//! Metadata: key-value pairs that a client sets on a response, an item or a conversation.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::error::WireError;

const MAX_PAIRS: usize = 16;
const MAX_KEY: usize = 64;
const MAX_VALUE: usize = 512;

/// Checks the number of the pairs and the length of keys and values.
///
/// # Errors
/// `invalid_request`, naming `metadata`.
pub fn check_metadata(metadata: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, WireError> {
    let too_long =
        |(key, value): (&String, &String)| key.chars().count() > MAX_KEY || value.chars().count() > MAX_VALUE;
    if metadata.len() > MAX_PAIRS || metadata.iter().any(too_long) {
        let message = format!(
            "'metadata' may have at most {MAX_PAIRS} pairs, keys of {MAX_KEY} characters and values of {MAX_VALUE} characters."
        );
        return Err(WireError::invalid("metadata", message));
    }
    Ok(metadata)
}

/// Returns the schema of a value.
pub fn metadata_value() -> Value {
    json!({"type": ["string", "null"], "maxLength": MAX_VALUE})
}
