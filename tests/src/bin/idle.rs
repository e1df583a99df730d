//! `idle`: opens many authenticated idle WebSockets, and reports the server's cost for each.

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use caudal_tests::{
    App, Setup,
    figures::{self, Figure},
};
use clap::Parser;
use futures::future::try_join_all;
use serde_json::Map;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

/// Measures the memory and CPU time that idle sockets cost the server under test (`CAUDAL_BIN`). Both processes need one open
/// file for each socket (`ulimit -n`).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Number of open sockets
    #[arg(long, default_value_t = 10_000)]
    sockets: usize,
    /// For how long the CPU time is measured
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Also write the result to this file, as JSON
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

const KEY: &str = "a-key-of-the-benchmark-of-idle-sockets";
/// The number of sockets that are opened concurrently.
const AT_ONCE: usize = 64;

/// Opens a socket and answers its pings as long as the process runs.
async fn open(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET /v1/responses HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: caudal.responses.v1\r\nauthorization: Bearer {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = [0; 2048];
    let read = stream.read(&mut buffer).await?;
    if !buffer[..read].starts_with(b"HTTP/1.1 101") {
        return Err(std::io::Error::other(String::from_utf8_lossy(&buffer[..read]).into_owned()));
    }
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            // A ping without a payload, answered by a pong without one.
            if buffer[..read].ends_with(&[0x89, 0]) && stream.write_all(&[0x8a, 0x80, 1, 2, 3, 4]).await.is_err() {
                return;
            }
        }
        eprintln!("a socket was closed");
    });
    Ok(())
}

async fn measured(app: &App, arguments: &Arguments) -> std::io::Result<Vec<Figure>> {
    // The first sockets cause one-time allocations, which must not count.
    try_join_all((0..AT_ONCE).map(|_| open(app.address))).await?;
    sleep(Duration::from_secs(1)).await;
    let (before, begun) = (app.resident_bytes(), Instant::now());
    for _ in 0..arguments.sockets / AT_ONCE {
        try_join_all((0..AT_ONCE).map(|_| open(app.address))).await?;
    }
    let opened = arguments.sockets / AT_ONCE * AT_ONCE;
    let rate = opened as f64 / begun.elapsed().as_secs_f64();
    sleep(Duration::from_secs(2)).await;
    let each = app.resident_bytes().saturating_sub(before) as f64 / opened as f64 / 1024.0;
    let (cpu, since) = (app.cpu_time(), Instant::now());
    sleep(Duration::from_secs(arguments.seconds)).await;
    let share = (app.cpu_time() - cpu).as_secs_f64() / since.elapsed().as_secs_f64() * 100.0;
    let later = app.resident_bytes().saturating_sub(before) as f64 / opened as f64 / 1024.0;
    Ok(vec![
        Figure::new(format!("{opened} idle sockets: KiB of memory each"), each, "≤ 12"),
        Figure::new("the same after their pings", later, "≤ 12"),
        Figure::new("their pings and pongs: % of a core", share, ""),
        Figure::new("sockets opened a second", rate, ""),
    ])
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let keys = format!("auth.keys=[{{key=\"{KEY}\", tenant=\"t\"}}]");
    let app = Setup::scripted().set(&["auth.mode=keys", &keys, "server.max_connections=100000"]).spawn();
    let figures = match measured(&app, &arguments).await {
        Ok(figures) => figures,
        Err(error) => {
            eprintln!("idle: {error}; `ulimit -n` must be above --sockets");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Map::new();
    figures::tell(figures, &mut report);
    let report: HashMap<_, _> = report.into_iter().collect();
    match &arguments.json {
        Some(path) => match std::fs::write(path, serde_json::to_string_pretty(&report).unwrap_or_default() + "\n") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("idle: {}: {error}", path.display());
                ExitCode::FAILURE
            }
        },
        None => ExitCode::SUCCESS,
    }
}
