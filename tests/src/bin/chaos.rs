//! `chaos`: runs streams through a stack of three replicas, nginx and Redis, with a fault every two seconds.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use caudal_tests::{
    chaos::{self, Ask, Fault, Options, SETTINGS},
    stack::Stack,
};
use clap::Parser;

/// Injects faults into a stack while clients stream through it.
///
/// Ends with status 1 if a stream failed, lost an event, received one twice, or differs from the stored response.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Number of concurrent streams
    #[arg(long, default_value_t = 60)]
    streams: usize,
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Milliseconds between two faults
    #[arg(long, default_value_t = 2000)]
    every_ms: u64,
    /// Seed for the choice of faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the result to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut stack = Stack::spawn(&SETTINGS, None).await;
    let options = Options {
        streams: arguments.streams,
        duration: Duration::from_secs(arguments.seconds),
        asks: Ask::anything(),
        every: Duration::from_millis(arguments.every_ms),
        fault: Fault::choose,
        seed: arguments.seed,
    };
    let report = chaos::run(&mut stack, &options).await;
    println!("{report}");
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report).unwrap_or_default();
        if let Err(error) = std::fs::write(path, json + "\n") {
            eprintln!("chaos: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
