//! With the default model, which `caudal model pull` fetches. One engine of two slots serves all tests.

mod cache;
mod grammar;
mod logprobs;

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::slot::Slot;
use super::*;
use crate::engine::{Finish, Logprobs, Message, Role, Sampling, StopStrings, decoder::TokenBytes};

pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
pub static ENGINE: LazyLock<MistralEngine> = LazyLock::new(|| {
    // On a thread of its own, because the first to ask may be inside the runtime.
    let load = || RUNTIME.block_on(load(config(2, 256)));
    std::thread::spawn(load).join().expect("loads").expect("the model loads")
});

pub fn config(slots: usize, prefix_cache_mb: u64) -> MistralConfig {
    let models = vec![ModelSettings { id: "m".into(), ..ModelSettings::default() }];
    MistralConfig { models, slots, threads: 2, prefix_cache_mb, ..MistralConfig::default() }
}

pub async fn load(config: MistralConfig) -> Result<MistralEngine, EngineError> {
    MistralEngine::load(config, Progress::default()).await
}

/// Its only model.
pub fn the(engine: &MistralEngine) -> Arc<Model> {
    engine.model("m").expect("a model")
}

fn prompt(text: &str) -> Vec<u32> {
    ENGINE.tokenize("m", &Prompt::of(vec![Message::text(Role::User, text)])).expect("rendered")
}

