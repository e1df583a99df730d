//! `peer`: measures OpenAI-compatible servers side by side, with one client, in turns within one run.

use std::{
    io::{self, Read},
    path::PathBuf,
    process::ExitCode,
    thread,
};

use caudal_tests::peer::{self, Options};
use clap::Parser;

/// Measures servers side by side over `POST /v1/chat/completions` with SSE.
///
/// Ends with status 1 if a server cannot be reached or a measurement failed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Also write the result to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|argument| argument == peer::SPIN) {
        return spin();
    }
    let arguments = Arguments::parse();
    let report = match peer::run(&arguments.options).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("peer: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{report}");
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report).unwrap_or_default();
        if let Err(error) = std::fs::write(path, json + "\n") {
            eprintln!("peer: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The busy process: occupies one core until the parent process closes stdin or dies.
fn spin() -> ExitCode {
    let parent = thread::spawn(|| io::stdin().read_to_end(&mut Vec::new()));
    while !parent.is_finished() {
        std::hint::black_box((0..100_000u64).fold(0, |sum: u64, n| sum.rotate_left(1) ^ n));
    }
    ExitCode::SUCCESS
}
