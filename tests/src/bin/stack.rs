//! `stack`: runs the topology of docker-compose.yml as plain processes until Ctrl-C.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use caudal_tests::stack::Stack;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Runs Redis, three replicas and nginx with the files in config/, until Ctrl-C or SIGTERM.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The address on which nginx listens
    #[arg(long, default_value = "127.0.0.1:8080", value_parser = address)]
    listen: SocketAddr,
    /// A setting for every replica, as section.setting=value
    #[arg(long)]
    set: Vec<String>,
    /// Also run Prometheus with the alerts of config/prometheus; Grafana can read config/grafana/dashboards
    #[arg(long)]
    dashboards: bool,
}

/// The admin key with which Prometheus reads the replicas' metrics. The replicas listen on loopback only.
const ADMIN_KEY: &str = "caudal-on-this-machine-only";

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected ADDRESS:PORT with an IP address, such as 127.0.0.1:9090".into())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let listen = arguments.listen;
    if let Err(error) = TcpListener::bind(listen) {
        let reason = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "it is in use by another process; stop it, or choose another address".into()
            }
            _ => error.to_string(),
        };
        eprintln!("stack: --listen: cannot listen on {listen}: {reason}");
        return ExitCode::FAILURE;
    }
    let key = format!("auth.admin_key={ADMIN_KEY}");
    let mut settings: Vec<&str> = arguments.set.iter().map(String::as_str).collect();
    if arguments.dashboards {
        settings.insert(0, &key);
    }
    let mut stack = Stack::spawn(&settings, Some(listen)).await;
    println!("listening on http://{}", stack.address());
    for n in 0..3 {
        let replica = stack.replica_mut(n);
        let (address, pid) = (replica.address, replica.app().map_or(0, |app| app.pid()));
        eprintln!("  replica {} (pid {pid}) on http://{address}", n + 1);
    }
    eprintln!("  redis on {} · stop with Ctrl-C", stack.redis().url());
    let prometheus = arguments.dashboards.then(|| stack.watch(ADMIN_KEY, None));
    if let Some(prometheus) = &prometheus {
        eprintln!("  prometheus on http://{}", prometheus.address);
    }
    until_stopped(&mut stack).await;
    // Each replica hands over or finishes its generations; the last one can only finish them.
    for n in 0..3 {
        if let Some(app) = stack.replica_mut(n).app()
            && app.is_running()
        {
            app.signal("TERM");
        }
    }
    for n in 0..3 {
        if let Some(app) = stack.replica_mut(n).app() {
            app.exit();
        }
    }
    ExitCode::SUCCESS
}

/// Returns at Ctrl-C or SIGTERM; meanwhile reports replicas that end.
async fn until_stopped(stack: &mut Stack) {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be waited for");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be waited for");
    let mut look = tokio::time::interval(Duration::from_millis(200));
    let mut reported = [false; 3];
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            _ = look.tick() => {}
        }
        for (n, reported) in reported.iter_mut().enumerate().filter(|(_, reported)| !**reported) {
            if let Some(status) = stack.replica_mut(n).app().and_then(|app| app.ended()) {
                *reported = true;
                eprintln!("replica {} has ended ({status})", n + 1);
            }
        }
    }
}
