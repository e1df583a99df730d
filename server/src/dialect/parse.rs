//! Parses the text of an output as a stream. Removes the tags around thoughts and calls, and holds back the few bytes that may
//! become a tag. Loses no text: bytes that turn out to be neither a tag nor a call become text.

use super::{
    Calls, Dialect, Tags,
    call::{Head, Nesting, head},
};

/// A piece of the output, in order. The kinds and the joined texts of the pieces do not depend on how the text was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    Thought(String),
    Text(String),
    /// The beginning of a call. Its arguments follow.
    Call {
        name: String,
    },
    /// A piece of the last call's arguments, as the model wrote them.
    Arguments(String),
}

/// Parses one output.
pub struct Parser {
    thought: Option<Tags>,
    calls: Option<Calls>,
    state: ParserState,
    /// Text whose kind is not decided yet.
    held: String,
}

enum ParserState {
    /// Only white space since the beginning of the output (`first`), or since the last thought or call.
    Gap(Gap),
    Text,
    Thought {
        begun: bool,
    },
    /// In a block of calls, where a call may begin.
    CallBlock(CallBlock),
    /// In a call before its arguments. The held text begins with the call's brace.
    Head(CallBlock),
    Arguments(Nesting),
    /// In a call after its arguments.
    Tail,
}

#[derive(Clone, Copy)]
struct Gap {
    first: bool,
    /// Whether the gap follows a call.
    after_call: bool,
}

#[derive(Default)]
struct CallBlock {
    /// The text since the beginning of the block. It becomes text of the output if the block has no call.
    raw: String,
    /// Whether the block has a call.
    called: bool,
}

impl Parser {
    /// Makes a parser. `calls`: whether the model may call functions; if not, calls are parsed as text.
    pub fn new(dialect: &Dialect, calls: bool) -> Self {
        let thought = dialect.reasoning.clone();
        let state = match &thought {
            Some(tags) if tags.opened => ParserState::Thought { begun: false },
            _ => ParserState::Gap(Gap { first: true, after_call: false }),
        };
        Self { thought, calls: calls.then_some(dialect.calls), state, held: String::new() }
    }

    /// Adds text and returns the decided segments.
    pub fn push(&mut self, text: &str) -> Vec<Segment> {
        self.held.push_str(text);
        let mut segments = Vec::new();
        while self.step(false, &mut segments) {}
        segments
    }

    /// Ends the output and returns the segments of the held text.
    pub fn finish(&mut self) -> Vec<Segment> {
        let mut segments = Vec::new();
        while self.step(true, &mut segments) {}
        segments
    }

