//! An OpenTelemetry collector: receives OTLP over HTTP on a free port, decodes it, and lists what was received.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;

/// A running collector. Runs as long as the test process.
pub struct Collector {
    pub url: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    spans: Vec<SeenSpan>,
    metrics: BTreeMap<String, String>,
    /// All received data as text, to search for content that must not be in it.
    text: String,
}

/// A received span.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenSpan {
    pub name: String,
    /// In hex, like all ids.
    pub trace: String,
    pub id: String,
    /// Empty for the root of a trace.
    pub parent: String,
    pub kind: i32,
    /// Unix nanoseconds.
    pub begun: u64,
    pub ended: u64,
    pub attributes: BTreeMap<String, String>,
}

impl Collector {
    pub fn spawn() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seen = shared.clone();
                thread::spawn(move || serve(stream, &seen));
            }
        });
        Self { url, seen }
    }

    /// Returns the spans so far, in the order of their start.
    pub fn spans(&self) -> Vec<SeenSpan> {
        let mut spans = self.lock().spans.clone();
        spans.sort_by_key(|span| span.begun);
        spans
    }

    /// Returns the names of the metrics so far, with their units.
    pub fn metrics(&self) -> BTreeMap<String, String> {
        self.lock().metrics.clone()
    }

    /// Returns all received data as text.
    pub fn text(&self) -> String {
        self.lock().text.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers the requests of one connection until it ends.
fn serve(stream: TcpStream, seen: &Mutex<Seen>) {
    let mut writer = stream.try_clone().expect("a stream");
    let mut reader = BufReader::new(stream);
    while let Some((path, body)) = request(&mut reader) {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.text.push_str(&String::from_utf8_lossy(&body));
        match path.as_str() {
            "/v1/traces" => {
                let export = ExportTraceServiceRequest::decode(&*body).expect("spans as protobuf");
                let scopes = export.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
                seen.spans.extend(scopes.flat_map(|scope| scope.spans).map(read));
            }
            "/v1/metrics" => {
                let export = ExportMetricsServiceRequest::decode(&*body).expect("metrics as protobuf");
                let scopes = export.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
                seen.metrics.extend(scopes.flat_map(|scope| scope.metrics).map(|metric| (metric.name, metric.unit)));
            }
            other => panic!("nothing is exported to {other}"),
        }
        drop(seen);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if writer.write_all(answer).is_err() {
            return;
        }
    }
}

/// Reads the next request. Returns its path and body.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, body))
}

fn read(span: Span) -> SeenSpan {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    SeenSpan {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        kind: span.kind,
        begun: span.start_time_unix_nano,
        ended: span.end_time_unix_nano,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        name: span.name,
    }
}

fn attribute(attribute: KeyValue) -> (String, String) {
    let value = match attribute.value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::ArrayValue(array)) => {
            let texts = array.values.into_iter().filter_map(|value| match value.value {
                Some(Value::StringValue(text)) => Some(text),
                _ => None,
            });
            texts.collect::<Vec<_>>().join(",")
        }
        other => format!("{other:?}"),
    };
    (attribute.key, value)
}
