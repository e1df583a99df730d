//! The load generator: many concurrent streams, each timed token by token and checked for loss and order. Speaks the Responses
//! API over WebSocket and OpenAI's chat completions over SSE, so it can also measure other servers.

mod chat;
mod report;
mod responses;

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;

pub use report::{Quantiles, Report, quantile};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The Responses API over WebSocket
    Ws,
    /// Chat completions over SSE
    Chat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// About 12 words
    Short,
    /// About 400 words
    Long,
    /// 70 % short, 25 % of about 100 words, 5 % long
    Mixed,
}

/// The options of a run.
#[derive(Debug, Clone, Args, Serialize)]
pub struct Options {
    /// URL of the server
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    #[arg(long, value_enum, default_value = "ws")]
    pub protocol: Protocol,
    /// Number of concurrent streams
    #[arg(long, default_value_t = 200)]
    pub streams: usize,
    /// Number of responses of each stream, one after the other
    #[arg(long, default_value_t = 1)]
    pub turns: usize,
    /// max_output_tokens of each response
    #[arg(long, default_value_t = 500)]
    pub tokens: u32,
    /// Lengths of the prompts
    #[arg(long, value_enum, default_value = "short")]
    pub prompts: Mix,
    /// Milliseconds over which the starts of the streams are spread
    #[arg(long, default_value_t = 0)]
    pub ramp_ms: u64,
    /// The model's name; needed by some servers for chat completions
    #[arg(long)]
    pub model: Option<String>,
    /// A bearer token
    #[arg(long)]
    #[serde(skip)]
    pub key: Option<String>,
    /// Seed for the prompts; a server with a cache answers a repeated seed sooner
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A stream that is silent for this many seconds fails
    #[arg(long, default_value_t = 120)]
    pub patience_s: u64,
}

impl Options {
    pub fn new(address: SocketAddr, streams: usize, tokens: u32) -> Self {
        Self {
            url: format!("http://{address}"),
            protocol: Protocol::Ws,
            streams,
            turns: 1,
            tokens,
            prompts: Mix::Short,
            ramp_ms: 0,
            model: None,
            key: None,
            seed: 1,
            patience_s: 120,
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience_s)
    }
}

/// The timing of one response.
#[derive(Debug, Clone, Default)]
pub struct Timed {
    /// From the request to the first text.
    pub first: Option<Duration>,
    /// The times between two pieces of text.
    pub gaps: Vec<Duration>,
    pub tokens: u64,
    /// The number of sequence numbers that were never received.
    pub lost: u64,
    /// The number of events that had a lower number than an event before them.
    pub out_of_order: u64,
    /// The reason why the response failed, if it did.
    pub failure: Option<String>,
}

/// Times the pieces of one response.
struct Stopwatch {
    asked: Instant,
    last: Option<Instant>,
    timed: Timed,
}

impl Stopwatch {
    fn start() -> Self {
        Self { asked: Instant::now(), last: None, timed: Timed::default() }
    }

    fn text(&mut self) {
        let now = Instant::now();
        match self.last.replace(now) {
            None => self.timed.first = Some(now - self.asked),
            Some(last) => self.timed.gaps.push(now - last),
        }
    }

    fn failed(mut self, reason: impl fmt::Display) -> Timed {
        self.timed.failure = Some(reason.to_string());
        self.timed
    }
}

/// Runs the load to its end.
pub async fn run(options: &Options) -> Result<Report, String> {
    let address = resolve(&options.url).await?;
    let begun = Instant::now();
    let streams = (0..options.streams).map(|at| {
        let prompts = prompts(options, at);
        let delay = Duration::from_millis(options.ramp_ms * at as u64 / options.streams.max(1) as u64);
        let options = options.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            match options.protocol {
                Protocol::Ws => responses::stream(&options, address, &prompts).await,
                Protocol::Chat => chat::stream(&options, address, &prompts).await,
            }
        })
    });
    let ended = join_all(streams).await;
    let timed =
        ended.into_iter().flat_map(|stream| stream.unwrap_or_else(|e| vec![Stopwatch::start().failed(e)])).collect();
    Ok(Report::new(options, begun.elapsed(), timed))
}

/// Resolves the address of a server from its `http://` or `ws://` URL.
pub(crate) async fn resolve(url: &str) -> Result<SocketAddr, String> {
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("ws://"))
        .ok_or("--url must begin with http:// or ws://")?;
    let host = host.split('/').next().unwrap_or(host);
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut addresses = tokio::net::lookup_host(&host).await.map_err(|e| format!("--url {url}: {e}"))?;
    addresses.next().ok_or_else(|| format!("--url {url}: no address"))
}

/// Returns the prompts of one stream; equal for equal seeds.
fn prompts(options: &Options, stream: usize) -> Vec<String> {
    const WORDS: [&str; 16] = [
        "river", "stone", "the", "slow", "under", "a", "bridge", "light", "of", "evening", "and", "boats", "carry",
        "salt", "to", "sea",
    ];
    let mut random = StdRng::seed_from_u64(options.seed ^ ((stream as u64) << 20));
    let prompt = |_| {
        let words = match options.prompts {
            Mix::Short => 12,
            Mix::Long => 400,
            Mix::Mixed => match random.random_range(0..100) {
                0..70 => 12,
                70..95 => 100,
                _ => 400,
            },
        };
        let words: Vec<&str> = (0..words).map(|_| WORDS[random.random_range(0..WORDS.len())]).collect();
        format!("Continue: {}", words.join(" "))
    };
    (0..options.turns).map(prompt).collect()
}
