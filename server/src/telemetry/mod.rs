//! Logs, to standard error; traces and metrics, to an OpenTelemetry collector if a setting names one. Owns what of a request
//! and a response is told, and to whom; prompts and outputs are never told.

pub mod genai;
mod otlp;
pub mod trace;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub use otlp::Exporters;

use crate::settings::{LogFormat, LogSettings, Settings};

/// Begins to log, and to export if a collector is known. What is returned sends the rest when it is dropped.
///
/// # Errors
/// A filter or an endpoint that cannot be read.
pub fn init(settings: &Settings) -> anyhow::Result<Option<Exporters>> {
    init_log(&settings.log)?;
    otlp::begin(&settings.telemetry, &settings.cluster.replica)
}

/// Installs the subscriber. `RUST_LOG` overrides `log.filter`.
fn init_log(settings: &LogSettings) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => EnvFilter::try_new(filter)?,
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
