//! The shortest way out of a grammar, or nearly: tokens that complete an output from any place in it.
//!
//! The search is greedy. What closes something comes first, then the least of values; where any text may stand, what leaves
//! it. It is a pure function of the matcher's state, so a continued output is closed as the first one would have been.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use llguidance::{
    Matcher,
    toktrie::{INVALID_TOKEN, SimpleVob, TokTrie},
};

/// A place where more tokens than this may come next holds free text.
const FREE_TEXT: usize = 512;
/// How often the first choice is trusted at places that look the same.
const TRUSTED: usize = 32;
/// Tokens that are tried at one place.
const TRIED: usize = 96;
/// Steps of lexer and parser that one search may take; some tens of milliseconds.
const WORK: u64 = 400_000;

/// A vocabulary's tokens in the order in which they are tried.
pub struct Closers {
    /// What begins with a closing bracket, and what begins with a quote, both made only of such: the longest first, but
    /// before all the two quotes of an empty text.
    brackets: Vec<u32>,
    quotes: Vec<u32>,
    empty: u32,
    /// Separators, the least of values, and then what opens one.
    values: Vec<u32>,
    /// Of one byte: punctuation, then opening brackets, white space, digits, letters, parts of characters.
    bytes: Vec<u32>,
    /// Words, the longest first, for text that must have a length.
    words: Vec<u32>,
    eos: u32,
}

/// Where a search is.
struct Walk {
    path: Vec<u32>,
    /// How often each place was come to.
    visits: HashMap<TextPlace, usize>,
    work: u64,
}

impl Walk {
    /// What may follow; none when the search has taken too much work.
    fn follow(&mut self, matcher: &mut Matcher) -> Option<SimpleVob> {
        if self.work > WORK {
            return None;
        }
        let mask = matcher.compute_mask().ok()?;
        let stats = matcher.last_step_stats().ok()?;
        self.work += stats.lexer_cost + stats.all_items as u64 + 100;
        Some(mask)
    }

    /// Where tokens lead; none where they do not fit.
    fn look(&mut self, matcher: &Matcher, tokens: &[u32]) -> Option<TextPlace> {
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

/// What a place looks like from inside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct TextPlace {
    ends: bool,
    free_text: bool,
    looks: u64,
}

impl TextPlace {
    fn of(mask: &SimpleVob) -> Self {
        Self { ends: false, free_text: mask.num_set() > FREE_TEXT, looks: hash(mask.as_slice()) }
    }

    fn forced(tokens: &[u32]) -> Self {
        Self { looks: hash(tokens), ..Self::default() }
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

    /// What completes the output after a token, where `before` did so before it; none where `room` tokens do not. `texts`: see
    /// [`Self::close`].
    pub fn follow(&self, matcher: &mut Matcher, before: &[u32], texts: &[Vec<u32>], room: usize) -> Option<Vec<u32>> {
        if matcher.is_stopped() || matcher.is_accepting().ok()? {
            return Some(Vec::new());
        }
        // Mostly the output went on inside a text, or one token along the way out.
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

    /// At most `room` tokens that complete the output, if such are found. `texts` are tried where any text may stand.
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
            if let Some(token) = quotes.find(|token| walk.look(matcher, &[**token]).is_some_and(|there| there != here))
            {
                return Some(vec![*token]);
            }
            let mut texts = texts.iter().filter(|text| !text.is_empty());
            if let Some(text) = texts.find(|text| walk.look(matcher, text).is_some_and(|there| there != here)) {
                return Some(text.clone());
            }
        } else if trusted {
            if let Some(token) = self.brackets.iter().find(allowed) {
                return Some(vec![*token]);
            }
            if let Some(longest) = quotes.next() {
                // What follows a quote that opens a text is part of the text.
                let opens = quotes.next_back().filter(|quote| {
                    *longest != self.empty && walk.look(matcher, &[**quote]).is_some_and(|there| there.free_text)
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
            match walk.look(matcher, &[*token]) {
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
