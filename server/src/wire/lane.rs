//! The `stream_id`, which names a lane. Checks its characters, and finds it in a message that is not valid JSON, so that the error
//! event can carry it.

use super::read::MAX_ID_CHARS;

/// Returns whether an id matches `[A-Za-z0-9_.-]{1,256}`.
pub fn is_stream_id(id: &str) -> bool {
    (1..=MAX_ID_CHARS).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Finds the value of the top-level member `stream_id` in the part of the text that can be read.
pub fn find(text: &str) -> Option<&str> {
    let mut scanner = Scanner { text, at: 0 };
    let (mut depth, mut key) = (0u32, None);
    while let Some(byte) = scanner.next() {
        match byte {
            b'"' => {
                let string = scanner.string()?;
                match key.take() {
                    Some("stream_id") if depth == 1 => return Some(string).filter(|id| is_stream_id(id)),
                    _ if depth == 1 && scanner.colon_follows() => key = Some(string),
                    _ => {}
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' => key = None,
            _ => {}
        }
    }
    None
}

struct Scanner<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Scanner<'t> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.text.as_bytes().get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    /// Reads the rest of a string, without its quotes. Escapes are not decoded.
    fn string(&mut self) -> Option<&'t str> {
        let start = self.at;
        loop {
            match self.next()? {
                b'\\' => {
                    self.next()?;
                }
                b'"' => return self.text.get(start..self.at - 1),
                _ => {}
            }
        }
    }

    fn colon_follows(&self) -> bool {
        let rest = self.text.get(self.at..).unwrap_or_default();
        rest.trim_start().starts_with(':')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lane_of_a_broken_message_is_found() {
        for (text, expected) in [
            (r#"{"type":"response.create","stream_id":"a","input":"cut \ud83d"}"#, Some("a")),
            (r#"{"input":"cut \ud83d", "stream_id" : "b.1"}"#, Some("b.1")),
            (r#"{"input":["\"stream_id\":\"no\"", {"stream_id":"no"}],"stream_id":"c","#, Some("c")),
            (r#"{"stream_id":"d","input":"#, Some("d")),
            (r#"{"input":"stream_id","stream_id":7}"#, None),
            (r#"{"stream_id":"not one"}"#, None),
            (r#"{"x":{"stream_id":"no"}"#, None),
            (r#""stream_id":"no""#, None),
            ("{", None),
            ("", None),
        ] {
            assert_eq!(find(text), expected, "{text}");
        }
    }
}
