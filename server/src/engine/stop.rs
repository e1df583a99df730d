//! Stop strings. They are searched for in the text of messages only, not in thoughts and calls of functions.

use crate::dialect::{Dialect, Parser, Segment, overlap};

/// The stop strings of one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StopStrings {
    strings: Vec<String>,
    dialect: Dialect,
    /// Whether the output may have calls.
    calls: bool,
}

impl From<Vec<String>> for StopStrings {
    /// Makes stop strings for outputs without thoughts and calls.
    fn from(strings: Vec<String>) -> Self {
        Self::new(strings, Dialect::default(), false)
    }
}

impl StopStrings {
    /// `dialect` is how the model writes thoughts and calls; `calls`: whether the output may have calls.
    pub fn new(strings: Vec<String>, dialect: Dialect, calls: bool) -> Self {
        Self { strings: strings.into_iter().filter(|string| !string.is_empty()).collect(), dialect, calls }
    }

    /// Begins the search in one output; `None` without stop strings.
    pub(super) fn watch(self) -> Option<StopWatch> {
        if self.strings.is_empty() {
            return None;
        }
        let parser = Parser::new(&self.dialect, self.calls);
        Some(StopWatch { strings: self.strings, parser, message: String::new(), held: String::new(), read: 0 })
    }
}

/// Searches one output for stop strings while it arrives.
pub struct StopWatch {
    strings: Vec<String>,
    parser: Parser,
    /// The end of the current message's text, as long as the longest stop string. The text that the parser has not yet classified is
    /// not part of it.
    message: String,
    /// Output that was not shown yet.
    held: String,
    /// The number of bytes of `held` that the parser has read.
    read: usize,
}

impl StopWatch {
    /// Adds text. Returns the text that may be shown, and whether a stop string was found; the returned text ends before it.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        while let Some(next) = self.held.get(self.read..).and_then(|rest| rest.chars().next()) {
            self.read += next.len_utf8();
            let segments = self.parser.push(next.encode_utf8(&mut [0; 4]));
            if self.found(segments) {
                return (std::mem::take(&mut self.held), true);
            }
        }
        let begun = self.strings.iter().map(|string| overlap(&self.message, string)).max().unwrap_or(0);
        let shown = self.read.saturating_sub(self.parser.undecided() + begun);
        let rest = self.held.split_off(self.held.floor_char_boundary(shown));
        self.read = rest.len();
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Adds the last text and returns the rest of the output, up to a stop string that is recognised only now.
    pub fn finish(&mut self, text: &str) -> String {
        let (mut shown, found) = self.push(text);
        if !found {
            let segments = self.parser.finish();
            self.found(segments);
            shown.push_str(&std::mem::take(&mut self.held));
        }
        shown
    }

    /// Adds segments to the message and returns whether it has a stop string. If so, `held` is cut before that string.
    fn found(&mut self, segments: Vec<Segment>) -> bool {
        if segments.is_empty() {
            return false;
        }
        for segment in segments {
            match segment {
                Segment::Text(text) => self.message.push_str(&text),
                Segment::Thought(_) | Segment::Call { .. } | Segment::Arguments(_) => self.message.clear(),
            }
        }
        let first = self.strings.iter().filter_map(|string| self.message.find(string.as_str())).min();
        if let Some(at) = first {
            let after = self.message.len() - at + self.parser.undecided();
            self.held.truncate(self.held.floor_char_boundary(self.read.saturating_sub(after)));
            return true;
        }
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let keep = self.message.len().saturating_sub(longest);
        self.message.drain(..self.message.floor_char_boundary(keep));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{Calls, Tags};

    fn stop(strings: &[&str]) -> StopStrings {
        let tags = Tags { open: "<think>".into(), close: "</think>".into(), opened: false, optional: false };
        let dialect = Dialect { reasoning: Some(tags), calls: Calls::Hermes, template_has_tools: true };
        StopStrings::new(strings.iter().map(|string| (*string).to_owned()).collect(), dialect, true)
    }

    /// Checks which part of the text is shown, for pieces of several sizes.
    #[track_caller]
    fn assert_shows(strings: &[&str], text: &str, expected: &str, stops: bool) {
        for width in [1, 2, 3, 7, 1000] {
            let mut watch = stop(strings).watch().expect("strings");
            let (mut shown, mut stopped) = (String::new(), false);
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(width) {
                let (more, found) = watch.push(&piece.iter().collect::<String>());
                shown.push_str(&more);
                stopped = found;
                if found {
                    break;
                }
            }
            if !stopped {
                shown.push_str(&watch.finish(""));
            }
            assert_eq!((shown.as_str(), stopped), (expected, stops), "{text} in pieces of {width}");
        }
    }

    const CALL: &str = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"Porto\"}}\n</tool_call>";

    #[test]
    fn calls_and_thoughts_end_nothing() {
        assert_shows(&["}", "name"], CALL, CALL, false);
        assert_shows(
            &["}"],
            &format!("<think>a}}</think>\n{CALL}\nso }} x"),
            &format!("<think>a}}</think>\n{CALL}\nso "),
            true,
        );
        assert_shows(&["city"], &format!("text {CALL}"), &format!("text {CALL}"), false);
    }

    #[test]
    fn a_message_ends_before_the_first_string() {
        assert_shows(&["END", "b"], "a END b", "a ", true);
        assert_shows(&["</tool"], "a </tool b", "a ", true);
        assert_shows(&["<tool_call> no"], "a <tool_call> no", "a ", true);
        assert_shows(&["no"], "a <tool_call> no", "a <tool_call> ", true);
        assert_shows(&["日本"], "é日日本語", "é日", true);
        assert_shows(&["STOP"], "hello STO", "hello STO", false);
        assert_shows(&["<tool"], "<tool", "", false);
    }
}
