//! Outputs held to a grammar, by llguidance over the model's own tokenizer: which tokens may come next, and how the output
//! can be completed from where it is, so that it is whole even where its length ends it.
//!
//! Grammars come from clients. Compiling one is bounded in size, work, time and stack; so is each step.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use mistralrs_core::llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    toktrie::{TokEnv, TokEnvWithTrie, TokTrie},
};
use moka::sync::Cache;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::closing::Closers;
use crate::engine::{EngineError, GenerateRequest, Grammar};

/// Bytes of a grammar's text, or of a schema's JSON.
const MAX_SOURCE: usize = 64 << 10;
/// Brackets open at once in a regex or Lark text. (JSON is bounded by its parser.)
const MAX_NESTING: usize = 200;
/// The compiler makes a state for every remainder, and nothing ends it.
const MAX_DIVISOR: u64 = 10_000;
/// The compiler recurses along references; a chain of them as long as a source can hold fits in this.
const STACK: usize = 256 << 20;
const COMPILE_TIME: Duration = Duration::from_secs(2);
/// Compilations at once.
const MAX_COMPILING: usize = 8;
/// A chat sends its schema with every turn.
const CACHED: u64 = 64;
/// What may stand between the tokens of JSON where the schema does not say: without a bound a small model says spaces for ever.
const JSON_WHITESPACE: &str = r"\x20|\r?\n[\x20\t]{0,32}";

/// Compiles grammars for one tokenizer.
pub struct Grammars {
    factory: Arc<ParserFactory>,
    closers: Arc<Closers>,
    compiled: Cache<[u8; 32], Arc<Compiled>>,
    /// Held by every thread that compiles.
    compiling: Arc<()>,
}

struct Compiled {
    /// At the start; generations run on copies.
    matcher: Matcher,
    /// The texts that the grammar names, to find a way out by.
    texts: Arc<[Vec<u32>]>,
    /// Completes an output from the start.
    closing: Vec<u32>,
}

/// The engine's vocabulary, with the tokens that end the model's reply, and with the characters of every token whose text is
/// shown: the engine takes all that are named `<like this>` for special.
pub fn vocabulary(env: &TokEnv, tokenizer: &Tokenizer, eos: &[u32]) -> TokEnv {
    let trie = env.tok_trie();
    let mut bytes: Vec<Vec<u8>> = (0..trie.vocab_size() as u32).map(|token| trie.token(token).to_vec()).collect();
    for (id, token) in tokenizer.get_added_tokens_decoder().into_iter().filter(|(_, token)| !token.special) {
        if let Some(bytes) = bytes.get_mut(id as usize) {
            *bytes = token.content.into_bytes();
        }
    }
    let trie = TokTrie::from(trie.info(), &bytes).with_eos_tokens(eos);
    Arc::new(TokEnvWithTrie::new(env.clone(), trie))
}

