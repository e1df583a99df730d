//! Compiles grammars to matchers, on threads of its own, with turns between the tenants, and caches the results.

use std::{
    sync::{Arc, LazyLock, mpsc},
    thread,
};

use llguidance::{Matcher, ParserFactory, api::TopLevelGrammar, toktrie::TokEnv};
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use super::{
    completion::Closers,
    constraint::{Constraint, plain},
    limits::{
        CACHED_GRAMMARS, CACHED_TENANTS, COMPILE_TIME, MAX_COMPLETION, STACK, WAIT_TIME, check_source, parser_limits,
    },
    turns::{CompileTurn, CompileTurns},
};
use crate::engine::{EngineError, GenerateRequest, Grammar, Rules};

/// The white space between the tokens of JSON, unless the schema sets another. Without a bound a small model writes spaces until its
/// output ends.
const JSON_WHITESPACE: &str = r"\x20|\r?\n[\x20\t]{0,32}";

/// Shared by all models, because they share the machine.
static TURNS: LazyLock<Arc<CompileTurns>> = LazyLock::new(Arc::default);

type GrammarKey = [u8; 32];
/// A compiled grammar, or the reason why it cannot be compiled.
type CompileResult = Result<Arc<Compiled>, Arc<str>>;

/// Compiles grammars for one vocabulary.
pub struct Grammars {
    factory: Arc<ParserFactory>,
    closers: Arc<Closers>,
    /// Caches by tenant, so that a tenant cannot evict another's grammars, nor learn from the time of a request which ones are cached.
    compiled: Cache<Arc<str>, Cache<GrammarKey, CompileResult>>,
}

struct Compiled {
    /// The matcher of an empty output; generations run on copies.
    matcher: Matcher,
    /// Texts in the grammar, as tokens. The search for a completion tries them.
    texts: Arc<[Vec<u32>]>,
    /// Completes an empty output, if a completion was found.
    closing: Option<Vec<u32>>,
}

impl Grammars {
    /// # Errors
    /// `Load` if the vocabulary cannot be used for grammars.
    pub fn new(vocabulary: &TokEnv) -> Result<Self, EngineError> {
        let failed = |error| EngineError::Load(format!("the model's tokenizer cannot be used for grammars: {error}"));
        let closers = Arc::new(Closers::new(vocabulary.tok_trie()));
        let mut factory = ParserFactory::new_simple(vocabulary).map_err(failed)?;
        factory.quiet();
        *factory.limits_mut() = parser_limits();
        Ok(Self { factory: Arc::new(factory), closers, compiled: Cache::new(CACHED_TENANTS) })
    }

    /// Checks that the grammar can be compiled. Blocks while the grammar waits for its turn and is compiled. The bound of the output
    /// does not matter: an output that reaches its bound before it is complete is cut.
    ///
    /// # Errors
    /// `Grammar` if it cannot be compiled, `Busy` if its turn did not come in time.
    pub fn check(&self, grammar: &Grammar, _max_output_tokens: u32) -> Result<(), EngineError> {
        self.compile(grammar).map(drop)
    }

    /// Makes the constraint of a request after its output so far; `None` without a grammar. Takes milliseconds, so it runs on a thread
    /// that may block. `max` bounds the tokens of the whole output.
    ///
    /// # Errors
    /// Those of [`Self::check`], and `Grammar` if the request's output does not fit the grammar.
    pub async fn hold(self: Arc<Self>, request: &GenerateRequest, max: u64) -> Result<Option<Constraint>, EngineError> {
        let Some(grammar) = request.grammar.clone() else { return Ok(None) };
        let output = request.output.clone();
        let held = tokio::task::spawn_blocking(move || self.place(&grammar, &output, max));
        held.await.map_err(|error| EngineError::Grammar(error.to_string()))?.map(Some)
    }

    /// Makes the constraint of a grammar after `output`. Blocks.
    pub(super) fn place(&self, grammar: &Grammar, output: &[u32], max: u64) -> Result<Constraint, EngineError> {
        let compiled = self.compile(grammar)?;
        let (matcher, texts) = (compiled.matcher.deep_clone(), compiled.texts.clone());
        let mut held = Constraint::new(matcher, self.closers.clone(), texts, compiled.closing.clone(), max);
        held.replay(output, max)?;
        Ok(held)
    }

    /// Counts the compilations that run, for all models, including those that took too long and that no request waits for.
    pub fn compiling(&self) -> usize {
        TURNS.running()
    }

    fn compile(&self, grammar: &Grammar) -> Result<Arc<Compiled>, EngineError> {
        let (kind, source) = match &grammar.rules {
            Rules::JsonSchema(schema) => ("json_schema", schema.to_string()),
            Rules::Regex(regex) => ("regex", regex.clone()),
            Rules::Lark(lark) => ("lark", lark.clone()),
        };
        check_source(grammar, &source).map_err(EngineError::Grammar)?;
        let key: GrammarKey = Sha256::new().chain_update(kind).chain_update(&source).finalize().into();
        let own = self.compiled.get_with(grammar.tenant.clone(), || Cache::new(CACHED_GRAMMARS));
        let outcome = own
            .try_get_with(key, || {
                let turn = TURNS.take(&grammar.tenant, WAIT_TIME)?;
                Ok::<_, super::turns::Busy>(self.compile_aside(grammar, turn).map_err(Arc::from))
            })
            .map_err(|_| EngineError::Busy { retry_after_ms: 1000 })?;
        outcome.map_err(|reason| EngineError::Grammar(reason.to_string()))
    }

    /// Compiles on a new thread with a large stack, and waits for at most `COMPILE_TIME`. The turn lasts until that thread ends, also
    /// if the compilation takes longer.
    fn compile_aside(&self, grammar: &Grammar, turn: CompileTurn) -> Result<Arc<Compiled>, String> {
        let (factory, closers) = (self.factory.clone(), self.closers.clone());
        let texts = match &grammar.rules {
            Rules::Lark(lark) => texts(lark, &self.factory),
            Rules::JsonSchema(_) | Rules::Regex(_) => Arc::default(),
        };
        let grammar = top_level(&grammar.rules);
        let (sender, compiled) = mpsc::sync_channel(1);
        let begun = thread::Builder::new().name("grammar".into()).stack_size(STACK).spawn(move || {
            let outcome = compile(&factory, &closers, grammar, texts);
            // The turn ends before the outcome is sent, so that the caller can take another turn at once.
            drop(turn);
            drop(sender.send(outcome));
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
    let closing = closers.close(&matcher, &texts, MAX_COMPLETION);
    Ok(Compiled { matcher, texts, closing })
}

fn top_level(rules: &Rules) -> TopLevelGrammar {
    match rules {
        Rules::JsonSchema(schema) => {
            let mut schema = schema.clone();
            if let Some(schema) = schema.as_object_mut() {
                schema
                    .entry("x-guidance")
                    .or_insert_with(|| serde_json::json!({"whitespace_pattern": JSON_WHITESPACE}));
            }
            TopLevelGrammar::from_json_schema(schema)
        }
        Rules::Regex(regex) => TopLevelGrammar::from_regex(regex),
        Rules::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
    }
}

/// The first 64 quoted texts of a grammar, as tokens.
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
