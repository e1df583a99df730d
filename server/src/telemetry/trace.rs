//! OpenTelemetry spans of requests and responses. Without a collector every function here does nothing.
//!
//! ```text
//! POST /v1/responses, or response.create     from the request's arrival to the last event that is rendered for it
//! ├── prepare                                 history, prompt, grammar, until the response exists
//! └── chat MODEL                              the response, on the replica that runs it; another one after a take-over
//!     ├── queue                               until the permit to run
//!     ├── prefill                             until the first token is in the log
//!     ├── append …                            an append of a step, of the first token, or that is slow
//!     └── decode                              until the last token is in the log
//! ```

use std::{borrow::Cow, collections::HashMap, sync::OnceLock, time::SystemTime};

use opentelemetry::{
    Context, KeyValue,
    global::{self, BoxedTracer},
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// Set while there is a collector.
static TRACER: OnceLock<BoxedTracer> = OnceLock::new();

/// Turns spans on. Must be called after the global provider is set.
pub(super) fn begin() {
    let _ = TRACER.set(global::tracer("caudal"));
}

/// A running span. It ends when it is dropped.
#[derive(Debug)]
pub struct Span(Option<Context>);

/// Reads the context that a client sent in `traceparent` and `tracestate`.
pub fn sent(headers: &dyn Extractor) -> Context {
    match TRACER.get() {
        Some(_) => TraceContextPropagator::new().extract_with_context(&Context::new(), headers),
        None => Context::new(),
    }
}

/// The context of a `traceparent`; an empty context without one.
fn context(traceparent: Option<&str>) -> Context {
    match traceparent {
        Some(traceparent) => sent(&HashMap::from([("traceparent".to_owned(), traceparent.to_owned())])),
        None => Context::new(),
    }
}

impl Span {
    /// Begins the span of a request, with the client's context as its parent.
    pub fn request(name: impl Into<Cow<'static, str>>, parent: &Context, attributes: Vec<KeyValue>) -> Self {
        Self::begin(name.into(), SpanKind::Server, parent, attributes)
    }

    /// Begins the span of a response, with the request's span as its parent.
    pub fn response(name: String, traceparent: Option<&str>, attributes: Vec<KeyValue>) -> Self {
        Self::begin(name.into(), SpanKind::Internal, &context(traceparent), attributes)
    }

    fn begin(name: Cow<'static, str>, kind: SpanKind, parent: &Context, attributes: Vec<KeyValue>) -> Self {
        Self(TRACER.get().map(|tracer| {
            let builder = tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
            parent.with_span(builder.start_with_context(tracer, parent))
        }))
    }

    /// The span's `traceparent` in the form of W3C; `None` without a collector.
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?.span().span_context().clone();
        Some(format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags()))
    }

    pub fn trace_id(&self) -> Option<String> {
        Some(self.0.as_ref()?.span().span_context().trace_id().to_string())
    }

    pub fn set(&self, attributes: impl IntoIterator<Item = KeyValue>) {
        if let Some(context) = &self.0 {
            context.span().set_attributes(attributes);
        }
    }

    /// Marks the span as failed with an error code of PROTOCOL.md.
    pub fn fail(&self, code: &str) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new("error.type", code.to_owned()));
            context.span().set_status(Status::error(code.to_owned()));
        }
    }

    /// Adds a child span that has ended.
    pub fn stage(&self, name: &'static str, (from, until): (SystemTime, SystemTime), attributes: Vec<KeyValue>) {
        if let Some(context) = &self.0 {
            ended(name, context, (from, until), attributes);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

/// Adds a child span that ends now to a request's span.
pub fn stage(name: &'static str, traceparent: Option<&str>, from: SystemTime) {
    if traceparent.is_some() {
        ended(name, &context(traceparent), (from, SystemTime::now()), vec![]);
    }
}

fn ended(name: &'static str, parent: &Context, (from, until): (SystemTime, SystemTime), attributes: Vec<KeyValue>) {
    use opentelemetry::trace::Span as _;

    let Some(tracer) = TRACER.get() else { return };
    let builder = tracer.span_builder(name).with_kind(SpanKind::Internal).with_start_time(from);
    builder.with_attributes(attributes).start_with_context(tracer, parent).end_with_timestamp(until);
}