    /// Returns whether the next text belongs to a thought.
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, ParserState::Thought { .. })
    }

    /// Returns whether the next text, or the held text, may be plain text.
    pub fn is_plain(&self) -> bool {
        matches!(self.state, ParserState::Gap(_) | ParserState::Text)
    }

    /// Returns whether the arguments of a call have not ended.
    pub fn is_in_arguments(&self) -> bool {
        matches!(self.state, ParserState::Arguments(_))
    }

    /// Returns whether the last call is complete and nothing has followed.
    pub fn is_after_call(&self) -> bool {
        match &self.state {
            ParserState::Tail => true,
            ParserState::CallBlock(block) => block.called,
            ParserState::Gap(gap) => gap.after_call,
            _ => false,
        }
    }

    /// Returns whether held text needs more text for a decision.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns the number of undecided bytes at the end of the text so far.
    pub fn undecided(&self) -> usize {
        let taken = match &self.state {
            ParserState::CallBlock(block) | ParserState::Head(block) if !block.called => block.raw.len(),
            _ => 0,
        };
        taken + self.held.len()
    }

    /// Takes one step. Returns `false` if it needs more text. `last`: there is no more text.
    fn step(&mut self, last: bool, segments: &mut Vec<Segment>) -> bool {
        match std::mem::replace(&mut self.state, ParserState::Text) {
            ParserState::Gap(gap) => self.gap(gap, last, segments),
            ParserState::Text => self.text(last, segments),
            ParserState::Thought { begun } => self.thought(begun, last, segments),
            ParserState::CallBlock(block) => self.call_block(block, last, segments),
            ParserState::Head(block) => self.head(block, last, segments),
            ParserState::Arguments(nesting) => self.arguments(nesting, segments),
            ParserState::Tail => self.tail(),
        }
    }

    /// Reads white space before the text, a thought or a call.
    fn gap(&mut self, gap: Gap, last: bool, segments: &mut Vec<Segment>) -> bool {
        let (blank, rest) = split_blank(&self.held);
        let waits = |tag: &str| !last && tag.len() > rest.len() && tag.starts_with(rest);
        let thought = self.thought.as_ref().map(|tags| tags.open.as_str());
        let block = self.calls.map(|calls| if calls == Calls::Llama { "{" } else { calls.open() });
        if rest.is_empty() && last {
            emit(segments, Segment::Text(if gap.first { blank.to_owned() } else { String::new() }));
            self.held.clear();
            return false;
        }
        if let Some(tag) = thought.filter(|tag| rest.starts_with(tag)) {
            self.held = rest[tag.len()..].to_owned();
            self.state = ParserState::Thought { begun: false };
        } else if let Some(tag) = block.filter(|tag| rest.starts_with(tag)) {
            // A brace is part of the call, not a tag.
            let taken = if tag == "{" { "" } else { tag };
            let raw = format!("{}{taken}", if gap.first { blank } else { "" });
            self.held = rest[taken.len()..].to_owned();
            self.state = ParserState::CallBlock(CallBlock { raw, called: false });
        } else if rest.is_empty() || thought.into_iter().chain(block).any(waits) {
            self.state = ParserState::Gap(gap);
            return false;
        } else if !gap.first {
            self.held = rest.to_owned();
        }
        true
    }

    /// Reads text up to the next call.
    fn text(&mut self, last: bool, segments: &mut Vec<Segment>) -> bool {
        let tag = self.calls.map(Calls::open).filter(|tag| !tag.is_empty());
        if let Some((at, tag)) = tag.and_then(|tag| Some((self.held.find(tag)?, tag))) {
            emit(segments, Segment::Text(self.held[..at].to_owned()));
            self.held.drain(..at + tag.len());
            self.state = ParserState::CallBlock(CallBlock { raw: tag.to_owned(), called: false });
            return true;
        }
        let keep = tag.filter(|_| !last).map_or(0, |tag| overlap(&self.held, tag));
        let rest = self.held.split_off(self.held.len() - keep);
        emit(segments, Segment::Text(std::mem::replace(&mut self.held, rest)));
        false
    }

    /// Reads a thought up to its closing tag.
    fn thought(&mut self, begun: bool, last: bool, segments: &mut Vec<Segment>) -> bool {
        let close = self.thought.as_ref().map_or("", |tags| tags.close.as_str());
        let end = self.held.find(close);
        let keep = if last { 0 } else { overlap(&self.held, close) };
        let body = &self.held[..end.unwrap_or(self.held.len() - keep)];
        // White space at both ends of a thought belongs to the tags.
        let body = if begun { body } else { body.trim_start() }.trim_end();
        let begun = begun || !body.is_empty();
        emit(segments, Segment::Thought(body.to_owned()));
        self.state = ParserState::Thought { begun };
        match end {
            Some(end) => {
                self.held.drain(..end + close.len());
                self.state = ParserState::Gap(Gap { first: false, after_call: false });
                return true;
            }
            None if last => self.held.clear(),
            None => {
                let body_end = self.held.len() - keep;
                let shown = if begun { self.held[..body_end].trim_end().len() } else { body_end };
                self.held.drain(..shown);
            }
        }
        false
    }

    /// Reads the separators between two calls of one block.
    fn call_block(&mut self, mut block: CallBlock, last: bool, segments: &mut Vec<Segment>) -> bool {
        let mistral = self.calls == Some(Calls::Mistral);
        let between = |c: char| c.is_whitespace() || ",;[".contains(c) || (c == ']' && !mistral);
        let at = self.held.find(|c| !between(c)).unwrap_or(self.held.len());
        if !block.called {
            block.raw.push_str(&self.held[..at]);
        }
        self.held.drain(..at);
        let close = match self.calls {
            Some(Calls::Hermes) => "</tool_call>",
            Some(Calls::Mistral) => "]",
            _ => "",
        };
        if self.held.starts_with('{') {
            self.state = ParserState::Head(block);
        } else if self.held.is_empty() || (!last && self.held.len() < close.len() && close.starts_with(&self.held)) {
            if last {
                emit(segments, Segment::Text(block.raw));
            } else {
                self.state = ParserState::CallBlock(block);
            }
            return false;
        } else if block.called && last && close.starts_with(&self.held) {
            // The output ends within the closing tag.
            self.held.clear();
        } else if block.called && !close.is_empty() && self.held.starts_with(close) {
            self.held.drain(..close.len());
            self.state = ParserState::Gap(Gap { first: false, after_call: true });
        } else {
            emit(segments, Segment::Text(block.raw));
        }
        true
    }

    /// Reads a call's name, up to its arguments.
    fn head(&mut self, block: CallBlock, last: bool, segments: &mut Vec<Segment>) -> bool {
        match head(&self.held) {
            Head::Incomplete if !last => {
                self.state = ParserState::Head(block);
                false
            }
            Head::Incomplete | Head::Malformed => {
                emit(segments, Segment::Text(block.raw));
                true
            }
            Head::Begun { name, at } => {
                emit(segments, Segment::Call { name });
                self.held.drain(..at);
                self.state = ParserState::Arguments(Nesting::default());
                true
            }
            Head::Whole { name, arguments, end } => {
                emit(segments, Segment::Call { name });
                emit(segments, Segment::Arguments(arguments));
                self.held.drain(..end);
                self.state = ParserState::CallBlock(CallBlock { raw: String::new(), called: true });
                true
            }
        }
    }

    /// Reads a call's arguments, up to their closing brace.
    fn arguments(&mut self, mut nesting: Nesting, segments: &mut Vec<Segment>) -> bool {
        let end = nesting.end(&self.held);
        let rest = self.held.split_off(end.unwrap_or(self.held.len()));
        emit(segments, Segment::Arguments(std::mem::replace(&mut self.held, rest)));
        self.state = if end.is_some() { ParserState::Tail } else { ParserState::Arguments(nesting) };
        end.is_some()
    }

    /// Reads the rest of a call after its arguments.
    fn tail(&mut self) -> bool {
        let (_, rest) = split_blank(&self.held);
        match rest.strip_prefix('}') {
            Some(rest) => {
                self.held = rest.to_owned();
                self.state = ParserState::CallBlock(CallBlock { raw: String::new(), called: true });
            }
            None if rest.is_empty() => {
                self.state = ParserState::Tail;
                return false;
            }
            None => self.held = rest.to_owned(),
        }
        true
    }
}

