//! Grammars to matchers. Compiling happens on threads of its own, in turns between the tenants, and its results are kept.

use std::{
    sync::{Arc, LazyLock, mpsc},
    thread,
};

use llguidance::{Matcher, ParserFactory, api::TopLevelGrammar, toktrie::TokEnv};
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use super::{
    completion::Closers,
    held::{Constraint, plain},
    limits::{
        CACHED_GRAMMARS, CACHED_TENANTS, COMPILE_TIME, MAX_COMPLETION, STACK, WAIT_TIME, check_source, parser_limits,
    },
    turns::{CompileTurn, CompileTurns},
};
use crate::engine::{EngineError, GenerateRequest, Grammar, Rules};

/// What may stand between the tokens of JSON where the schema does not say. Without a bound a small model writes spaces until
/// its output ends.
const JSON_WHITESPACE: &str = r"\x20|\r?\n[\x20\t]{0,32}";

/// All models share the machine.
static TURNS: LazyLock<Arc<CompileTurns>> = LazyLock::new(Arc::default);

type GrammarKey = [u8; 32];
/// A grammar, or why it cannot be compiled.
type CompileResult = Result<Arc<Compiled>, Arc<str>>;

/// Compiles grammars for one vocabulary.
pub struct Grammars {
    factory: Arc<ParserFactory>,
    closers: Arc<Closers>,
    /// By tenant, so that none learns by the time it takes what another one compiled, or evicts it.
    compiled: Cache<Arc<str>, Cache<GrammarKey, CompileResult>>,
}

struct Compiled {
    /// At the start; generations run on copies.
    matcher: Matcher,
    /// The texts that the grammar names, to find a way out by.
    texts: Arc<[Vec<u32>]>,
    /// Completes an output from the start, if a search found it.
    closing: Option<Vec<u32>>,
}

impl Grammars {
    /// # Errors
    /// `Load` where the vocabulary cannot be used for grammars.
    pub fn new(vocabulary: &TokEnv) -> Result<Self, EngineError> {
        let failed = |error| EngineError::Load(format!("the model's tokenizer cannot be held to grammars: {error}"));
        let closers = Arc::new(Closers::new(vocabulary.tok_trie()));
        let mut factory = ParserFactory::new_simple(vocabulary).map_err(failed)?;
        factory.quiet();
        *factory.limits_mut() = parser_limits();
        Ok(Self { factory: Arc::new(factory), closers, compiled: Cache::new(CACHED_TENANTS) })
    }

    /// Whether outputs can be held to the grammar. Blocks while it is compiled, and while others' grammars are. How long the
    /// output may be makes no difference: one that ends before it is complete is cut.
    ///
    /// # Errors
    /// `Grammar` where it cannot be compiled, `Busy` where no turn to compile it came in time.
    pub fn check(&self, grammar: &Grammar, _max_output_tokens: u32) -> Result<(), EngineError> {
        self.compile(grammar).map(drop)
    }

    /// The place after a request's output in its grammar, if it has one. Takes milliseconds, so it runs on a thread that may
    /// block. `max` bounds the tokens of the whole output.
    ///
    /// # Errors
    /// As [`Self::check`], and `Grammar` where the request's output does not fit.
    pub async fn hold(self: Arc<Self>, request: &GenerateRequest, max: u64) -> Result<Option<Constraint>, EngineError> {
        let Some(grammar) = request.grammar.clone() else { return Ok(None) };
        let output = request.output.clone();
        let held = tokio::task::spawn_blocking(move || self.place(&grammar, &output, max));
        held.await.map_err(|error| EngineError::Grammar(error.to_string()))?.map(Some)
    }

    /// The place after `output` in a grammar. Blocks.
    pub(super) fn place(&self, grammar: &Grammar, output: &[u32], max: u64) -> Result<Constraint, EngineError> {
        let compiled = self.compile(grammar)?;
        let (matcher, texts) = (compiled.matcher.deep_clone(), compiled.texts.clone());
        let mut held = Constraint::new(matcher, self.closers.clone(), texts, compiled.closing.clone(), max);
        held.replay(output, max)?;
        Ok(held)
    }

    /// Compilations under way for all models, those among them that were given up.
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

    /// Compiles on another thread, with a stack and a time of its own. The turn lasts as long as that thread, also where it is
    /// given up.
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
            // Whoever waits for the outcome may compile again at once.
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
