//! `load`: runs many concurrent streams against a server, and reports speed, losses and failures.

use std::{path::PathBuf, process::ExitCode};

use caudal_tests::load::{self, Options};
use clap::Parser;

/// Loads a server with many concurrent token streams.
///
/// Ends with status 1 if a stream failed, lost an event or received one out of order.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Also write the result to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = match load::run(&arguments.options).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("load: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{report}");
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report).unwrap_or_default();
        if let Err(error) = std::fs::write(path, json + "\n") {
            eprintln!("load: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if report.failed == 0 && report.lost == 0 && report.out_of_order == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
