//! Tests with the default model, which `caudal model pull` fetches. Most tests share one engine.

mod bits;
mod cache;
mod families;
mod faults;
mod grammar;
mod kv;
mod logprobs;
mod model;

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use futures::StreamExt;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::{Finish, Logprobs, Message, Role, Sampling, StopStrings, decoder::TokenBytes};

pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
pub static ENGINE: LazyLock<MistralEngine> = LazyLock::new(|| {
    // Loads on a thread of its own, because the first user may be inside the runtime.
    let load = || RUNTIME.block_on(load(config()));
    std::thread::spawn(load).join().expect("loads").expect("the model loads")
});

pub fn config() -> MistralConfig {
    let models = vec![ModelSettings { id: "m".into(), ..ModelSettings::default() }];
    MistralConfig { models, threads: 2, kv_mb: 512, ..MistralConfig::default() }
}

pub async fn load(config: MistralConfig) -> Result<MistralEngine, EngineError> {
    MistralEngine::load(config, LoadProgress::default()).await
}

/// The engine's only model.
pub fn the(engine: &MistralEngine) -> Arc<ServedModel> {
    engine.model("m").expect("a model")
}

fn prompt(text: &str) -> Vec<u32> {
    ENGINE.tokenize("m", &Prompt::of(vec![Message::text(Role::User, text)])).expect("rendered")
}

pub fn request(text: &str, max_output_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt(text),
        tenant: "t".into(),
        reuse: Default::default(),
        output: Vec::new(),
        sampling: Sampling { temperature: 0.0, seed: 1, ..Sampling::default() },
        stop: StopStrings::default(),
        grammar: None,
        logprobs: None,
        max_output_tokens,
        cancel: CancellationToken::new(),
    }
}

#[derive(Debug, Default, Clone)]
pub struct Reply {
    pub tokens: Vec<u32>,
    pub text: String,
    pub logprobs: Vec<Logprobs>,
    pub cached_tokens: Option<u32>,
    /// Tokens of the last delta.
    pub last: usize,
    pub finish: Option<Finish>,
}

/// Compares the outputs only, not the numbers of cached tokens or the log-probabilities.
impl PartialEq for Reply {
    fn eq(&self, other: &Self) -> bool {
        (&self.tokens, &self.text, &self.finish) == (&other.tokens, &other.text, &other.finish)
    }
}

/// Reads all deltas and checks that the finish comes once and last.
pub async fn collect(deltas: mpsc::Receiver<Delta>) -> Reply {
    let mut reply = Reply::default();
    reply.goes_on(deltas).await;
    reply
}

impl Reply {
    pub async fn goes_on(&mut self, mut deltas: mpsc::Receiver<Delta>) {
        while let Some(delta) = deltas.recv().await {
            self.add(delta);
        }
    }

    pub fn add(&mut self, delta: Delta) {
        assert_eq!(self.finish, None, "a delta after the last");
        if let Some(cached) = delta.cached_tokens {
            assert!(self.tokens.is_empty() && self.cached_tokens.is_none(), "{cached} cached tokens, too late");
            self.cached_tokens = Some(cached);
        }
        self.logprobs.extend(delta.logprobs);
        self.last = delta.tokens.len();
        self.tokens.extend(delta.tokens);
        self.text.push_str(&delta.text);
        self.finish = delta.finish;
    }
}

pub fn run(request: GenerateRequest) -> Reply {
    RUNTIME.block_on(async { collect(ENGINE.generate("m", request).expect("starts")).await })
}

#[test]
fn the_prompt_is_what_the_model_was_trained_on() {
    let text = the(&ENGINE).shared.tokens.bytes();
    let messages = Prompt::of(vec![
        Message::text(Role::System, "Be brief."),
        Message::text(Role::User, "Hi"),
        Message::text(Role::Assistant, "Hello!"),
        Message::text(Role::User, "Bye"),
    ]);
    let tokens = ENGINE.tokenize("m", &messages).unwrap();
    // Special tokens have no text.
    assert_eq!(text.decode(&tokens), "system\nBe brief.\nuser\nHi\nassistant\nHello!\nuser\nBye\nassistant\n");
    assert!(matches!(ENGINE.tokenize("other", &messages), Err(EngineError::UnknownModel(_))));
}

#[test]
fn the_text_is_the_tokens_decoded() {
    let reply = run(request("Write one line each in French, Japanese and emoji about rivers.", 80));
    assert_eq!(reply.text, the(&ENGINE).shared.tokens.bytes().decode(&reply.tokens));
    assert!(reply.tokens.len() <= 80);
    assert!(matches!(reply.finish, Some(Finish::Stop | Finish::Length)), "{:?}", reply.finish);
}

