//! Metrics of a replica for operators: counts since its start, and times, as OpenMetrics. Owns their names; no metric names a tenant.

use std::time::{Duration, Instant};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry, Unit},
};

use crate::{
    engine::model::{FetchedTokens, KvBlocks},
    wire::{error::WireError, response::Usage},
};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of histogram buckets, in seconds: from the gap between two tokens to a long wait.
const SECONDS: [f64; 17] =
    [0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Upper bounds of buckets for short times, in seconds: an append, the delay of a task.
const SHORT_SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    model: String,
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    model: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Threads {
    threads: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    answer: &'static str,
}

type Counts = Family<ModelLabel, Counter>;
type Times = Family<ModelLabel, Histogram, fn() -> Histogram>;
type Gauges = Family<ModelLabel, Gauge>;

/// All metrics of a replica. Each part of the server counts and times what it does.
pub struct Metrics {
    registry: Registry,
    responses: Family<EndLabels, Counter>,
    refused: Family<Code, Counter>,
    limited: Family<Limit, Counter>,
    denied: Family<Reason, Counter>,
    prompt_tokens: Counts,
    cached_tokens: Counts,
    output_tokens: Counts,
    queue: Times,
    first_token: Times,
    inter_token: Times,
    response: Times,
    most: Gauges,
    running: Gauges,
    waiting: Gauges,
    kv_blocks: Gauges,
    kv_blocks_used: Gauges,
    kv_blocks_cached: Gauges,
    kv_fetched: Family<FetchLabels, Counter>,
    pub prompt_cache_bytes: Gauge,
    appends: Histogram,
    store_errors: Family<Operation, Counter>,
    lag: Family<Threads, Histogram, fn() -> Histogram>,
    pub prompt_cache: PromptCacheCounts,
    /// Responses that this replica took over from others.
    pub taken_over: Counter,
    /// Responses that this replica stopped so that others continue them.
    pub handed_over: Counter,
    /// Responses that another replica created and that began here, because their prompts are cached here.
    pub placed: Counter,
    connections: Gauge,
    paused: Gauge,
    pub resumed: Counter,
}

/// Requests that the prompt cache answered with a finished reply, with a running reply, or not.
pub struct PromptCacheCounts {
    pub hits: Counter,
    pub joined: Counter,
    pub misses: Counter,
}

/// The current state of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    pub model: String,
    pub most: usize,
    pub running: usize,
    pub waiting: usize,
    /// Absent if the engine has no blocks of keys and values.
    pub kv: Option<KvBlocks>,
    /// Absent if keys and values are not stored outside the process.
    pub fetched: Option<FetchedTokens>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("caudal");
        let r = &mut registry;
        let answers = Family::<CacheLabels, Counter>::default();
        r.register("prompt_cache", "Requests that may use the prompt cache, by result", answers.clone());
        let answered = |answer| answers.get_or_create(&CacheLabels { answer }).clone();
        let prompt_cache =
            PromptCacheCounts { hits: answered("hit"), joined: answered("joined"), misses: answered("miss") };
        Self {
            responses: registered(r, "responses", "Responses that ended here, by status"),
            refused: registered(r, "refused", "Refused requests, by error code"),
            limited: registered(r, "limited", "Requests refused by a limit, by limit"),
            denied: registered(r, "auth_failures", "Requests whose authentication failed, by reason"),
            prompt_tokens: registered(r, "prompt_tokens", "Prompt tokens of responses that ended here"),
            cached_tokens: registered(r, "prompt_tokens_cached", "Prompt tokens whose keys and values were cached"),
            output_tokens: registered(r, "output_tokens", "Output tokens of responses that ended here"),
            queue: timed(r, "queue", "Time from a response's creation to its permit to run"),
            first_token: timed(r, "time_to_first_token", "Time from creation to the first token in the log"),
            inter_token: timed(r, "inter_token_latency", "Time from a token in the log to the next"),
            response: timed(r, "response", "Time from creation to the end"),
            most: registered(r, "running_max", "Responses that can run at once"),
            running: registered(r, "running", "Responses that run"),
            waiting: registered(r, "waiting", "Responses that wait to run"),
            kv_blocks: registered(r, "kv_blocks", "Blocks for keys and values"),
            kv_blocks_used: registered(r, "kv_blocks_used", "Blocks that running responses hold"),
            kv_blocks_cached: registered(r, "kv_blocks_cached", "Blocks that hold earlier prompts and can be evicted"),
            kv_fetched: registered(
                r,
                "kv_fetched_tokens",
                "Prompt tokens whose keys and values were fetched, by source",
            ),
            prompt_cache_bytes: registered_with(
                r,
                ("prompt_cache", "Size of the replies in the prompt cache"),
                Unit::Bytes,
                Gauge::default(),
            ),
            appends: registered_with(
                r,
                ("append", "Time of an append to a log, with all retries"),
                Unit::Seconds,
                short_times(),
            ),
            store_errors: registered(r, "store_errors", "Calls that failed because the store was unavailable"),
            lag: registered_with(
                r,
                ("event_loop_lag", "Delay of a task that is due"),
                Unit::Seconds,
                Family::new_with_constructor(short_times),
            ),
            prompt_cache,
            taken_over: registered(r, "taken_over", "Responses that this replica took over from others"),
            placed: registered(
                r,
                "placed",
                "Responses of other replicas that began here because their prompts are cached here",
            ),
            handed_over: registered(r, "handed_over", "Responses that this replica released for others to continue"),
            connections: registered(r, "connections", "Open WebSocket connections"),
            paused: registered(r, "paused", "Responses that wait for room in the store"),
            resumed: registered(r, "resumed", "Resumes over WebSockets"),
            registry,
        }
    }
}

