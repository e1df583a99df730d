//! Tokens to text that may be shown: completes characters that span tokens and holds back what may become a stop string.

use super::Finish;
use crate::dialect::overlap;

/// Turns token ids into bytes; what tokenizers differ in. One instance a generation.
pub trait TokenBytes: Send {
    /// The text of all `tokens` together. Ends in U+FFFD while the last character is incomplete.
    fn decode(&self, tokens: &[u32]) -> String;
}

/// The text side of one generation.
pub struct Decoder<T> {
    tokenizer: T,
    stop: Vec<String>,
    /// Tokens since the last point where the text was complete, with one token of context before it: byte-pair
    /// tokenizers write a token's leading space by what stands before.
    window: Vec<u32>,
    /// Text of `window` that has been taken already, in bytes.
    taken: usize,
    /// Complete text that is held back because a stop string may begin in it.
    held: String,
}

impl<T: TokenBytes> Decoder<T> {
    pub fn new(tokenizer: T, stop: Vec<String>) -> Self {
        let stop = stop.into_iter().filter(|s| !s.is_empty()).collect();
        Self { tokenizer, stop, window: Vec::new(), taken: 0, held: String::new() }
    }

    /// Adds a token and returns the text that may be shown now, with `Finish::Stop` when a stop string was completed.
    pub fn push(&mut self, token: u32) -> (String, Option<Finish>) {
        self.window.push(token);
        let text = self.tokenizer.decode(&self.window);
        // An incomplete character waits, but not for ever: no character has more than four bytes, a token at least one.
        let waiting = text.ends_with('\u{fffd}') && self.incomplete_run() < 4;
        if !waiting {
            self.held.push_str(text.get(self.taken..).unwrap_or_default());
            self.window = vec![token];
            self.taken = self.tokenizer.decode(&self.window).len();
        }
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), Some(Finish::Stop));
        }
        let keep = self.stop.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let shown = self.held.len() - keep;
        let rest = self.held.split_off(shown);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// What is still held when the reply ends without a stop string, an incomplete character included.
    pub fn finish(&mut self) -> String {
        let text = self.tokenizer.decode(&self.window);
        self.held.push_str(text.get(self.taken..).unwrap_or_default());
        self.taken = text.len();
        std::mem::take(&mut self.held)
    }

    fn incomplete_run(&self) -> usize {
        self.window.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens are bytes.
    struct Bytes;
    impl TokenBytes for Bytes {
        fn decode(&self, tokens: &[u32]) -> String {
            let bytes: Vec<u8> = tokens.iter().map(|t| *t as u8).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }

    fn run(text: &[u8], stop: &[&str]) -> (Vec<String>, Option<Finish>) {
        let mut decoder = Decoder::new(Bytes, stop.iter().map(|s| s.to_string()).collect());
        let mut shown = Vec::new();
        for byte in text {
            let (text, finish) = decoder.push(u32::from(*byte));
            shown.push(text);
            if finish.is_some() {
                return (shown, finish);
            }
        }
        shown.push(decoder.finish());
        (shown, None)
    }

    #[test]
    fn characters_are_whole_and_nothing_is_lost() {
        let text = "é日🙂 ok";
        let (shown, _) = run(text.as_bytes(), &[]);
        assert_eq!(shown.concat(), text);
        assert!(shown.iter().all(|s| !s.contains('\u{fffd}')));
    }

    #[test]
    fn a_reply_that_ends_inside_a_character_keeps_its_text() {
        let (shown, _) = run(&"ab🙂".as_bytes()[..5], &[]);
        assert!(shown.concat().starts_with("ab"));
        assert_eq!(shown.concat().matches('\u{fffd}').count(), 1);
    }

    #[test]
    fn invalid_bytes_do_not_wait_for_ever() {
        let (shown, _) = run(&[0xff, 0xff, 0xff, 0xff, 0xff, b'a', b'b'], &[]);
        assert!(shown.concat().ends_with("ab"), "{shown:?}");
    }

    #[test]
    fn stop_strings_never_leak() {
        let (shown, finish) = run(b"hello STOP world", &["STOP"]);
        assert_eq!((shown.concat().as_str(), finish), ("hello ", Some(Finish::Stop)));
        let (shown, finish) = run(b"hello STO world ST", &["STOP"]);
        assert_eq!((shown.concat().as_str(), finish), ("hello STO world ST", None));
    }

    #[test]
    fn the_first_of_several_stop_strings_wins() {
        let (shown, finish) = run("abc日本def".as_bytes(), &["def", "日本", "本"]);
        assert_eq!((shown.concat().as_str(), finish), ("abc", Some(Finish::Stop)));
    }
}