#[test]
fn it_stops_where_the_model_does() {
    let reply = run(request("What is the capital of France? Answer in one short sentence.", 100));
    assert_eq!(reply.finish, Some(Finish::Stop), "{reply:?}");
    assert!(reply.text.contains("Paris"), "{reply:?}");
    assert!(!reply.text.contains("<|"), "{reply:?}");
}

#[test]
fn it_ends_at_the_length() {
    for length in [1, 7] {
        let reply = run(request("Count from one to a hundred.", length));
        assert_eq!((reply.tokens.len(), reply.finish), (length as usize, Some(Finish::Length)));
    }
}

#[test]
fn a_seed_decides_the_reply() {
    let sampled = |seed| {
        let mut request = request("Invent a name for a river.", 24);
        request.sampling = Sampling { top_p: 0.95, seed, ..Sampling::default() };
        run(request)
    };
    let first = sampled(7);
    assert_eq!(first, sampled(7));
    assert!((8..12).any(|seed| sampled(seed) != first), "every seed gave {first:?}");
}

#[test]
fn a_stop_string_ends_it_and_is_not_shown() {
    let whole = run(request("Count from one to ten, in digits, with commas.", 40));
    let middle = whole.text.char_indices().nth(whole.text.chars().count() / 2).unwrap().0;
    let stop: String = whole.text[middle..].chars().take(3).collect();
    let mut stopped = request("Count from one to ten, in digits, with commas.", 40);
    stopped.stop = vec![stop.clone(), "never said".into()].into();
    let reply = run(stopped);
    assert_eq!(reply.finish, Some(Finish::Stop));
    assert_eq!(reply.text, whole.text[..whole.text.find(&stop).unwrap()]);
}

#[test]
fn an_output_is_continued_by_its_tokens() {
    let question = "Name three rivers of Europe and one fact about each.";
    let whole = run(request(question, 40));
    for cut in [1, whole.tokens.len() / 2, whole.tokens.len() - 1] {
        let mut rest = request(question, 40);
        rest.output = whole.tokens[..cut].to_vec();
        let rest = run(rest);
        assert_eq!([&whole.tokens[..cut], &rest.tokens].concat(), whole.tokens, "cut at {cut}");
        let shown = the(&ENGINE).shared.tokens.bytes().decode(&whole.tokens[..cut]);
        assert_eq!(shown + &rest.text, whole.text, "cut at {cut}");
        assert_eq!(rest.finish, whole.finish);
    }
    let mut nothing_left = request(question, 40);
    nothing_left.output = whole.tokens[..5].to_vec();
    nothing_left.max_output_tokens = 5;
    assert_eq!(run(nothing_left), Reply { finish: Some(Finish::Length), ..Reply::default() });
}

/// In this vocabulary, the emoji has several tokens. The reply is cut after each of them.
#[test]
fn a_reply_that_ends_inside_a_character_is_not_lost() {
    let mut cut = request("Say it.", 1);
    let text = "ab \u{1f9ff} cd";
    let tokens = the(&ENGINE).shared.tokens.encode_plain(text);
    for length in 1..=tokens.len() {
        let mut decoder = crate::engine::decoder::Decoder::new(the(&ENGINE).shared.tokens.bytes(), Vec::new().into());
        let mut shown: String = tokens[..length].iter().map(|token| decoder.push(*token).0).collect();
        shown.push_str(&decoder.finish());
        assert_eq!(shown, the(&ENGINE).shared.tokens.bytes().decode(&tokens[..length]), "{length} tokens");
    }
    // The same through the engine: the bytes of an incomplete character come with the last delta.
    let inside =
        (1..tokens.len()).find(|n| the(&ENGINE).shared.tokens.bytes().decode(&tokens[..*n]).ends_with('\u{fffd}'));
    cut.output = tokens[..inside.expect("a character of several tokens")].to_vec();
    cut.max_output_tokens = cut.output.len() as u32;
    assert!(run(cut).text.ends_with('\u{fffd}'));
}

#[test]
fn cancel_ends_it_within_a_token_and_frees_its_place() {
    RUNTIME.block_on(async {
        let long = request("Tell me everything about the sea.", 2000);
        let cancel = long.cancel.clone();
        let mut deltas = ENGINE.generate("m", long).unwrap();
        for _ in 0..5 {
            deltas.recv().await.expect("a delta");
        }
        cancel.cancel();
        let cancelled = Instant::now();
        let mut after = 0;
        let mut last = None;
        while let Some(delta) = deltas.recv().await {
            after += delta.tokens.len();
            last = delta.finish;
        }
        assert_eq!(last, Some(Finish::Cancelled));
        // The deltas that were in the channel at the cancel may still come, and one more token.
        assert!(after <= 4, "{after} tokens after the cancel");
        assert!(cancelled.elapsed() < Duration::from_secs(2), "{:?}", cancelled.elapsed());
    });
    assert_eq!(run(request("Hi", 3)).finish, Some(Finish::Length));
}

