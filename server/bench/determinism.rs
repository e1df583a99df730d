//! Checks whether the same seed and prompt give the same tokens and log-probabilities: alone, among 31 others (so that long prompts are
//! computed in pieces), from cached keys and values, and when an output is cut and continued by its token ids. Prints the shares
//! and the differences, and writes JSON with `--json FILE`.
//!
//! Each generation has a tenant of its own, so that its prompt is computed, except the generations that read the cache. With `--reuse`
//! all share one tenant, so that they also use keys and values of other outputs.
//!
//! ```text
//! cargo run --release -p caudal-bench --bin bench-determinism -- [--prompts 200] [--cuts 200] [--tokens 48] [--reuse] [--json FILE]
//! ```

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use caudal_server::engine::{
    Engine, Finish, GenerateRequest, Logprobs, Message, Prompt, Role, Sampling,
    mistral::{LoadProgress, MistralConfig, MistralEngine},
    model::ModelSettings,
};
use clap::Parser;
use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const TOGETHER: usize = 32;
const ASKED: [&str; 10] = [
    "Tell me about the river {}.",
    "What is {} plus seven? Explain.",
    "Write a poem about the number {}.",
    "Name {} animals of the sea.",
    "Why do people like the year {}?",
    "Invent a machine with {} wheels and describe it.",
    "Translate 'chapter {}' into five languages.",
    "Is {} a prime? Say why.",
    "Plan a walk of {} kilometres.",
    "Tell a story in which {} birds meet.",
];

#[derive(Parser)]
struct Args {
    /// Prompts that run alone and among others.
    #[arg(long, default_value_t = 200)]
    prompts: usize,
    /// Outputs that are cut and continued.
    #[arg(long, default_value_t = 200)]
    cuts: usize,
    /// Tokens of every output.
    #[arg(long, default_value_t = 48)]
    tokens: u32,
    #[arg(long)]
    reuse: bool,
    #[arg(long)]
    json: Option<PathBuf>,
}

struct Output {
    tokens: Vec<u32>,
    logprobs: Vec<Logprobs>,
    text: String,
    finish: Option<Finish>,
}

struct Bench {
    engine: MistralEngine,
    args: Args,
    tenants: AtomicUsize,
}

impl Bench {
    fn request(&self, number: usize) -> anyhow::Result<GenerateRequest> {
        let asked = ASKED[number % ASKED.len()].replace("{}", &(number * 37 % 1000).to_string());
        // Up to about 700 tokens before the question.
        let before: Vec<String> = (0..number % 8 * 25).map(|n| format!("Note {}.", n * number % 1000)).collect();
        let text = format!("{} {asked}", before.join(" "));
        let tenant = if self.args.reuse { 0 } else { self.tenants.fetch_add(1, Relaxed) };
        Ok(GenerateRequest {
            reuse: Default::default(),
            prompt: self.engine.tokenize("bench", &Prompt::of(vec![Message::text(Role::User, text)]))?,
            tenant: tenant.to_string().into(),
            output: Vec::new(),
            sampling: Sampling { temperature: 1.0, seed: number as u64, ..Sampling::default() },
            stop: Default::default(),
            grammar: None,
            logprobs: Some(20),
            max_output_tokens: self.args.tokens,
            cancel: CancellationToken::new(),
        })
    }

    async fn run(&self, request: GenerateRequest) -> anyhow::Result<Output> {
        let mut deltas = self.engine.generate("bench", request)?;
        let mut output = Output { tokens: vec![], logprobs: vec![], text: String::new(), finish: None };
        while let Some(delta) = deltas.recv().await {
            output.tokens.extend(delta.tokens);
            output.logprobs.extend(delta.logprobs);
            output.text.push_str(&delta.text);
            output.finish = delta.finish;
        }
        anyhow::ensure!(matches!(output.finish, Some(Finish::Stop | Finish::Length)), "{:?}", output.finish);
        Ok(output)
    }

    /// Counts the prompts whose output is the same alone, from the cache, and among 31 others.
    async fn under_load(&self) -> anyhow::Result<Value> {
        let (mut same, mut cached, mut differ) = (0, 0, Vec::new());
        let numbers: Vec<usize> = (0..self.args.prompts).collect();
        for numbers in numbers.chunks(TOGETHER) {
            let mut alone = Vec::new();
            for number in numbers {
                let request = self.request(*number)?;
                let computed = self.run(request.clone()).await?;
                let again = self.run(request).await?;
                match difference(&computed.tokens, &computed.logprobs, &again.tokens, &again.logprobs) {
                    None => cached += 1,
                    Some(where_) => differ.push(json!({"prompt": number, "cached": where_})),
                }
                alone.push(computed);
            }
            // The last chunk is filled up, so that each prompt is one of 32.
            let filled = numbers.iter().copied().chain(10_000..).take(TOGETHER);
            let requests = filled.map(|number| self.request(number)).collect::<anyhow::Result<Vec<_>>>()?;
            let together = try_join_all(requests.into_iter().map(|request| self.run(request))).await?;
            for ((number, alone), together) in numbers.iter().zip(&alone).zip(&together) {
                match difference(&alone.tokens, &alone.logprobs, &together.tokens, &together.logprobs) {
                    None => same += 1,
                    Some(where_) => differ.push(json!({"prompt": number, "differs": where_})),
                }
            }
        }
        println!("alone and from the cache: {cached} of {} the same", self.args.prompts);
        println!("alone and among 31 others: {same} of {} the same", self.args.prompts);
        differ.iter().for_each(|one| println!("  {one}"));
        Ok(json!({"prompts": self.args.prompts, "cached_same": cached, "same": same, "differ": differ}))
    }

