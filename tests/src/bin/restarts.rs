//! `restarts`: runs streams on a single server with a store in a file, and kills its process repeatedly.

use std::{path::PathBuf, process::ExitCode};

use caudal_tests::chaos::restarts::{self, Options};
use clap::Parser;

/// Repeatedly kills the only process of a server while clients stream from it.
///
/// Ends with status 1 if a stream failed, lost an event, received one twice, or differs from the stored response.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Number of concurrent streams
    #[arg(long, default_value_t = 50)]
    streams: usize,
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Never fill the store
    #[arg(long)]
    never_full: bool,
    /// Seed for the times of the kills
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the result to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { streams, kills, never_full, seed, json } = Arguments::parse();
    let report = restarts::run(&Options { streams, kills, full: !never_full, seed }).await;
    println!("{report}");
    if let Some(path) = &json {
        let json = serde_json::to_string_pretty(&report).unwrap_or_default();
        if let Err(error) = std::fs::write(path, json + "\n") {
            eprintln!("restarts: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
