//! A deterministic engine for tests and load tests: sends a given text at a given rate, and fails at given places. A token is a word
//! with the space after it. The token at position n is the nth word of the text; the text repeats as often as needed.

use std::{borrow::Cow, collections::VecDeque, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Capacity, Delta, Engine, EngineError, Finish, GenerateRequest, Grammar, KvBlocks, Logprobs, ModelInfo, ModelStatus,
    Prompt, ReloadError, Reloaded, TokenLogprob,
    decoder::{Decoder, TokenBytes},
    kv::BLOCK,
};
use crate::{
    dialect::{Dialect, Tags},
    wire::sampling::SamplingOptions,
};

/// `engine.scripted`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedSettings {
    /// Other names of the model.
    pub aliases: Vec<String>,
    pub text: String,
    pub tokens: u32,
    pub tokens_per_second: f64,
    pub jitter_ms: u64,
    /// Time before the first token of a prompt without cached tokens.
    pub prefill_ms: u64,
    /// The number of the latest prompts that count as cached; 0: none.
    pub cached_prompts: usize,
    pub load_ms: u64,
    pub fail_after: Option<u32>,
    /// A prompt of exactly this many tokens kills the process.
    pub die_at_prompt: Option<usize>,
    pub context_length: u32,
    pub reasoning: bool,
    /// The model's file for clients that fetch it; empty: the model has none.
    pub file: PathBuf,
}

impl Default for ScriptedSettings {
    fn default() -> Self {
        let text = "A river does not ask who is listening; it flows, é, 日本, 🙂, from the spring to the sea, and whoever \
                    comes late finds it where it is.";
        Self {
            aliases: vec![],
            text: text.into(),
            tokens: 64,
            tokens_per_second: 50.0,
            jitter_ms: 0,
            prefill_ms: 0,
            cached_prompts: 0,
            load_ms: 0,
            fail_after: None,
            die_at_prompt: None,
            context_length: 8192,
            reasoning: false,
            file: PathBuf::new(),
        }
    }
}

pub struct Scripted {
    model: Arc<ModelInfo>,
    words: Arc<[String]>,
    settings: ScriptedSettings,
    max_running: usize,
    /// The latest prompts and their tenants.
    prompts: Mutex<VecDeque<(Arc<str>, Vec<u32>)>>,
    runtime: tokio::runtime::Handle,
}

impl Scripted {
    /// Makes the engine and waits for `load_ms`, as if a model was loaded.
    pub async fn load(
        settings: ScriptedSettings,
        max_running: usize,
        progress: &watch::Sender<Vec<ModelStatus>>,
    ) -> Self {
        let engine = Self::new(settings, max_running);
        progress.send_replace(vec![ModelStatus { loaded: false, ..engine.own_status() }]);
        tokio::time::sleep(Duration::from_millis(engine.settings.load_ms)).await;
        engine
    }

    /// Makes an engine whose generations run on the current runtime.
    pub fn new(settings: ScriptedSettings, max_running: usize) -> Self {
        let mut words: Vec<String> = settings.text.split_inclusive(' ').map(str::to_owned).collect();
        if let Some(last) = words.last_mut().filter(|last| !last.ends_with(' ')) {
            last.push(' ');
        }
        let model = ModelInfo {
            id: "scripted".into(),
            aliases: settings.aliases.clone(),
            context_length: settings.context_length,
            created: 0,
            quantisation: None,
            adapters: vec![],
            sampling: SamplingOptions::default(),
            dialect: Dialect { reasoning: settings.reasoning.then(thoughts), ..Dialect::default() },
            shared_file: Some(settings.file.clone()).filter(|file| !file.as_os_str().is_empty()),
        };
        Self {
            model: Arc::new(model),
            words: words.into(),
            settings,
            max_running,
            prompts: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        }
    }
}

/// The tags around thoughts in the text.
fn thoughts() -> Tags {
    Tags { open: "<think>".into(), close: "</think>".into(), opened: false, optional: false }
}

impl Scripted {
    fn own_status(&self) -> ModelStatus {
        ModelStatus { id: self.model.id.clone(), loaded: true }
    }

    /// Counts the cached tokens at the beginning of a prompt, in whole blocks.
    fn cached(&self, tenant: &str, tokens: &[u32]) -> usize {
        let prompts = self.prompts.lock();
        let own = prompts.iter().filter(|(whose, _)| **whose == *tenant);
        let common = own.map(|(_, prompt)| prompt.iter().zip(tokens).take_while(|(a, b)| a == b).count());
        common.max().unwrap_or_default() / BLOCK * BLOCK
    }

