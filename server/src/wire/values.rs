//! How many JSON values a message has, counted before any of it is parsed.

use super::error::WireError;
use crate::limits::VALUES_OF_MESSAGE;

/// How many values there are.
///
/// # Errors
/// `invalid_request` for a message with so many values that it would take many times its bytes when it is parsed.
pub fn count_values(json: &[u8]) -> Result<usize, WireError> {
    let (mut values, mut in_string, mut escaped) = (1_usize, false, false);
    for byte in json {
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
    let message = format!("The message has {values} JSON values, and may have {VALUES_OF_MESSAGE}. Send less at once.");
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
        assert!(count_values("[".repeat(most + 1).as_bytes()).is_err());
        assert!(count_values(format!(r#"{{"a":"\\\"{}"}}"#, ",[{".repeat(most)).as_bytes()).is_ok());
    }
}