fn registered<M: Default + Clone + Metric>(r: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    r.register(name, help, metric.clone());
    metric
}

fn registered_with<M: Clone + Metric>(r: &mut Registry, (name, help): (&str, &str), unit: Unit, metric: M) -> M {
    r.register_with_unit(name, help, unit, metric.clone());
    metric
}

fn short_times() -> Histogram {
    Histogram::new(SHORT_SECONDS)
}

fn timed(r: &mut Registry, name: &str, help: &str) -> Times {
    registered_with(r, (name, help), Unit::Seconds, Family::new_with_constructor(|| Histogram::new(SECONDS)))
}

impl Metrics {
    /// Counts a refused request.
    pub fn refused(&self, error: &WireError) {
        self.refused.get_or_create(&Code { code: error.code().0 }).inc();
        if let Some(limit) = error.limit() {
            self.limited.get_or_create(&Limit { limit }).inc();
        }
    }

    /// Counts a call that failed because the store was unavailable.
    pub fn store_failed(&self, operation: &'static str) {
        self.store_errors.get_or_create(&Operation { operation }).inc();
    }

    /// Measures without end how late tasks run on the threads that poll the returned future.
    pub fn watch_lag(&self, threads: &'static str) -> impl Future<Output = ()> + use<> {
        const PAUSE: Duration = Duration::from_millis(100);
        let lag = self.lag.get_or_create(&Threads { threads }).clone();
        async move {
            loop {
                let due = tokio::time::Instant::now() + PAUSE;
                tokio::time::sleep_until(due).await;
                lag.observe(due.elapsed().as_secs_f64());
            }
        }
    }

    /// Counts a request whose authentication failed.
    pub fn denied(&self, reason: &'static str) {
        self.denied.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a response that has ended here; other replicas may have run a part of it.
    pub fn ended(&self, model: &str, status: &'static str, usage: &Usage) {
        self.responses.get_or_create(&EndLabels { model: model.to_owned(), status }).inc();
        let of = ModelLabel { model: model.to_owned() };
        self.prompt_tokens.get_or_create(&of).inc_by(usage.input_tokens.into());
        self.cached_tokens.get_or_create(&of).inc_by(usage.input_tokens_details.cached_tokens.into());
        self.output_tokens.get_or_create(&of).inc_by(usage.output_tokens.into());
    }

    /// Counts a WebSocket connection until the returned value is dropped.
    pub fn connected(&self) -> Lasting {
        self.connections.inc();
        Lasting(self.connections.clone())
    }

    /// Counts a stream that waits for room in the store, until the returned value is dropped.
    pub fn paused(&self) -> Lasting {
        self.paused.inc();
        Lasting(self.paused.clone())
    }

    /// Starts timing a response.
    pub fn begin(&self, model: &str) -> Timing {
        let of = ModelLabel { model: model.to_owned() };
        Timing {
            begun: Some(Instant::now()),
            last: None,
            queue: self.queue.get_or_create(&of).clone(),
            first_token: self.first_token.get_or_create(&of).clone(),
            inter_token: self.inter_token.get_or_create(&of).clone(),
            response: self.response.get_or_create(&of).clone(),
            append: self.appends.clone(),
        }
    }

    /// Renders all metrics as OpenMetrics text, with the current state of the models.
    pub fn text(&self, models: impl IntoIterator<Item = Load>) -> String {
        for Load { model, most, running, waiting, kv, fetched } in models {
            if let Some(FetchedTokens { source, tokens }) = fetched {
                let counter = self.kv_fetched.get_or_create(&FetchLabels { model: model.clone(), source }).clone();
                counter.inc_by(tokens.saturating_sub(counter.get()));
            }
            let of = ModelLabel { model };
            let set = [(&self.most, most), (&self.running, running), (&self.waiting, waiting)];
            let kv = kv.map(|kv| {
                [(&self.kv_blocks, kv.total), (&self.kv_blocks_used, kv.used), (&self.kv_blocks_cached, kv.cached)]
            });
            for (gauge, now) in set.into_iter().chain(kv.into_iter().flatten()) {
                gauge.get_or_create(&of).set(i64::try_from(now).unwrap_or(i64::MAX));
            }
        }
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// One unit of a gauge, until it is dropped.
pub struct Lasting(Gauge);

impl Drop for Lasting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The times of one response.
pub struct Timing {
    /// When the response was created; absent if another replica began it.
    begun: Option<Instant>,
    /// When the last tokens were in the log.
    last: Option<Instant>,
    queue: Histogram,
    first_token: Histogram,
    inter_token: Histogram,
    response: Histogram,
    append: Histogram,
}

impl Timing {
    /// Records the time of an append.
    pub fn appended(&self, took: Duration) {
        self.append.observe(took.as_secs_f64());
    }

    /// Records that the response has its permit to run.
    pub fn admitted(&self) {
        self.observe(&self.queue);
    }

    /// Marks the response as begun by another replica: only the gaps between this replica's tokens are recorded.
    pub fn goes_on(&mut self) {
        self.begun = None;
    }

    /// Records tokens that came together.
    pub fn produced(&mut self, tokens: usize) {
        if tokens == 0 {
            return;
        }
        let now = Instant::now();
        match self.last.replace(now) {
            Some(last) => self.inter_token.observe((now - last).as_secs_f64()),
            None => self.observe(&self.first_token),
        }
        (1..tokens).for_each(|_| self.inter_token.observe(0.0));
    }

    /// Records that the last entry is in the log.
    pub fn ended(&self) {
        self.observe(&self.response);
    }

    fn observe(&self, since_begun: &Histogram) {
        if let Some(begun) = self.begun {
            since_begun.observe(begun.elapsed().as_secs_f64());
        }
    }
}
