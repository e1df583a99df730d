//! The arguments of an earlier call, as templates read them.

use serde_json::{Map, Value};

/// Begins a string that stands for a number whose digits a float would lose. It is taken out of what templates write.
pub const DIGITS: char = '\u{10fffe}';

/// The object that `text` is, its members in their order and its numbers with their digits. Templates go through its members,
/// so what is no object, as the arguments of a call that was cut, is an empty one.
pub fn arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        // Only what is JSON has numbers where they are looked for.
        Ok(Value::Object(read)) => match serde_json::from_str(&with_strings(text)) {
            Ok(Value::Object(members)) => Value::Object(members),
            _ => Value::Object(read),
        },
        _ => Value::Object(Map::new()),
    }
}

/// JSON in which the numbers that would be written otherwise are strings.
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

/// JSON in which strings that stand for numbers are those numbers.
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
    fn what_is_no_object_is_an_empty_one() {
        for text in ["", " ", "[1]", "\"x\"", "{\"city\": \"Po", "7", &"[".repeat(5000)] {
            assert_eq!(arguments(text), Value::Object(Map::new()), "{text}");
        }
    }
}
