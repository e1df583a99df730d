//! Attributes of spans, and metrics, with the names of OpenTelemetry's semantic conventions for generative AI.

use std::{sync::OnceLock, time::Duration};

use opentelemetry::{
    Array, KeyValue, StringValue, Value, global,
    metrics::{Histogram, Meter},
};

use crate::{
    engine::Finish,
    store::Header,
    wire::{format::Format, response::Usage},
};

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

struct Instruments {
    duration: Histogram<f64>,
    first_token: Histogram<f64>,
    per_token: Histogram<f64>,
    tokens: Histogram<u64>,
}

/// The times of a response for the metrics.
pub struct ServerTimes {
    pub total: Duration,
    pub first_token: Option<Duration>,
    /// Average time from one token to the next.
    pub per_token: Option<Duration>,
}

/// Makes the metrics. Must be called after the global provider is set.
pub(super) fn begin() {
    let meter = global::meter("caudal");
    let _ = INSTRUMENTS.set(Instruments {
        duration: seconds(
            &meter,
            "gen_ai.server.request.duration",
            "From a response's creation to its end",
            &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92],
        ),
        first_token: seconds(
            &meter,
            "gen_ai.server.time_to_first_token",
            "From a response's creation to its first token",
            &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0],
        ),
        per_token: seconds(
            &meter,
            "gen_ai.server.time_per_output_token",
            "From one token to the next, after the first",
            &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5],
        ),
        tokens: meter
            .u64_histogram("gen_ai.client.token.usage")
            .with_unit("{token}")
            .with_description("Tokens of prompts and of outputs")
            .with_boundaries((0..14).map(|power| f64::from(1_u32 << (2 * power))).collect())
            .build(),
    });
}

fn seconds(meter: &Meter, name: &'static str, description: &'static str, bounds: &[f64]) -> Histogram<f64> {
    let histogram = meter.f64_histogram(name).with_unit("s").with_description(description);
    histogram.with_boundaries(bounds.to_vec()).build()
}

/// The operation and the model, which spans and metrics share.
fn common(header: &Header) -> Vec<KeyValue> {
    vec![
        KeyValue::new("gen_ai.operation.name", "chat"),
        KeyValue::new("gen_ai.provider.name", "caudal"),
        KeyValue::new("gen_ai.request.model", header.model.clone()),
        KeyValue::new("gen_ai.response.model", header.model.clone()),
    ]
}

/// Attributes of a response when it begins: settings of the request, never its text.
pub fn requested(header: &Header) -> Vec<KeyValue> {
    let spec = &header.spec;
    let mut attributes = common(header);
    let mut add = |name: &'static str, value: Option<Value>| {
        attributes.extend(value.map(|value| KeyValue::new(name, value)));
    };
    let integer = |number: u64| Value::I64(i64::try_from(number).unwrap_or(i64::MAX));
    let output = if matches!(spec.text.format, Format::Text) { "text" } else { "json" };
    add("gen_ai.response.id", Some(header.id.clone().into()));
    add("gen_ai.conversation.id", spec.conversation.clone().map(Into::into));
    add("gen_ai.output.type", Some(output.into()));
    add("gen_ai.request.max_tokens", spec.max_output_tokens.map(|most| integer(most.into())));
    add("gen_ai.request.seed", spec.seed.map(integer));
    add("gen_ai.request.temperature", spec.sampling.temperature.map(|value| f64::from(value).into()));
    add("gen_ai.request.top_p", spec.sampling.top_p.map(|value| f64::from(value).into()));
    attributes
}

/// Attributes of a response when it has ended.
pub fn answered(finish: &Finish, usage: &Usage) -> Vec<KeyValue> {
    let reasons = Array::from(vec![StringValue::from(finish_reason(finish))]);
    vec![
        KeyValue::new("gen_ai.response.finish_reasons", Value::Array(reasons)),
        KeyValue::new("gen_ai.usage.input_tokens", i64::from(usage.input_tokens)),
        KeyValue::new("gen_ai.usage.output_tokens", i64::from(usage.output_tokens)),
        KeyValue::new("gen_ai.usage.cache_read.input_tokens", i64::from(usage.input_tokens_details.cached_tokens)),
    ]
}

/// Records the metrics of a response that has ended here.
pub fn count(header: &Header, finish: &Finish, usage: &Usage, times: &ServerTimes) {
    let Some(instruments) = INSTRUMENTS.get() else { return };
    let mut attributes = common(header);
    let of_type = |kind: &'static str| {
        let kind = KeyValue::new("gen_ai.token.type", kind);
        attributes.iter().cloned().chain([kind]).collect::<Vec<_>>()
    };
    instruments.tokens.record(usage.input_tokens.into(), &of_type("input"));
    instruments.tokens.record(usage.output_tokens.into(), &of_type("output"));
    let timed = [(&instruments.first_token, times.first_token), (&instruments.per_token, times.per_token)];
    for (histogram, time) in timed {
        if let Some(time) = time {
            histogram.record(time.as_secs_f64(), &attributes);
        }
    }
    if matches!(finish, Finish::Failed(_) | Finish::Refused { .. }) {
        attributes.push(KeyValue::new("error.type", "engine_failed"));
    }
    instruments.duration.record(times.total.as_secs_f64(), &attributes);
}

/// The name of the reason why a response ended.
pub fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Cancelled => "cancelled",
        Finish::Steered => "steered",
        Finish::Failed(_) | Finish::Refused { .. } => "error",
    }
}
