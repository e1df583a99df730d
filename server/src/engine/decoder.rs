//! Tokens to text that may be shown: joins characters that span tokens, and holds back text that may become a stop string.

use std::borrow::Cow;

use super::{Finish, stop::StopStrings, stop::StopWatch};

/// Maps the tokens of a vocabulary to bytes. Each generation has an instance of its own.
pub trait TokenBytes: Send {
    /// The token's bytes, which may be a part of a character; empty if the token is not text.
    fn bytes(&self, token: u32) -> Cow<'_, [u8]>;

    /// Whether the vocabulary puts a space before the first token of a text that is not part of the text.
    fn pads_first(&self) -> bool {
        false
    }

    /// The text of all `tokens` together. U+FFFD replaces bytes that are not a character.
    fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.bytes(*token).into_owned()).collect();
        let text = String::from_utf8_lossy(&bytes);
        text.strip_prefix(' ').filter(|_| self.pads_first()).unwrap_or(&text).to_owned()
    }
}

/// Decodes the tokens of one generation.
pub struct Decoder<T> {
    tokens: T,
    /// Bytes of an incomplete character, at most three.
    incomplete: Vec<u8>,
    /// Whether the output has text already.
    begun: bool,
    watch: Option<StopWatch>,
}

impl<T: TokenBytes> Decoder<T> {
    pub fn new(tokens: T, stop: StopStrings) -> Self {
        Self { tokens, incomplete: Vec::new(), begun: false, watch: stop.watch() }
    }

    /// Adds a token and returns the text that may be shown now, with `Finish::Stop` when a stop string was completed.
    pub fn push(&mut self, token: u32) -> (String, Option<Finish>) {
        self.incomplete.extend_from_slice(&self.tokens.bytes(token));
        let mut text = self.complete();
        if !self.begun && !text.is_empty() {
            self.begun = true;
            if self.tokens.pads_first() && text.starts_with(' ') {
                text.remove(0);
            }
        }
        match &mut self.watch {
            None => (text, None),
            Some(watch) => match watch.push(&text) {
                (text, true) => (text, Some(Finish::Stop)),
                (text, false) => (text, None),
            },
        }
    }

    /// Returns the text that is still held back when the output ends without a stop string. U+FFFD replaces an incomplete character.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&std::mem::take(&mut self.incomplete)).into_owned();
        match &mut self.watch {
            None => rest,
            Some(watch) => watch.finish(&rest),
        }
    }

    /// Takes the complete characters. U+FFFD replaces bytes that cannot become a character.
    fn complete(&mut self) -> String {
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.incomplete) {
                Ok(rest) => {
                    text.push_str(rest);
                    self.incomplete.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = self.incomplete.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(wrong) = error.error_len() else {
                        self.incomplete = rest.to_vec();
                        return text;
                    };
                    text.push('\u{fffd}');
                    self.incomplete = rest.get(wrong..).unwrap_or_default().to_vec();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens are bytes.
    struct Bytes;
    impl TokenBytes for Bytes {
        fn bytes(&self, token: u32) -> Cow<'_, [u8]> {
            vec![token as u8].into()
        }
    }

    fn run(text: &[u8], stop: &[&str]) -> (Vec<String>, Option<Finish>) {
        let mut decoder = Decoder::new(Bytes, stop.iter().map(|s| s.to_string()).collect::<Vec<_>>().into());
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

    /// A vocabulary without a token for a character writes each of its bytes as a token; another such character may follow.
    #[test]
    fn characters_of_bytes_may_follow_on_each_other() {
        let (shown, _) = run("🙂🙃é🙂".as_bytes(), &[]);
        assert_eq!(shown.concat(), "🙂🙃é🙂");
        assert!(shown.iter().all(|text| !text.contains('\u{fffd}')), "{shown:?}");
    }

    #[test]
    fn the_space_before_the_first_word_is_not_shown() {
        struct Padded;
        impl TokenBytes for Padded {
            fn bytes(&self, token: u32) -> Cow<'_, [u8]> {
                if token == 0 { Cow::Borrowed(b" a") } else { Cow::Borrowed(b" ") }
            }
            fn pads_first(&self) -> bool {
                true
            }
        }
        let mut decoder = Decoder::new(Padded, StopStrings::default());
        let shown: String = [0, 0, 1].into_iter().map(|token| decoder.push(token).0).collect();
        assert_eq!((shown.as_str(), Padded.decode(&[0, 0, 1]).as_str()), ("a a ", "a a "));
    }
}
