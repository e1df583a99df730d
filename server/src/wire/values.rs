//! Counts the JSON values of a message and their nesting depth before the message is parsed.

use super::error::WireError;
use crate::limits::{DEPTH_OF_MESSAGE, VALUES_OF_MESSAGE};

/// Counts the values of a message.
///
/// # Errors
/// `invalid_json` for a message that nests deeper than the parser allows; `invalid_request` for a message with so many values that
/// the parsed form would take many times its bytes of memory.
pub fn count_values(json: &[u8]) -> Result<usize, WireError> {
    let (mut values, mut depth, mut in_string, mut escaped) = (1_usize, 0_usize, false, false);
    for byte in json {
        match byte {
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_OF_MESSAGE {
            return Err(WireError::InvalidJson(format!("values nest deeper than {DEPTH_OF_MESSAGE}")));
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    if values <= VALUES_OF_MESSAGE {
        return Ok(values);
    }
    let message = format!("The message has {values} JSON values; the limit is {VALUES_OF_MESSAGE}. Send less at once.");
    Err(WireError::InvalidRequest { param: None, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_strings() {
        let most = VALUES_OF_MESSAGE;
        assert!(count_values(format!("[{}1]", "1,".repeat(most - 2)).as_bytes()).is_ok());
        assert!(count_values(format!("[{}1]", "1,".repeat(most)).as_bytes()).is_err());
        assert!(matches!(count_values("[".repeat(most + 1).as_bytes()), Err(WireError::InvalidJson(_))));
        assert!(count_values(("[".repeat(DEPTH_OF_MESSAGE) + &"]".repeat(DEPTH_OF_MESSAGE)).as_bytes()).is_ok());
        assert!(count_values(format!(r#"{{"a":"\\\"{}"}}"#, ",[{".repeat(most)).as_bytes()).is_ok());
    }
}