    fn cache(&self, tenant: &Arc<str>, prompt: &[u32]) {
        if self.settings.cached_prompts == 0 {
            return;
        }
        let mut prompts = self.prompts.lock();
        prompts.push_back((tenant.clone(), prompt.to_vec()));
        let surplus = prompts.len().saturating_sub(self.settings.cached_prompts);
        prompts.drain(..surplus);
    }

    /// The time to compute a prompt of `all` tokens, of which `cached` are cached.
    fn prefill(&self, cached: usize, all: usize) -> Duration {
        let missing = all.saturating_sub(cached) as f64 / all.max(1) as f64;
        Duration::from_millis(self.settings.prefill_ms).mul_f64(missing)
    }
}

struct Words(Arc<[String]>);

impl TokenBytes for Words {
    fn bytes(&self, token: u32) -> Cow<'_, [u8]> {
        let word = self.0.get(token as usize % self.0.len().max(1));
        word.map(|word| word.as_bytes().into()).unwrap_or_default()
    }
}

impl Engine for Scripted {
    fn models(&self) -> Vec<Arc<ModelInfo>> {
        vec![self.model.clone()]
    }

    /// A message has a token for each word, and two more.
    fn tokenize(&self, model: &str, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        if model != self.model.id {
            return Err(EngineError::UnknownModel(model.into()));
        }
        Ok(prompt.messages.iter().flat_map(|m| 0..m.content.split_whitespace().count() as u32 + 2).collect())
    }

    /// Accepts every grammar; the engine ignores grammars.
    fn check(&self, _: &str, _: &Grammar, _: u32) -> Result<(), EngineError> {
        Ok(())
    }

    fn capacity(&self, _: &str) -> Capacity {
        Capacity { sequences: self.max_running, tokens: None }
    }

    fn kv_blocks(&self, _: &str) -> Option<KvBlocks> {
        None
    }

    fn prompt_time(&self, _: &str, tenant: &str, tokens: &[u32]) -> Duration {
        if self.settings.cached_prompts == 0 {
            return Duration::ZERO;
        }
        self.prefill(self.cached(tenant, tokens), tokens.len())
    }

    fn status(&self) -> Vec<ModelStatus> {
        vec![self.own_status()]
    }

    /// Returns at once: the new model is the old one.
    fn reload<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<Reloaded, ReloadError>> {
        let known = self.model.is_called(model);
        let (old, new) = (self.model.clone(), self.model.clone());
        let reloaded = Reloaded { old, new, took: Duration::ZERO };
        Box::pin(async move { known.then_some(reloaded).ok_or_else(|| ReloadError::UnknownModel(model.into())) })
    }

    fn generate(&self, _: &str, request: GenerateRequest) -> Result<mpsc::Receiver<Delta>, EngineError> {
        if self.settings.die_at_prompt == Some(request.prompt.len()) {
            std::process::abort();
        }
        let (sender, receiver) = mpsc::channel(request.max_output_tokens as usize + 2);
        let all = request.prompt.len();
        // The last token is always computed.
        let cached = self.cached(&request.tenant, request.prompt.get(..all.saturating_sub(1)).unwrap_or_default());
        self.cache(&request.tenant, &request.prompt);
        let script = Script {
            settings: self.settings.clone(),
            words: Words(self.words.clone()),
            prefill: self.prefill(cached, all),
            cached: u32::try_from(cached).unwrap_or(u32::MAX),
        };
        self.runtime.spawn(run_script(script, request, sender));
        Ok(receiver)
    }
}

/// What one generation sends, and when.
struct Script {
    settings: ScriptedSettings,
    words: Words,
    prefill: Duration,
    /// Cached tokens of the prompt.
    cached: u32,
}