/// Appends a segment unless its text is empty.
fn emit(segments: &mut Vec<Segment>, segment: Segment) {
    match &segment {
        Segment::Thought(text) | Segment::Text(text) | Segment::Arguments(text) if text.is_empty() => {}
        _ => segments.push(segment),
    }
}

/// Splits a text into its leading white space and the rest.
fn split_blank(text: &str) -> (&str, &str) {
    text.split_at(text.len() - text.trim_start().len())
}

/// Returns the length of the longest suffix of `text` that is a proper prefix of `tag`, and so may become the tag.
pub(crate) fn overlap(text: &str, tag: &str) -> usize {
    tag.char_indices().map(|(at, _)| at).skip(1).filter(|at| text.ends_with(&tag[..*at])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(calls: Calls, opened: bool) -> Dialect {
        let tags = Tags { open: "<think>".into(), close: "</think>".into(), opened, optional: false };
        Dialect { reasoning: Some(tags), calls, template_has_tools: true }
    }

    /// Joins neighbouring segments of one kind.
    fn joined(segments: Vec<Segment>) -> Vec<Segment> {
        let mut joined: Vec<Segment> = Vec::new();
        for segment in segments {
            match (joined.last_mut(), segment) {
                (Some(Segment::Text(last)), Segment::Text(text))
                | (Some(Segment::Thought(last)), Segment::Thought(text))
                | (Some(Segment::Arguments(last)), Segment::Arguments(text)) => last.push_str(&text),
                (_, segment) => joined.push(segment),
            }
        }
        joined
    }

    fn parse<'a>(parser: &mut Parser, pieces: impl IntoIterator<Item = &'a str>) -> Vec<Segment> {
        let mut segments: Vec<Segment> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
        segments.extend(parser.finish());
        assert!(parser.finish().is_empty(), "what was held is said once");
        joined(segments)
    }

    /// Asserts that the segments do not depend on how the text is cut.
    #[track_caller]
    fn assert_parses(dialect: &Dialect, calls: bool, text: &str, expected: &[Segment]) {
        let parser = || Parser::new(dialect, calls);
        assert_eq!(parse(&mut parser(), [text]), expected, "{text:?}");
        let cuts: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
        for at in &cuts {
            assert_eq!(parse(&mut parser(), [&text[..*at], &text[*at..]]), expected, "{text:?} cut at {at}");
        }
        for width in 1..4 {
            let chars: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = chars.chunks(width).map(|piece| piece.iter().collect()).collect();
            assert_eq!(parse(&mut parser(), pieces.iter().map(String::as_str)), expected, "{text:?} by {width}");
        }
    }

    fn text(text: &str) -> Segment {
        Segment::Text(text.into())
    }

    fn thought(text: &str) -> Segment {
        Segment::Thought(text.into())
    }

    fn call(name: &str, arguments: &str) -> [Segment; 2] {
        [Segment::Call { name: name.into() }, Segment::Arguments(arguments.into())]
    }

    #[test]
    fn plain_text_is_as_it_was() {
        for plain in [
            "",
            "hello",
            " \n leading",
            "trailing \n",
            "<",
            "<thin",
            "a < b <tool",
            "x <think> y",
            "é 日本 🙂 {\"a\": 1}",
        ] {
            let expected = if plain.is_empty() { vec![] } else { vec![text(plain)] };
            for calls in [Calls::Hermes, Calls::Mistral, Calls::Llama] {
                assert_parses(&dialect(calls, false), true, plain, &expected);
            }
        }
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
        assert_parses(&dialect(Calls::Hermes, false), false, call, &[text(call)]);
        assert_parses(&Dialect::default(), true, "<think>a</think>", &[text("<think>a</think>")]);
    }

    #[test]
    fn thoughts_are_taken_out() {
        let closed = dialect(Calls::Hermes, false);
        assert_parses(&closed, true, "<think>\nhm, é\n\nso\n</think>\n\nYes.", &[thought("hm, é\n\nso"), text("Yes.")]);
        assert_parses(&closed, true, "\n<think>a</think>b", &[thought("a"), text("b")]);
        assert_parses(&closed, true, "<think>\n\n</think>\n\nYes.", &[text("Yes.")]);
        assert_parses(&closed, true, "<think>never </thin closed ", &[thought("never </thin closed")]);
        assert_parses(&closed, true, "<think>a</think>", &[thought("a")]);
        let opened = dialect(Calls::Hermes, true);
        assert_parses(&opened, true, "hm\n</think>\nYes </think>.", &[thought("hm"), text("Yes </think>.")]);
        assert_parses(&opened, true, "hm", &[thought("hm")]);
    }

    #[test]
    fn calls_of_every_format() {
        let hermes = dialect(Calls::Hermes, false);
        let arguments = r#"{"city": "São \"}{\" Paulo", "days": [1, {"a": "\\"}]}"#;
        let one = format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call>");
        assert_parses(&hermes, true, &one, &call("weather", arguments));
        assert_parses(
            &hermes,
            true,
            &format!("Let me see.\n{one}"),
            &[&[text("Let me see.\n")], &call("weather", arguments)[..]].concat(),
        );
        let two = format!("<think>hm</think>\n{one}\n{one}\nDone.");
        let calls = [call("weather", arguments), call("weather", arguments)].concat();
        assert_parses(&hermes, true, &two, &[&[thought("hm")], &calls[..], &[text("Done.")]].concat());
        let list = r#"<tool_call>[{"name": "f", "arguments": {}}, {"name": "g"}]</tool_call>"#;
        assert_parses(&hermes, true, list, &[call("f", "{}"), call("g", "{}")].concat());
        let mistral =
            r#"[TOOL_CALLS] [{"name": "f", "arguments": {"a": [1]}}, {"arguments": {"b": 2}, "name": "g"}] ok"#;
        let expected = [&call("f", r#"{"a": [1]}"#)[..], &call("g", r#"{"b": 2}"#), &[text("ok")]].concat();
        assert_parses(&dialect(Calls::Mistral, false), true, mistral, &expected);
        let llama = r#" {"name": "f", "parameters": {"a": "x"}}; {"name": "g", "parameters": {}}"#;
        let expected = [call("f", r#"{"a": "x"}"#), call("g", "{}")].concat();
        assert_parses(&dialect(Calls::Llama, false), true, llama, &expected);
        let thinking = r#"<think>a</think>{"name": "f", "parameters": {}}"#;
        assert_parses(&dialect(Calls::Llama, false), true, thinking, &[&[thought("a")], &call("f", "{}")[..]].concat());
    }

    #[test]
    fn what_is_cut_is_kept_as_far_as_it_goes() {
        let hermes = dialect(Calls::Hermes, false);
        let begun = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"x";
        assert_parses(&hermes, true, begun, &call("f", "{\"a\": \"x"));
        for end in ["", "}", "}\n", "}\n</tool", "}\n</tool_call>"] {
            let cut = format!("<tool_call>\n{{\"name\": \"f\", \"arguments\": {{}}{end}");
            assert_parses(&hermes, true, &cut, &call("f", "{}"));
        }
    }

    #[test]
    fn malformed_calls_are_text() {
        let hermes = dialect(Calls::Hermes, false);
        for malformed in [
            "<tool_call>",
            "<tool_call>\n",
            "<tool_call></tool_call>",
            "<tool_call>\n{\"name\": \"f\"",
            "<tool_call>{\"name\": 7, \"arguments\": {}}</tool_call>",
            "<tool_call>f(x)</tool_call> and more",
            "<tool_call>{\"name\": \"f\", \"arguments\": \"x\"}</tool_call>",
        ] {
            assert_parses(&hermes, true, malformed, &[text(malformed)]);
        }
        let junk = "<tool_call>{\"name\": \"f\", \"arguments\": {}, \"id\": 1}</tool_call>";
        let expected = [&call("f", "{}")[..], &[text(", \"id\": 1}</tool_call>")]].concat();
        assert_parses(&hermes, true, junk, &expected);
        for malformed in ["[TOOL_CALLS]", "[TOOL_CALLS][]", "[TOOL_CALLS] [x"] {
            assert_parses(&dialect(Calls::Mistral, false), true, malformed, &[text(malformed)]);
        }
        for malformed in ["{", "{\"name\": \"f\"", " {\"a\": 1} b", "{\"name\": \"f\", \"parameters\": 5}"] {
            assert_parses(&dialect(Calls::Llama, false), true, malformed, &[text(malformed)]);
        }
    }
}