impl Grammars {
    /// # Errors
    /// `Load` where the vocabulary cannot be used for grammars.
    pub fn new(vocabulary: &TokEnv) -> Result<Self, EngineError> {
        let failed = |error| EngineError::Load(format!("the model's tokenizer cannot be held to grammars: {error}"));
        let closers = Arc::new(Closers::new(vocabulary.tok_trie()));
        let mut factory = ParserFactory::new_simple(vocabulary).map_err(failed)?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            initial_lexer_fuel: 400_000,
            step_lexer_fuel: 100_000,
            step_max_items: 25_000,
            // A state takes one or two kilobytes.
            max_lexer_states: 25_000,
            // Errors would quote the grammar and the output.
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory: Arc::new(factory), closers, compiled: Cache::new(CACHED), compiling: Arc::new(()) })
    }

    /// See [`crate::engine::Engine::check`].
    pub fn check(&self, grammar: &Grammar, max_output_tokens: u32) -> Result<(), EngineError> {
        let shortest = self.compile(grammar)?.closing.len();
        if shortest > max_output_tokens as usize {
            return Err(EngineError::Grammar(format!(
                "The shortest output found that fits the grammar has {shortest} tokens; max_output_tokens is \
                 {max_output_tokens}."
            )));
        }
        Ok(())
    }

    /// The grammar of a request after what its output holds already. Takes milliseconds, so it runs on a thread that may
    /// block. `max` is the bound on the whole output.
    pub async fn hold(self: Arc<Self>, request: &GenerateRequest, max: u64) -> Result<Option<Held>, EngineError> {
        let Some(grammar) = request.grammar.clone() else { return Ok(None) };
        let output = request.output.clone();
        let held = tokio::task::spawn_blocking(move || {
            let compiled = self.compile(&grammar)?;
            let mut held = Held {
                matcher: compiled.matcher.deep_clone(),
                closers: self.closers.clone(),
                texts: compiled.texts.clone(),
                closing: compiled.closing.clone(),
            };
            held.replay(&output, max)?;
            Ok(held)
        });
        held.await.map_err(|error| EngineError::Grammar(error.to_string()))?.map(Some)
    }

    fn compile(&self, grammar: &Grammar) -> Result<Arc<Compiled>, EngineError> {
        let (kind, source) = match grammar {
            Grammar::JsonSchema(schema) => ("json_schema", schema.to_string()),
            Grammar::Regex(regex) => ("regex", regex.clone()),
            Grammar::Lark(lark) => ("lark", lark.clone()),
        };
        if source.len() > MAX_SOURCE {
            return Err(EngineError::Grammar(format!(
                "The grammar has {} bytes; at most {MAX_SOURCE} are allowed.",
                source.len()
            )));
        }
        if !matches!(grammar, Grammar::JsonSchema(_)) && nesting(&source) > MAX_NESTING {
            let message = format!("The grammar has more than {MAX_NESTING} brackets open at once.");
            return Err(EngineError::Grammar(message));
        }
        if divisors(&source) > MAX_DIVISOR {
            let message = format!("The numbers of 'multipleOf' multiply to more than {MAX_DIVISOR}.");
            return Err(EngineError::Grammar(message));
        }
        let key: [u8; 32] = Sha256::new().chain_update(kind).chain_update(&source).finalize().into();
        self.compiled
            .try_get_with(key, || self.compile_aside(grammar))
            .map_err(|error| EngineError::Grammar((*error).clone()))
    }

    /// Compilations under way, those that were given up among them.
    pub fn compiling(&self) -> usize {
        Arc::strong_count(&self.compiling) - 1
    }

    fn compile_aside(&self, grammar: &Grammar) -> Result<Arc<Compiled>, String> {
        if self.compiling() >= MAX_COMPILING {
            return Err("Too many grammars are being compiled. Try again later.".into());
        }
        let (factory, closers, running) = (self.factory.clone(), self.closers.clone(), self.compiling.clone());
        let texts = match grammar {
            Grammar::Lark(lark) => texts(lark, &self.factory),
            Grammar::JsonSchema(_) | Grammar::Regex(_) => Arc::default(),
        };
        let grammar = top_level(grammar);
        let (sender, compiled) = mpsc::sync_channel(1);
        let begun = thread::Builder::new().name("grammar".into()).stack_size(STACK).spawn(move || {
            drop(sender.send(compile(&factory, &closers, grammar, texts)));
            drop(running);
        });
        begun.map_err(|error| format!("The grammar cannot be compiled now: {error}"))?;
        match compiled.recv_timeout(COMPILE_TIME) {
            Ok(outcome) => outcome.map(Arc::new),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("The grammar is too complex: it was not compiled within {} s.", COMPILE_TIME.as_secs()))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err("The grammar cannot be compiled.".into()),
        }
    }
}

fn compile(
    factory: &ParserFactory,
    closers: &Closers,
    grammar: TopLevelGrammar,
    texts: Arc<[Vec<u32>]>,
) -> Result<Compiled, String> {
    let matcher = Matcher::new(factory.create_parser(grammar));
    if let Some(error) = matcher.get_error() {
        return Err(format!("The grammar cannot be compiled: {}", plain(&error)));
    }
    let closing = closers
        .close(&matcher, &texts, MAX_CLOSING)
        .ok_or_else(|| format!("No output of at most {MAX_CLOSING} tokens that fits the grammar was found."))?;
    Ok(Compiled { matcher, texts, closing })
}

/// Tokens after which the search for a completion is given up.
const MAX_CLOSING: usize = 4096;

fn top_level(grammar: &Grammar) -> TopLevelGrammar {
    match grammar {
        Grammar::JsonSchema(schema) => {
            let mut schema = schema.clone();
            if let Some(schema) = schema.as_object_mut() {
                schema
                    .entry("x-guidance")
                    .or_insert_with(|| serde_json::json!({"whitespace_pattern": JSON_WHITESPACE}));
            }
            TopLevelGrammar::from_json_schema(schema)
        }
        Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
        Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
    }
}

/// The first texts in quotes, as tokens.
fn texts(lark: &str, factory: &ParserFactory) -> Arc<[Vec<u32>]> {
    const MOST: usize = 64;
    let mut texts = Vec::new();
    let mut rest = lark;
    while let Some(begin) = rest.find('"').filter(|_| texts.len() < MOST) {
        let mut strings = serde_json::Deserializer::from_str(&rest[begin..]).into_iter::<String>();
        rest = match strings.next() {
            Some(Ok(text)) => {
                texts.push(factory.tok_env().tokenize_bytes(text.as_bytes()));
                rest.get(begin + strings.byte_offset()..).unwrap_or_default()
            }
            _ => &rest[begin + 1..],
        };
    }
    texts.into()
}