#[test]
fn cancelled_before_it_runs_it_never_does() {
    let early = request("Hi", 5);
    early.cancel.cancel();
    assert_eq!(run(early), Reply { finish: Some(Finish::Cancelled), ..Reply::default() });
}

#[test]
fn a_dropped_reader_ends_the_generation() {
    RUNTIME.block_on(async {
        // More generations than run at once.
        for _ in 0..40 {
            let mut deltas = ENGINE.generate("m", request("Tell me a long story.", 2000)).unwrap();
            deltas.recv().await.expect("a delta");
            drop(deltas);
        }
    });
    let begun = Instant::now();
    assert_eq!(run(request("Hi", 3)).tokens.len(), 3);
    assert!(begun.elapsed() < Duration::from_secs(20), "the dropped ones are still running");
}

#[test]
fn conversations_do_not_disturb_each_other() {
    let questions = ["What is the capital of Italy?", "How many legs has a spider?", "Who wrote Hamlet?"];
    let alone: Vec<Reply> = questions.iter().map(|question| run(request(question, 24))).collect();
    let together = RUNTIME.block_on(futures::future::join_all(
        questions.iter().map(|question| collect(ENGINE.generate("m", request(question, 24)).unwrap())),
    ));
    assert_eq!(alone, together);
}

/// The prompt is so long that it is computed in several steps.
#[test]
fn a_cancel_is_noticed_while_a_long_prompt_is_read() {
    let long: String = (0..1200).map(|n| format!("{n} rivers, ")).collect();
    RUNTIME.block_on(async {
        let cancelled = GenerateRequest { tenant: "long".into(), ..request(&long, 1) };
        let whole = GenerateRequest { tenant: "whole".into(), ..request(&long, 1) };
        let begun = Instant::now();
        collect(ENGINE.generate("m", whole).unwrap()).await;
        let whole = begun.elapsed();
        let (cancel, begun) = (cancelled.cancel.clone(), Instant::now());
        let deltas = ENGINE.generate("m", cancelled).unwrap();
        // Waits for the answer to a later prompt, which shows that the long one is being computed.
        collect(ENGINE.generate("m", request("Hi", 1)).unwrap()).await;
        cancel.cancel();
        assert_eq!(collect(deltas).await.finish, Some(Finish::Cancelled));
        assert!(begun.elapsed() < whole / 2, "{:?} of {whole:?}", begun.elapsed());
    });
}

/// There is room for two of the four sequences. The youngest wait for blocks, and their outputs are the same.
#[test]
fn where_blocks_run_out_the_youngest_wait() {
    RUNTIME.block_on(async {
        let small = MistralConfig { kv_mb: 16, ..config() };
        let engine = load(small).await.expect("the model loads");
        let tokens = engine.capacity("m").tokens.expect("paged");
        assert_eq!(engine.models()[0].context_length as usize, tokens, "the context fits the blocks");
        let questions =
            ["Tell me about the sea.", "Tell me about the sky.", "Tell me about wood.", "Tell me about iron."];
        let length = (tokens / 2) as u32;
        let alone: Vec<Reply> = questions
            .iter()
            .map(|text| ENGINE.generate("m", request(text, length)).unwrap())
            .map(collect)
            .collect::<futures::stream::FuturesOrdered<_>>()
            .collect()
            .await;
        let together = questions.iter().map(|text| collect(engine.generate("m", request(text, length)).unwrap()));
        assert_eq!(futures::future::join_all(together).await, alone);
    });
}

#[test]
fn a_prompt_that_fills_the_context_ends_at_once() {
    let mut full = request("Hi", 5);
    full.prompt = vec![full.prompt[0]; ENGINE.models()[0].context_length as usize];
    assert_eq!(run(full).finish, Some(Finish::Length));
}

#[test]
fn an_engine_error_fails_one_generation_only() {
    let mut broken = request("Hi", 5);
    broken.prompt.push(u32::MAX - 7);
    let reply = run(broken);
    assert!(matches!(reply.finish, Some(Finish::Failed(_))), "{reply:?}");
    assert_eq!(run(request("Hi", 2)).tokens.len(), 2);
    assert_eq!(run(request("Hi", 2)).tokens.len(), 2);
}
