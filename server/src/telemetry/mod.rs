//! Logs to standard error; traces and metrics to an OpenTelemetry collector if a setting names one. Owns which facts about requests and
//! responses are logged or exported. Prompts and outputs never are.

pub mod genai;
mod otlp;
pub mod trace;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub use otlp::Exporters;

use crate::settings::{LogFormat, LogSettings, Settings};

/// Starts logging, and exporting if a collector is set. The returned value sends the remaining spans and metrics when it is dropped.
///
/// # Errors
/// The log filter or the collector's URL is malformed.
pub fn init(settings: &Settings) -> anyhow::Result<Option<Exporters>> {
    init_log(&settings.log)?;
    otlp::begin(&settings.telemetry, &settings.cluster.replica)
}

/// Installs the subscriber. `RUST_LOG` overrides `log.filter`.
fn init_log(settings: &LogSettings) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => EnvFilter::try_new(filter).map_err(|e| anyhow::anyhow!("RUST_LOG: {e}"))?,
        Err(_) => EnvFilter::try_new(&settings.filter).map_err(|e| anyhow::anyhow!("log.filter: {e}"))?,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
