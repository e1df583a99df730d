//! Finds a short completion of an output: tokens that complete it from any place in its grammar.
//!
//! The search is greedy. It tries closing brackets and quotes first, then the shortest values; in free text it tries tokens that end
//! the text. The result is a pure function of the matcher's state, so a continued output gets the same completion.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use llguidance::{
    Matcher,
    toktrie::{INVALID_TOKEN, SimpleVob, TokTrie},
};

/// A place is free text if more tokens than this may come next.
const FREE_TEXT: usize = 512;
/// How often the search takes its first choice at places that look the same, before it tries others.
const TRUSTED: usize = 32;
/// Tokens that are tried at one place.
const TRIED: usize = 96;
/// Steps of lexer and parser that one search may take: some tens of milliseconds.
const WORK: u64 = 400_000;

/// A vocabulary's tokens in the order in which the search tries them.
pub struct Closers {
    /// Tokens of closing brackets and quotes that begin with a bracket, the longest first.
    brackets: Vec<u32>,
    /// Tokens of closing brackets and quotes that begin with a quote: `""` first, then the longest first.
    quotes: Vec<u32>,
    /// The token `""`.
    empty: u32,
    /// Separators, then the shortest values, then opening brackets.
    values: Vec<u32>,
    /// Tokens of one byte: punctuation, then opening brackets, white space, digits, letters, parts of characters.
    bytes: Vec<u32>,
    /// Words, the longest first, for text with a minimum length.
    words: Vec<u32>,
    eos: u32,
}

/// The state of a search.
struct Walk {
    path: Vec<u32>,
    /// How often the search was at each place.
    visits: HashMap<TextPlace, usize>,
    work: u64,
}

impl Walk {
    /// The tokens that may follow; `None` if the search has taken too much work.
    fn follow(&mut self, matcher: &mut Matcher) -> Option<SimpleVob> {
        if self.work > WORK {
            return None;
        }
        let mask = matcher.compute_mask().ok()?;
        let stats = matcher.last_step_stats().ok()?;
        self.work += stats.lexer_cost + stats.all_items as u64 + 100;
        Some(mask)
    }

    /// The place after `tokens`; `None` if they do not fit the grammar.
    fn probe(&mut self, matcher: &Matcher, tokens: &[u32]) -> Option<TextPlace> {
        let mut there = matcher.clone();
        there.consume_tokens(tokens).ok()?;
        if there.is_accepting().ok()? {
            return Some(TextPlace { ends: true, ..TextPlace::default() });
        }
        let forced = there.compute_ff_tokens();
        if forced.is_empty() {
            self.follow(&mut there).map(|mask| TextPlace::of(&mask))
        } else {
            Some(TextPlace::forced(&forced))
        }
    }
}

/// A place in the grammar, as far as the search can tell places apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct TextPlace {
    /// The output may end here.
    ends: bool,
    free_text: bool,
    /// A hash of the tokens that may follow.
    followers: u64,
}

impl TextPlace {
    fn of(mask: &SimpleVob) -> Self {
        Self { ends: false, free_text: mask.num_set() > FREE_TEXT, followers: hash(mask.as_slice()) }
    }

    fn forced(tokens: &[u32]) -> Self {
        Self { followers: hash(tokens), ..Self::default() }
    }
}

fn hash(words: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    hasher.finish()
}

impl Closers {
    pub fn new(trie: &TokTrie) -> Self {
        let tokens = || (0..trie.vocab_size() as u32).map(|token| (token, trie.token(token)));
        let made_of = |set: &[u8]| {
            let mut made: Vec<(u32, &[u8])> = tokens()
                .filter(|(_, text)| (1..=4).contains(&text.len()) && text.iter().all(|byte| set.contains(byte)))
                .collect();
            made.sort_by_key(|(token, text)| (*text != b"\"\"", Reverse(text.len()), *token));
            made
        };
        let (quotes, brackets): (Vec<_>, Vec<_>) =
            made_of(b"}])>\"").into_iter().partition(|(_, text)| text[0] == b'"');
        let ids = |tokens: Vec<(u32, &[u8])>| tokens.into_iter().map(|(token, _)| token).collect();
        let named = |texts: &[&str]| texts.iter().filter_map(|text| trie.token_id(text.as_bytes())).collect();
        let rank = |byte: u8| match byte {
            b'{' | b'[' | b'(' | b'<' => 1,
            byte if byte.is_ascii_punctuation() => 0,
            b'\n' | b' ' => 2,
            byte if byte.is_ascii_digit() => 3,
            byte if byte.is_ascii_alphabetic() => 4,
            0x80.. => 5,
            _ => 6,
        };
        let mut bytes: Vec<u8> = (0..=u8::MAX).collect();
        bytes.sort_by_key(|byte| (rank(*byte), *byte));
        let mut words: Vec<(u32, &[u8])> = tokens()
            .filter(|(_, text)| (1..=12).contains(&text.len()) && text.iter().all(u8::is_ascii_alphanumeric))
            .collect();
        words.sort_by_key(|(token, text)| (Reverse(text.len()), *token));
        Self {
            brackets: ids(brackets),
            quotes: ids(quotes),
            empty: trie.token_id(b"\"\"").unwrap_or(INVALID_TOKEN),
            values: named(&[";", ",", ":", "0", "null", "true", "false", "[]", "{}", "1", "[", "{"]),
            bytes: bytes.iter().filter_map(|byte| trie.token_id(&[*byte])).collect(),
            words: ids(words),
            eos: trie.eos_token(),
        }
    }

