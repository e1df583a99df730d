//! The arguments of an earlier call, as templates read them.

use serde_json::{Map, Value};

/// Begins a string that stands for a number, if a float would lose digits of the number. Removed from the output of templates.
pub const DIGITS: char = '\u{10fffe}';

/// Parses `text` as a JSON object, with its members in their order and its numbers with all digits. Templates iterate over the members,
/// so a text that is not an object, such as the arguments of a call that was cut, becomes an empty object.
pub fn arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        // `with_strings` finds numbers correctly only in valid JSON.
        Ok(Value::Object(read)) => match serde_json::from_str(&with_strings(text)) {
            Ok(Value::Object(members)) => Value::Object(members),
            _ => Value::Object(read),
        },
        _ => Value::Object(Map::new()),
    }
}

/// Replaces numbers by strings in a JSON text, if serde_json would write the number in another way.
fn with_strings(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut is_escaped) = (false, false);
    let mut rest = json;
    while let Some(next) = rest.chars().next() {
        let is_number = !in_string && (next == '-' || next.is_ascii_digit());
        let length = if is_number {
            rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)).unwrap_or(rest.len())
        } else {
            next.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        let written = || serde_json::from_str(token).map(|value: Value| value.to_string()).unwrap_or_default();
        if is_number && written() != token {
            out.push_str(&format!("\"{DIGITS}{token}\""));
        } else {
            out.push_str(token);
        }
        match next {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = in_string,
            '"' => in_string = !in_string,
            _ => {}
        }
        rest = after;
    }
    out
}

/// Replaces strings that stand for numbers by these numbers in a JSON text.
pub fn with_digits(json: String) -> String {
    if !json.contains(DIGITS) {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    let mut rest = json.as_str();
    let opening = format!("\"{DIGITS}");
    while let Some(at) = rest.find(&opening) {
        let (before, number) = (&rest[..at], &rest[at + opening.len()..]);
        let end = number.find('"').unwrap_or(number.len());
        out.push_str(before);
        out.push_str(&number[..end]);
        rest = number.get(end + 1..).unwrap_or_default();
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_numbers_their_digits() {
        let text = r#"{"z":1,"a":[12345678901234567890123,1.10,-2,true],"m":{"b":1e5}}"#;
        let value = arguments(text);
        let names: Vec<&String> = value.as_object().expect("an object").keys().collect();
        assert_eq!(names, ["z", "a", "m"]);
        assert_eq!(with_digits(value.to_string()), text);
    }

    #[test]
    fn a_text_that_is_not_an_object_becomes_an_empty_object() {
        for text in ["", " ", "[1]", "\"x\"", "{\"city\": \"Po", "7", &"[".repeat(5000)] {
            assert_eq!(arguments(text), Value::Object(Map::new()), "{text}");
        }
    }
}
