//! Reads the JSON of one call as a stream: first the head, up to the beginning of the arguments, then the arguments.

use serde::de::{DeserializeOwned, IgnoredAny};

/// Most bytes of a head. A longer one is malformed.
pub const MAX_HEAD: usize = 8192;

/// The state of a call after the text so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// More text is needed.
    Incomplete,
    /// The text is not a call.
    Malformed,
    /// The object of the arguments begins at `at`.
    Begun { name: String, at: usize },
    /// The call ended before `end`. `arguments` are the arguments before the name, or `{}`.
    Whole { name: String, arguments: String, end: usize },
}

enum Stop {
    Incomplete,
    Malformed,
}

/// Reads the head of the call at the beginning of `text`. The result depends on the first [`MAX_HEAD`] bytes only.
pub fn head(text: &str) -> Head {
    let window = &text[..text.floor_char_boundary(MAX_HEAD)];
    match read_head(window) {
        Ok(head) => head,
        Err(Stop::Incomplete) if text.len() <= MAX_HEAD => Head::Incomplete,
        Err(_) => Head::Malformed,
    }
}

fn read_head(text: &str) -> Result<Head, Stop> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.expect(b'{')?;
    let (mut name, mut arguments) = (None::<String>, None);
    loop {
        let key: String = cursor.value()?;
        cursor.expect(b':')?;
        match key.as_str() {
            "name" => name = Some(cursor.value()?),
            "arguments" | "parameters" => {
                if cursor.peek()? != b'{' {
                    return Err(Stop::Malformed);
                }
                let at = cursor.at;
                if let Some(name) = name {
                    return Ok(Head::Begun { name, at });
                }
                cursor.value::<IgnoredAny>()?;
                arguments = text.get(at..cursor.at);
            }
            _ => drop(cursor.value::<IgnoredAny>()?),
        }
        match cursor.peek()? {
            b',' => cursor.at += 1,
            b'}' => break,
            _ => return Err(Stop::Malformed),
        }
    }
    let name = name.filter(|name| !name.is_empty()).ok_or(Stop::Malformed)?;
    Ok(Head::Whole { name, arguments: arguments.unwrap_or("{}").to_owned(), end: cursor.at + 1 })
}

struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl Cursor<'_> {
    /// Skips white space and returns the next byte without taking it.
    fn peek(&mut self) -> Result<u8, Stop> {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest.bytes().next().ok_or(Stop::Incomplete)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        if self.peek()? != byte {
            return Err(Stop::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    fn value<T: DeserializeOwned>(&mut self) -> Result<T, Stop> {
        let mut values = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter();
        match values.next() {
            Some(Ok(value)) => {
                self.at += values.byte_offset();
                Ok(value)
            }
            Some(Err(error)) if !error.is_eof() => Err(Stop::Malformed),
            _ => Err(Stop::Incomplete),
        }
    }
}

/// Finds the end of a JSON object that arrives in pieces.
#[derive(Debug, Default)]
pub struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Reads the next piece. Returns the length of the part that belongs to the object if the object ends in it.
    pub fn end(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let begun = |name: &str, at| Head::Begun { name: name.into(), at };
        let whole =
            |name: &str, arguments: &str, end| Head::Whole { name: name.into(), arguments: arguments.into(), end };
        for (text, expected) in [
            (r#"{"name": "f", "arguments": {"a"#, begun("f", 27)),
            (r#"{ "id" : [1], "name":"f","parameters":{"#, begun("f", 38)),
            (r#"{"name": "f", "argu"#, Head::Incomplete),
            (r#"{"name": "f"#, Head::Incomplete),
            ("{", Head::Incomplete),
            (r#"{"name": "f"} x"#, whole("f", "{}", 13)),
            (r#"{"arguments": {"a": 1}, "name": "f"}"#, whole("f", r#"{"a": 1}"#, 36)),
            (r#"{"arguments": {}}"#, Head::Malformed),
            (r#"{"name": ""}"#, Head::Malformed),
            (r#"{"name": 5"#, Head::Malformed),
            (r#"{"name": "f", "arguments": "x""#, Head::Malformed),
            (r#"{name: "f"}"#, Head::Malformed),
            ("{}", Head::Malformed),
        ] {
            assert_eq!(head(text), expected, "{text}");
        }
        assert_eq!(head(&format!("{{\"name\": \"{}", "x".repeat(MAX_HEAD))), Head::Malformed);
    }
}
