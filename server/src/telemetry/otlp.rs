//! Exports by OTLP over HTTP. The exporters run on threads of their own behind bounded queues: if the collector is slow or unreachable,
//! spans are dropped and no request waits. The standard `OTEL_*` variables apply.

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use opentelemetry::{KeyValue, global};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use ureq::Agent;

use super::{genai, trace};
use crate::{random::random_hex, settings::TelemetrySettings};

/// Timeout of one export.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the last export, when the process ends.
const LAST: Duration = Duration::from_secs(2);
/// Most bytes of a collector's answer that are read.
const ANSWER: u64 = 64 << 10;
/// The standard variable with the URL of the collector.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Exports until it is dropped; then it sends the queued spans and the last metrics.
pub struct Exporters {
    tracer: SdkTracerProvider,
    meter: SdkMeterProvider,
}

/// Starts exporting to `telemetry.otlp`, or else to `OTEL_EXPORTER_OTLP_ENDPOINT`. Returns `None` if neither is set.
///
/// # Errors
/// The endpoint is not a URL.
pub fn begin(settings: &TelemetrySettings, replica: &str) -> anyhow::Result<Option<Exporters>> {
    let base = match settings.otlp.trim_end_matches('/') {
        "" => std::env::var(ENDPOINT).unwrap_or_default().trim_end_matches('/').to_owned(),
        base => base.to_owned(),
    };
    if base.is_empty() {
        return Ok(None);
    }
    let client = OtlpClient(
        Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build().new_agent(),
    );
    let spans = SpanExporter::builder()
        .with_http()
        .with_http_client(client.clone())
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{base}/v1/traces"))
        .build()
        .context("telemetry.otlp")?;
    let metrics = MetricExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{base}/v1/metrics"))
        .build()
        .context("telemetry.otlp")?;
    let resource = resource(replica);
    let tracer = SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource.clone()).build();
    let meter = SdkMeterProvider::builder().with_periodic_exporter(metrics).with_resource(resource).build();
    global::set_tracer_provider(tracer.clone());
    global::set_meter_provider(meter.clone());
    trace::begin();
    genai::begin();
    tracing::info!(collector = base, "exporting traces and metrics");
    Ok(Some(Exporters { tracer, meter }))
}

/// Describes this process. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` add to the description.
fn resource(replica: &str) -> Resource {
    let instance = if replica.is_empty() { random_hex() } else { replica.to_owned() };
    let resource = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance),
    ]);
    match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource.build(),
        None => resource.with_service_name("caudal").build(),
    }
}

impl Drop for Exporters {
    fn drop(&mut self) {
        let _ = self.tracer.shutdown_with_timeout(LAST);
        let _ = self.meter.shutdown_with_timeout(LAST);
    }
}

/// An HTTP client that blocks the exporters' own threads.
#[derive(Debug, Clone)]
struct OtlpClient(Agent);

#[async_trait]
impl HttpClient for OtlpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.run(request.map(|body| body.to_vec()))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}