async fn run_script(script: Script, request: GenerateRequest, sender: mpsc::Sender<Delta>) {
    let Script { settings, words, prefill, cached } = script;
    let mut decoder = Decoder::new(Words(words.0.clone()), request.stop.clone());
    for token in &request.output {
        decoder.push(*token);
    }
    let interval = if settings.tokens_per_second > 0.0 { 1.0 / settings.tokens_per_second } else { 0.0 };
    let start = Instant::now() + prefill;
    let first = request.output.len() as u32;
    if request.max_output_tokens == 0 {
        let finish = tokio::select! {
            biased;
            () = request.cancel.cancelled() => Finish::Cancelled,
            () = sleep_until(start) => Finish::Length,
        };
        let _ = sender.send(Delta { cached_tokens: Some(cached), finish: Some(finish), ..Delta::default() }).await;
        return;
    }
    for position in first.. {
        let jitter = settings.jitter_ms.checked_mul(u64::from(position) * 7919 % 101).unwrap_or(0) / 100;
        let due =
            start + Duration::from_secs_f64(interval * f64::from(position - first + 1)) + Duration::from_millis(jitter);
        let finish = tokio::select! {
            biased;
            () = request.cancel.cancelled() => Some(Finish::Cancelled),
            () = wait(due, position) => None,
        };
        let finish = finish.or_else(|| {
            if settings.fail_after == Some(position) {
                Some(Finish::Failed("scripted failure".into()))
            } else if position >= settings.tokens {
                Some(Finish::Stop)
            } else if position >= request.max_output_tokens {
                Some(Finish::Length)
            } else {
                None
            }
        });
        if finish.is_some() {
            let _ = sender.send(Delta { text: decoder.finish(), finish, ..Delta::default() }).await;
            return;
        }
        let (text, finish) = decoder.push(position);
        let ended = finish.is_some();
        let logprobs = request.logprobs.map(|top| logprobs(&words, position, top)).into_iter().collect();
        let cached_tokens = (position == first).then_some(cached);
        let _ = sender.send(Delta { tokens: vec![position], text, logprobs, cached_tokens, finish }).await;
        if ended {
            return;
        }
    }
}

/// Makes up log-probabilities: the token has probability 1/2, and each next word of the text half of the one before it.
fn logprobs(words: &Words, position: u32, top: u8) -> Logprobs {
    let word = |ahead: u32| {
        let token = words.decode(&[position.wrapping_add(ahead)]);
        let logprob = -std::f32::consts::LN_2 * (ahead + 1) as f32;
        TokenLogprob { bytes: token.clone().into_bytes(), token, logprob }
    };
    Logprobs { token: word(0), top: (0..u32::from(top)).map(word).collect() }
}

/// Waits until a token is due. At full speed the task yields every 16 tokens.
async fn wait(due: Instant, position: u32) {
    if due > Instant::now() {
        sleep_until(due).await;
    } else if position.is_multiple_of(16) {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Sampling, StopStrings};
    use tokio_util::sync::CancellationToken;

    fn request() -> GenerateRequest {
        GenerateRequest {
            reuse: Default::default(),
            prompt: vec![1],
            tenant: "t".into(),
            output: vec![],
            sampling: Sampling::default(),
            stop: StopStrings::default(),
            grammar: None,
            logprobs: None,
            max_output_tokens: 1000,
            cancel: CancellationToken::new(),
        }
    }

    async fn run(settings: ScriptedSettings, request: GenerateRequest) -> (String, usize, Finish) {
        let mut receiver = Scripted::new(settings, 1).generate("scripted", request).unwrap();
        let (mut text, mut tokens) = (String::new(), 0);
        while let Some(delta) = receiver.recv().await {
            text += &delta.text;
            tokens += delta.tokens.len();
            if let Some(finish) = delta.finish {
                assert!(receiver.recv().await.is_none());
                return (text, tokens, finish);
            }
        }
        panic!("closed without a finish");
    }

    fn fast(tokens: u32) -> ScriptedSettings {
        ScriptedSettings { tokens, tokens_per_second: 0.0, text: "a b c".into(), ..Default::default() }
    }

    #[tokio::test]
    async fn sends_its_text() {
        assert_eq!(run(fast(4), request()).await, ("a b c a ".into(), 4, Finish::Stop));
        let nothing = GenerateRequest { max_output_tokens: 0, ..request() };
        assert_eq!(run(fast(4), nothing).await, (String::new(), 0, Finish::Length));
    }

    #[tokio::test]
    async fn ends_by_length_stop_failure_and_cancel() {
        let limited = GenerateRequest { max_output_tokens: 2, ..request() };
        assert_eq!(run(fast(4), limited).await, ("a b ".into(), 2, Finish::Length));
        let stopped = GenerateRequest { stop: vec!["b c".into()].into(), ..request() };
        assert_eq!(run(fast(4), stopped).await, ("a ".into(), 3, Finish::Stop));
        let failing = ScriptedSettings { fail_after: Some(1), ..fast(4) };
        assert_eq!(run(failing, request()).await.2, Finish::Failed("scripted failure".into()));
        let cancelled = request();
        cancelled.cancel.cancel();
        assert_eq!(run(fast(4), cancelled).await, (String::new(), 0, Finish::Cancelled));
    }

    #[tokio::test]
    async fn continues_from_its_tokens() {
        let continued = GenerateRequest { output: vec![0, 1], ..request() };
        assert_eq!(run(fast(4), continued).await, ("c a ".into(), 2, Finish::Stop));
    }
}