/// The product of all different numbers of `multipleOf`, by their digits; in a Lark text as well, which may hold schemas.
fn divisors(source: &str) -> u64 {
    // JSON may write any letter by its number.
    let plain = source.split("\\u00").enumerate().fold(String::new(), |mut plain, (at, part)| {
        let code = part.get(..2).filter(|_| at > 0).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.extend(code.map(char::from));
        plain + if code.is_some() { &part[2..] } else { part }
    });
    let numbers = plain.split("\"multipleOf\"").skip(1).filter_map(|rest| {
        let rest = rest.trim_start().strip_prefix(':')?.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let digits = number.replace('.', "");
        // Numbers that are larger, or have an exponent, are more than enough.
        let number = if after.starts_with(['e', 'E']) { u64::MAX } else { digits.parse().unwrap_or(u64::MAX) };
        Some(number.max(1))
    });
    let different: std::collections::HashSet<u64> = numbers.collect();
    different.into_iter().fold(1, u64::saturating_mul)
}

/// Brackets open at once, those in strings counted too.
fn nesting(source: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// The library's message without its quotes of the grammar, in one line.
fn plain(error: &str) -> String {
    let lines = error.lines().take_while(|line| !line.starts_with('<'));
    let told = lines.filter(|line| !line.starts_with(' ')).map(|line| line.chars().take(200).collect::<String>());
    told.take(4).collect::<Vec<_>>().join(" ")
}

/// One output's place in its grammar.
pub struct Held {
    matcher: Matcher,
    closers: Arc<Closers>,
    texts: Arc<[Vec<u32>]>,
    /// Tokens that complete the output from here; none where it is complete.
    closing: Vec<u32>,
}

/// What a token did to an output.
#[derive(Debug, PartialEq)]
pub enum Pushed {
    /// More may follow.
    Open,
    /// Nothing can follow.
    Complete,
    /// After it the output could not be completed in the room there is: it is not to be taken.
    NoRoom,
}

impl Held {
    /// Leaves only the tokens that may come next. `eos` stays where the output may end.
    ///
    /// # Errors
    /// The step was more work than is allowed, or nothing may follow.
    pub fn mask(&mut self, logits: &mut [f32], eos: &[u32]) -> Result<(), String> {
        let mut mask = self.matcher.compute_mask().map_err(|error| plain(&error.to_string()))?;
        if !self.matcher.is_accepting().map_err(|error| plain(&error.to_string()))? {
            // A grammar may name the token itself.
            eos.iter().for_each(|token| mask.disallow_token(*token));
        }
        let mut left = 0;
        let known = mask.len().min(logits.len());
        mask.iter_entries(|allowed, token| match logits.get_mut(token) {
            Some(_) if allowed => left += 1,
            Some(logit) => *logit = f32::NEG_INFINITY,
            None => {}
        });
        if let Some(beyond) = logits.get_mut(known..) {
            beyond.fill(f32::NEG_INFINITY);
        }
        if left == 0 { Err("the grammar leaves no token".into()) } else { Ok(()) }
    }

    /// Adds a token that the mask left, after which `room` more may come.
    ///
    /// # Errors
    /// The token does not fit the grammar, or the step was more work than is allowed.
    pub fn push(&mut self, token: u32, room: u64) -> Result<Pushed, String> {
        self.matcher.consume_token(token).map_err(|error| plain(&error.to_string()))?;
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(MAX_CLOSING);
        match self.closers.follow(&mut self.matcher, &self.closing, &self.texts, room) {
            Some(closing) => self.closing = closing,
            None => return Ok(Pushed::NoRoom),
        }
        Ok(if self.matcher.is_stopped() { Pushed::Complete } else { Pushed::Open })
    }

    /// Tokens that complete the output without the token that a step failed with.
    pub fn closing(&self) -> &[u32] {
        &self.closing
    }

    /// Nothing can follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// By the same steps as when the tokens were picked: what comes next depends on the tokens alone.
    fn replay(&mut self, output: &[u32], max: u64) -> Result<(), EngineError> {
        let unfit =
            |reason: &str| EngineError::Grammar(format!("the output to continue does not fit the grammar: {reason}"));
        for (at, token) in (1..).zip(output) {
            match self.push(*token, max.saturating_sub(at)) {
                Ok(Pushed::NoRoom) => return Err(unfit("there is no room to complete it")),
                Ok(_) => {}
                Err(error) => return Err(unfit(&error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_are_found_however_they_are_written() {
        assert_eq!(divisors(r#"{"multipleOf": 5, "x": {"multipleOf":0.01}}"#), 5);
        assert_eq!(divisors(r#"start: %json {"multipleOf" : 30, "y": {"multiple\u004ff": 7, "multipleOf":7}}"#), 210);
        assert_eq!(divisors("{}"), 1);
        assert_eq!(divisors(r#"{"multipleOf":99999999999999999999999}"#), u64::MAX);
        assert_eq!(divisors(r#"{"multipleOf":1e8}"#), u64::MAX);
    }
}