    /// Finds at most `room` tokens that complete the output after a token. `before` completed the output before that token. `texts`:
    /// see [`Self::close`].
    pub fn follow(&self, matcher: &mut Matcher, before: &[u32], texts: &[Vec<u32>], room: usize) -> Option<Vec<u32>> {
        if matcher.is_stopped() || matcher.is_accepting().ok()? {
            return Some(Vec::new());
        }
        // Mostly the token was part of a text, or the first token of `before`.
        for skip in [1, 0, 2, 3] {
            if let Some(rest) = before.get(skip..).filter(|rest| rest.len() <= room && !rest.is_empty())
                && self.completes(matcher, rest)
            {
                return Some(rest.to_vec());
            }
        }
        self.close(matcher, texts, room)
    }

    fn completes(&self, matcher: &mut Matcher, rest: &[u32]) -> bool {
        let whole = [rest, &[self.eos]].concat();
        matcher.validate_tokens(&whole).is_ok_and(|valid| valid == whole.len())
    }

    /// Finds at most `room` tokens that complete the output. In free text the search also tries `texts`.
    pub fn close(&self, matcher: &Matcher, texts: &[Vec<u32>], room: usize) -> Option<Vec<u32>> {
        let mut matcher = matcher.clone();
        let mut walk = Walk { path: Vec::new(), visits: HashMap::new(), work: 0 };
        loop {
            if matcher.is_stopped() || matcher.is_accepting().ok()? {
                return matcher.get_error().is_none().then_some(walk.path);
            }
            let forced = matcher.compute_ff_tokens();
            let next = if forced.is_empty() {
                self.choose(&mut matcher, texts, &mut walk)?
            } else {
                *walk.visits.entry(TextPlace::forced(&forced)).or_default() += 1;
                forced
            };
            if walk.path.len() + next.len() > room {
                return None;
            }
            matcher.consume_tokens(&next).ok()?;
            walk.path.extend(next);
        }
    }

    fn choose(&self, matcher: &mut Matcher, texts: &[Vec<u32>], walk: &mut Walk) -> Option<Vec<u32>> {
        let mask = walk.follow(matcher)?;
        let here = TextPlace::of(&mask);
        let visits = walk.visits.entry(here).or_default();
        *visits += 1;
        let trusted = *visits <= TRUSTED;
        let allowed = |token: &&u32| mask.is_allowed(**token);

        let mut quotes = self.quotes.iter().filter(allowed);
        if trusted && here.free_text {
            // A quote may be part of the text.
            if let Some(token) = quotes.find(|token| walk.probe(matcher, &[**token]).is_some_and(|there| there != here))
            {
                return Some(vec![*token]);
            }
            let mut texts = texts.iter().filter(|text| !text.is_empty());
            if let Some(text) = texts.find(|text| walk.probe(matcher, text).is_some_and(|there| there != here)) {
                return Some(text.clone());
            }
        } else if trusted {
            if let Some(token) = self.brackets.iter().find(allowed) {
                return Some(vec![*token]);
            }
            if let Some(longest) = quotes.next() {
                // If a quote opens a text, the rest of a longer token would be part of the text.
                let opens = quotes.next_back().filter(|quote| {
                    *longest != self.empty && walk.probe(matcher, &[**quote]).is_some_and(|there| there.free_text)
                });
                return Some(vec![*opens.unwrap_or(longest)]);
            }
            if let Some(token) = self.bytes.iter().filter(allowed).take(16).find(|token| ends(matcher, **token)) {
                return Some(vec![*token]);
            }
            if let Some(token) = self.values.iter().find(allowed) {
                return Some(vec![*token]);
            }
        }

        let mut elsewhere = None;
        for token in self.bytes.iter().filter(allowed).take(TRIED) {
            match walk.probe(matcher, &[*token]) {
                Some(there) if there.ends || !walk.visits.contains_key(&there) => return Some(vec![*token]),
                Some(there) if there != here => elsewhere = elsewhere.or(Some(*token)),
                _ => {}
            }
        }
        let word = self.words.iter().find(allowed).filter(|_| here.free_text);
        let any = || mask.iter().next();
        let token = elsewhere.or(word.copied()).or_else(|| self.bytes.iter().find(allowed).copied()).or_else(any);
        token.map(|token| vec![token])
    }
}

/// Whether a token completes the output.
fn ends(matcher: &Matcher, token: u32) -> bool {
    let mut there = matcher.clone();
    there.consume_token(token).is_ok() && there.is_accepting().unwrap_or(false)
}
