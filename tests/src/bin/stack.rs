//! `stack`: the topology of docker-compose.yml as plain processes, until Ctrl-C.

use std::net::SocketAddr;

use caudal_tests::stack::Stack;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Runs Redis, three replicas and nginx with the files in config/, until Ctrl-C or SIGTERM.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where nginx listens
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// A setting for every replica, as key=value
    #[arg(long)]
    set: Vec<String>,
    /// Prometheus too, with the alerts of config/prometheus; Grafana reads config/grafana/dashboards
    #[arg(long)]
    dashboards: bool,
}

/// Opens the replicas' metrics to Prometheus. They listen on loopback.
const ADMIN_KEY: &str = "caudal-on-this-machine-only";

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let key = format!("auth.admin_key={ADMIN_KEY}");
    let mut settings: Vec<&str> = arguments.set.iter().map(String::as_str).collect();
    if arguments.dashboards {
        settings.insert(0, &key);
    }
    let mut stack = Stack::spawn(&settings, Some(arguments.listen)).await;
    println!("listening on http://{}", stack.address());
    for n in 0..3 {
        eprintln!("  replica {} on http://{}", n + 1, stack.replica(n).address);
    }
    eprintln!("  redis on {} · stop with Ctrl-C", stack.redis().url());
    let prometheus = arguments.dashboards.then(|| stack.watch(ADMIN_KEY, None));
    if let Some(prometheus) = &prometheus {
        eprintln!("  prometheus on http://{}", prometheus.address);
    }
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be waited for");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    // Each hands over or finishes what it has; the last has nobody to hand over to.
    for n in 0..3 {
        if let Some(app) = stack.replica_mut(n).app() {
            app.signal("TERM");
        }
    }
    for n in 0..3 {
        if let Some(app) = stack.replica_mut(n).app() {
            app.exit();
        }
    }
}