pub fn request(text: &str, max_output_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt(text),
        scope: "t".into(),
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

/// What was said, wherever its prompt was computed.
impl PartialEq for Reply {
    fn eq(&self, other: &Self) -> bool {
        (&self.tokens, &self.text, &self.finish) == (&other.tokens, &other.text, &other.finish)
    }
}

/// Reads to the channel's end and checks that the finish comes once and last.
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
            let first = self.tokens.is_empty() && self.cached_tokens.is_none();
            let corrected = self.cached_tokens.is_some_and(|told| cached < told);
            assert!(first || corrected, "{cached} cached tokens after {:?}", self.cached_tokens);
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

/// The characters of an emoji take several tokens of this vocabulary; the reply is cut after each of them.
#[test]
fn a_reply_that_ends_inside_a_character_is_not_lost() {
    let mut cut = request("Say it.", 1);
    let text = "ab \u{1f9ff} cd";
    let tokens = the(&ENGINE).shared.tokens.encode_plain(text);
    for length in 1..=tokens.len() {
        let mut decoder = crate::engine::decoder::Decoder::new(the(&ENGINE).shared.tokens.bytes(), Vec::new());
        let mut shown: String = tokens[..length].iter().map(|token| decoder.push(*token).0).collect();
        shown.push_str(&decoder.finish());
        assert_eq!(shown, the(&ENGINE).shared.tokens.bytes().decode(&tokens[..length]), "{length} tokens");
    }
    // And through the engine: the held half of a character comes with the last delta.
    let inside =
        (1..tokens.len()).find(|n| the(&ENGINE).shared.tokens.bytes().decode(&tokens[..*n]).ends_with('\u{fffd}'));
    cut.output = tokens[..inside.expect("a character of several tokens")].to_vec();
    cut.max_output_tokens = cut.output.len() as u32;
    assert!(run(cut).text.ends_with('\u{fffd}'));
}

#[test]
fn cancel_ends_it_within_a_token_and_frees_the_slot() {
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
        // What was in the channel when it was cancelled may still come, and one token more.
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
fn a_dropped_reader_does_not_break_the_slot() {
    RUNTIME.block_on(async {
        // More than there are slots, so that each has had one.
        for _ in 0..4 {
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

/// Keeps the logits of the first step and ends there.
struct Probe {
    end: u32,
    seen: std::sync::Mutex<Vec<f32>>,
}

impl mistralrs_core::CustomLogitsProcessor for Probe {
    fn apply(&self, logits: &candle_core::Tensor, _: &[u32]) -> candle_core::Result<candle_core::Tensor> {
        let values = logits.to_vec1::<f32>()?;
        let mut choice = vec![0f32; values.len()];
        choice[self.end as usize] = 1.0;
        let mut seen = threads::lock(&self.seen);
        if seen.is_empty() {
            *seen = values;
        }
        candle_core::Tensor::new(choice, logits.device())
    }
}

/// The likelihoods of the token after `prompt`, and how long they took.
async fn likelihoods(slot: &Slot, shared: &load::Shared, prompt: &[u32]) -> (Vec<f64>, Duration) {
    let end = shared.end;
    let probe = Arc::new(Probe { end, seen: std::sync::Mutex::default() });
    let begun = Instant::now();
    let watch = Arc::new(watchdog::Watch::new());
    let spare = shared.spare(&[end]);
    let sequence = slot::Sequence { tokens: prompt.to_vec(), max_len: 2, end, spare, steps: probe.clone(), watch };
    slot.run(sequence, pace::Pace::default().expected(prompt.len())).await.expect("runs");
    let took = begun.elapsed();
    let logits = threads::lock(&probe.seen).clone();
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (weights.iter().map(|weight| weight / sum).collect(), took)
}

/// Half the sum of the differences: 0 for the same distribution, 1 for disjoint ones.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}

#[test]
fn a_cached_turn_is_fast_and_gives_the_same_likelihoods() {
    RUNTIME.block_on(async {
        let engine = load(config(1, 256)).await.expect("the model loads");
        let question = "Tell me about the Nile in two sentences.";
        let said = collect(engine.generate("m", request(question, 48)).unwrap()).await;
        let turn = vec![
            Message::text(Role::User, question),
            Message::text(Role::Assistant, said.text),
            Message::text(Role::User, "And how long is it?"),
        ];
        let prompt = engine.tokenize("m", &Prompt::of(turn)).unwrap();
        let wanted = pool::Wanted { tokens: &prompt, scope: &"t".into(), left: 2 };
        let mut lease = lease::Lease::acquire(&the(&engine).pool, wanted).await.unwrap();
        let mut given = prompt.clone();
        lease.ready(&the(&engine).shared, &mut given).await.unwrap();
        let (cached, fast) = likelihoods(&lease.slot, &the(&engine).shared, &given).await;
        lease.empty(&the(&engine).shared).await.unwrap();
        let (fresh, slow) = likelihoods(&lease.slot, &the(&engine).shared, &prompt).await;
        // Not equal: a key computed in a prefill and one computed alone differ in the last bits.
        let far = distance(&cached, &fresh);
        eprintln!("distance {far}, cached {fast:?}, fresh {slow:?}");
        assert!(far < 0.05, "distance {far}");
        assert!(fast < slow, "cached {fast:?}, fresh {slow:?}");
    });
}

/// Long enough to be read in several pieces.
#[test]
fn a_long_prompt_is_read_in_pieces_and_a_cancel_is_heard_between_them() {
    let long: String = (0..300).map(|n| format!("{n} rivers, ")).collect();
    RUNTIME.block_on(async {
        let engine = load(config(1, 256)).await.expect("the model loads");
        let prompt = request(&long, 2).prompt;
        let scope = "t".into();
        let wanted = || pool::Wanted { tokens: &prompt, scope: &scope, left: 2 };
        let fresh = {
            let mut lease = lease::Lease::acquire(&the(&engine).pool, wanted()).await.unwrap();
            let (fresh, _) = likelihoods(&lease.slot, &the(&engine).shared, &prompt).await;
            lease.empty(&the(&engine).shared).await.unwrap();
            fresh
        };
        collect(engine.generate("m", request(&(long.clone() + "?"), 2)).unwrap()).await;
        let mut lease = lease::Lease::acquire(&the(&engine).pool, wanted()).await.unwrap();
        assert!(lease.reused() > prompt.len() - 10, "{} of {} tokens", lease.reused(), prompt.len());
        let mut given = prompt.clone();
        lease.ready(&the(&engine).shared, &mut given).await.unwrap();
        let (pieces, _) = likelihoods(&lease.slot, &the(&engine).shared, &given).await;
        let far = distance(&pieces, &fresh);
        assert!(far < 0.05, "distance {far}");
        lease.empty(&the(&engine).shared).await.unwrap();
        drop(lease);

        let whole = Instant::now();
        collect(engine.generate("m", request(&format!("first {long}"), 1)).unwrap()).await;
        let whole = whole.elapsed();
        let cancelled = request(&format!("second {long}"), 1);
        let cancel = cancelled.cancel.clone();
        let begun = Instant::now();
        let deltas = engine.generate("m", cancelled).unwrap();
        while the(&engine).pool.running() == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
        assert_eq!(collect(deltas).await.finish, Some(Finish::Cancelled));
        // The slot is free by then.
        assert!(begun.elapsed() < whole / 2, "{:?} of {whole:?}", begun.elapsed());
    });
}

#[test]
fn the_cache_is_bounded() {
    RUNTIME.block_on(async {
        let engine = load(config(1, 80)).await.expect("the model loads");
        let mut most = 0;
        for n in 0..8 {
            collect(engine.generate("m", request(&format!("{n}: hi"), 2)).unwrap()).await;
            let kept = the(&engine).pool.kept_bytes();
            assert!(kept <= 80 << 20, "{kept} bytes kept");
            most = most.max(kept);
        }
        assert!(most > 0, "nothing was ever kept");
    });
}

#[test]
fn one_scope_never_finds_the_kv_of_another() {
    RUNTIME.block_on(async {
        let engine = load(config(1, 256)).await.expect("the model loads");
        let ask = async |scope: &str, prompt: &[u32]| {
            let request = GenerateRequest { scope: scope.into(), logprobs: Some(3), ..request("", 12) };
            collect(engine.generate("m", GenerateRequest { prompt: prompt.to_vec(), ..request }).unwrap()).await
        };
        let first = prompt("What is a river?");
        let a = ask("a", &first).await;
        let turn = [&first, a.tokens.as_slice(), &prompt("And a lake?")[1..]].concat();
        let a_turn = ask("a", &turn).await;
        assert!(a_turn.cached_tokens.is_some_and(|cached| cached as usize >= first.len() + 11), "{a_turn:?}");
        // Each finds nothing of the others', and still its own after them.
        for scope in ["b", "c"] {
            let other = ask(scope, &first).await;
            assert_eq!((other.cached_tokens, &other, &other.logprobs), (Some(0), &a, &a.logprobs), "{scope}");
        }
        for scope in ["b", "a", "c"] {
            let again = ask(scope, &[turn.as_slice(), &first[1..]].concat()).await;
            let own = if scope == "a" { turn.len() } else { first.len() + 11 };
            assert_eq!(again.cached_tokens.map(|cached| cached as usize >= own), Some(true), "{scope}: {again:?}");
            assert_eq!(again.cached_tokens.map(|cached| cached as usize >= turn.len()), Some(scope == "a"), "{scope}");
        }
        let mut scopes = the(&engine).pool.kept_scopes();
        scopes.sort();
        scopes.dedup();
        assert_eq!(scopes, ["a", "b", "c"]);
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

#[test]
fn defaults_fit_the_machine() {
    const SLOT: u64 = 600 << 20;
    assert_eq!(default_slots(2, 16 << 30, SLOT), 8);
    assert_eq!(default_slots(2, 2 << 30, SLOT), 1);
    assert_eq!(default_slots(64, 1 << 40, SLOT), 32);
    assert_eq!(default_threads(2), 2);
}
