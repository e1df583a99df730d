//! Measures one response on this replica. Records each time in the histograms and the trace as it happens, and writes one log line
//! when the response has ended.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::KeyValue;

use crate::{
    engine::Finish,
    metrics::{Metrics, Timing},
    store::{Entry, Header},
    telemetry::{
        genai::{self, ServerTimes, finish_reason},
        trace::Span,
    },
    wire::response::Usage,
};

/// An append that takes longer gets a span of its own.
const SLOW_APPEND: Duration = Duration::from_millis(100);

pub struct Timeline {
    timing: Timing,
    span: Span,
    replica: Arc<str>,
    /// Another replica began the response, so this replica does not know its queue time and its time to the first token.
    is_taken_over: bool,
    begun: (Instant, SystemTime),
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    tokens: usize,
    appends: u32,
    appending: Duration,
}

impl Timeline {
    /// Begins the timeline when the response is created or taken over.
    pub fn new(metrics: &Metrics, replica: Arc<str>, header: &Header, is_taken_over: bool) -> Self {
        let mut timing = metrics.begin(&header.model);
        if is_taken_over {
            timing.goes_on();
        }
        let mut attributes = genai::requested(header);
        attributes.extend([
            KeyValue::new("caudal.tenant", header.tenant.clone()),
            KeyValue::new("caudal.replica", replica.to_string()),
            KeyValue::new("caudal.taken_over", is_taken_over),
        ]);
        Self {
            timing,
            span: Span::response(format!("chat {}", header.model), header.origin.traceparent.as_deref(), attributes),
            replica,
            is_taken_over,
            begun: (Instant::now(), SystemTime::now()),
            admitted: None,
            first_token: None,
            last_token: None,
            tokens: 0,
            appends: 0,
            appending: Duration::ZERO,
        }
    }

    /// Records an append that has succeeded. `since`: when it began.
    pub fn appended(&mut self, header: &Header, entries: &[Arc<Entry>], since: Instant) {
        if entries.is_empty() {
            return;
        }
        let now = Instant::now();
        self.appends += 1;
        self.appending += now - since;
        self.timing.appended(now - since);
        let (mut tokens, mut is_step) = (0, false);
        for entry in entries {
            match &**entry {
                Entry::Delta { tokens: new, .. } => tokens += new.len(),
                Entry::Started => {
                    is_step = true;
                    self.admitted = Some(now);
                    self.timing.admitted();
                    self.stage("queue", self.begun.0, now);
                }
                _ => is_step = true,
            }
        }
        self.timing.produced(tokens);
        let is_first = tokens > 0 && self.first_token.is_none();
        if is_step || is_first || now - since > SLOW_APPEND {
            let attributes = vec![KeyValue::new("caudal.entries", entries.len() as i64)];
            self.span.stage("append", (self.at(since), self.at(now)), attributes);
        }
        if is_first {
            self.first_token = Some(now);
            self.stage("prefill", self.admitted.unwrap_or(self.begun.0), now);
        }
        if tokens > 0 {
            self.tokens += tokens;
            self.last_token = Some(now);
        }
        if let Some(Entry::Finished { finish, usage, .. }) = entries.last().map(|entry| &**entry) {
            self.ended(header, finish, usage);
        }
    }

    fn ended(&self, header: &Header, finish: &Finish, usage: &Usage) {
        self.timing.ended();
        if let (Some(first), Some(last)) = (self.first_token, self.last_token) {
            self.stage("decode", first, last);
        }
        self.span.set(genai::answered(finish, usage));
        self.span.set([
            KeyValue::new("caudal.appends", i64::from(self.appends)),
            KeyValue::new("caudal.append_seconds", self.appending.as_secs_f64()),
        ]);
        if matches!(finish, Finish::Failed(_) | Finish::Refused { .. }) {
            self.span.fail("engine_failed");
        }
        let times = self.server_times();
        if !self.is_taken_over {
            genai::count(header, finish, usage, &times);
        }
        tracing::info!(
            target: "caudal::response",
            response = header.id,
            tenant = header.tenant,
            model = header.model,
            replica = (!self.replica.is_empty()).then_some(&*self.replica),
            transport = header.origin.transport.name(),
            conversation = header.spec.conversation,
            trace_id = self.span.trace_id(),
            finish = finish_reason(finish),
            taken_over = self.is_taken_over,
            queue_ms = self.admitted.filter(|_| !self.is_taken_over).map(|at| millis(at - self.begun.0)),
            first_token_ms = times.first_token.map(millis),
            token_ms = times.per_token.map(millis),
            total_ms = millis(times.total),
            append_ms = millis(self.appending),
            appends = self.appends,
            input_tokens = usage.input_tokens,
            cached_tokens = usage.input_tokens_details.cached_tokens,
            output_tokens = usage.output_tokens,
            "response ended"
        );
    }

    fn server_times(&self) -> ServerTimes {
        let gaps = u32::try_from(self.tokens.saturating_sub(1)).unwrap_or(u32::MAX);
        let decoding = self.first_token.zip(self.last_token).map(|(first, last)| last - first);
        ServerTimes {
            total: self.begun.0.elapsed(),
            first_token: self.first_token.filter(|_| !self.is_taken_over).map(|at| at - self.begun.0),
            per_token: decoding.and_then(|time| time.checked_div(gaps)),
        }
    }

    fn stage(&self, name: &'static str, from: Instant, until: Instant) {
        self.span.stage(name, (self.at(from), self.at(until)), vec![]);
    }

    fn at(&self, instant: Instant) -> SystemTime {
        match instant.checked_duration_since(self.begun.0) {
            Some(after) => self.begun.1 + after,
            None => self.begun.1 - (self.begun.0 - instant),
        }
    }
}

/// Converts to milliseconds, rounded down to the microsecond.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