    /// Counts the outputs that continue identically after a cut, and the cuts at which tokens are lost or repeated.
    async fn continued(&self) -> anyhow::Result<Value> {
        let (mut same, mut differ, mut broken) = (0, Vec::new(), Vec::new());
        let mut number = 0;
        let mut left = self.args.cuts;
        while left > 0 {
            let wholes = join_all((0..TOGETHER).map(|n| async move {
                let request = self.request(20_000 + number + n)?;
                Ok::<_, anyhow::Error>((request.clone(), self.run(request).await?))
            }));
            let mut cut = Vec::new();
            for (n, outcome) in wholes.await.into_iter().enumerate() {
                let (request, whole) = outcome?;
                let whole = Arc::new(whole);
                let places = whole.tokens.len().saturating_sub(1);
                for draw in 0..3u64.min(places as u64) {
                    // The constants are arbitrary odd numbers: the places look random and are the same in every run.
                    let at = 1 + ((number + n) as u64 * 7919 + draw * 104_729) as usize % places;
                    let fresh = self.request(20_000 + number + n)?.tenant;
                    let output = whole.tokens[..at].to_vec();
                    cut.push((GenerateRequest { output, tenant: fresh, ..request.clone() }, whole.clone(), at));
                }
            }
            number += TOGETHER;
            cut.truncate(left);
            left -= cut.len();
            let rests = join_all(cut.iter().map(|(request, ..)| self.run(request.clone())));
            for ((request, whole, at), rest) in cut.iter().zip(rests.await) {
                let rest = rest?;
                let seed = request.sampling.seed;
                let ended = rest.finish == Some(Finish::Stop);
                if !ended && at + rest.tokens.len() != self.args.tokens as usize {
                    broken.push(json!({"seed": seed, "cut": at, "continued": rest.tokens.len()}));
                }
                match difference(&whole.tokens[*at..], &whole.logprobs[*at..], &rest.tokens, &rest.logprobs) {
                    None if whole.text.ends_with(&rest.text) => same += 1,
                    None => broken.push(json!({"seed": seed, "cut": at, "text": rest.text})),
                    Some(where_) => differ.push(json!({"seed": seed, "cut": at, "differs": where_})),
                }
            }
        }
        println!(
            "continued after a cut: {same} of {} the same; lost or repeated a token: {}",
            self.args.cuts,
            broken.len()
        );
        differ.iter().for_each(|one| println!("  {one}"));
        Ok(json!({"cuts": self.args.cuts, "same": same, "differ": differ, "lost_or_repeated": broken}))
    }
}

/// The first place where two outputs differ, and the log-probabilities there; `None` if they are equal.
fn difference(a: &[u32], a_said: &[Logprobs], b: &[u32], b_said: &[Logprobs]) -> Option<Value> {
    if a == b && a_said == b_said {
        return None;
    }
    let said_same = a_said.iter().zip(b_said).take_while(|(a, b)| a == b).count();
    let at = a.iter().zip(b).take_while(|(a, b)| a == b).count().min(said_same);
    let said =
        |said: &[Logprobs]| said.get(at).map(|said| json!({"picked": said.token.logprob, "top": said.top[0].logprob}));
    // The greatest difference of log-probabilities before that place.
    let moved = a_said.iter().zip(b_said).take(at).map(|(a, b)| (a.token.logprob - b.token.logprob).abs());
    Some(json!({"at": at, "first": said(a_said), "second": said(b_said), "moved_before": moved.fold(0.0, f32::max)}))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let models = vec![ModelSettings { id: "bench".into(), ..ModelSettings::default() }];
    let config = MistralConfig { models, ..MistralConfig::default() };
    let engine = MistralEngine::load(config, LoadProgress::default()).await?;
    let bench = Bench { engine, args, tenants: AtomicUsize::new(1) };
    let report = json!({
        "tokens": bench.args.tokens,
        "reuse": bench.args.reuse,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "under_load": bench.under_load().await?,
        "continued": bench.continued().await?,
    });
    if let Some(path) = &bench.args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}
