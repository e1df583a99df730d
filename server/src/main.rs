//! `caudal`: arguments → settings → telemetry → app → run until a signal.

mod key_command;
mod store_command;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use caudal_server::{
    app::{self, App},
    model,
    settings::{Settings, Sources},
    telemetry,
    wire::contract,
};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// A streaming generation server: every answer is a log that outlives its connection.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or Ctrl-C
    Serve(Layers),
    /// Print the settings in force, secrets masked
    Config(Layers),
    /// Ask the server with this configuration on this machine whether it is ready; fails if it is not
    Health(Layers),
    /// Make, list and revoke keys
    Key {
        #[command(subcommand)]
        command: key_command::KeyCommand,
    },
    /// Back up, check and copy a store
    Store {
        #[command(subcommand)]
        command: store_command::StoreCommand,
    },
    /// Print a document of the protocol, the same as `GET /openapi.json` or `/asyncapi.json`
    Schema { document: Document },
    /// Fetch and list models
    Model {
        #[command(subcommand)]
        command: ModelCommand,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Document {
    Openapi,
    Asyncapi,
}

#[derive(Subcommand)]
enum ModelCommand {
    /// Fetch and check the default model; does nothing if it is there
    Pull {
        /// Fetch it again
        #[arg(long)]
        force: bool,
    },
    /// List the model files in the model folder
    List,
}

#[derive(Args)]
struct Layers {
    /// A TOML file with settings; a later file overrides an earlier one. config/caudal.toml documents every setting
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// One setting, such as server.bind=127.0.0.1:0; overrides files and environment
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Layers {
    fn load(self) -> anyhow::Result<Settings> {
        Ok(Settings::load(&Sources { files: self.config, overrides: self.set })?)
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(layers) => layers.load().and_then(serve),
        Command::Config(layers) => layers.load().and_then(|settings| {
            print!("{}", toml::to_string(&settings)?);
            Ok(())
        }),
        Command::Health(layers) => layers.load().and_then(|settings| health(settings.server.bind)),
        Command::Key { command } => key_command::run(command),
        Command::Store { command } => store_command::run(command),
        Command::Schema { document } => schema(document),
        Command::Model { command } => model(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caudal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn model(command: ModelCommand) -> anyhow::Result<()> {
    let dir = model::default_dir();
    match command {
        ModelCommand::Pull { force } => {
            let runtime = tokio::runtime::Runtime::new()?;
            let path = runtime.block_on(model::pull(&dir, force))?;
            eprintln!("model: {}", path.display());
        }
        ModelCommand::List => {
            for model in model::list(&dir) {
                println!("{}\t{} MB\t{}", model.id, model.bytes / 1_000_000, model.path.display());
            }
        }
    }
    Ok(())
}

fn schema(document: Document) -> anyhow::Result<()> {
    let document = match document {
        Document::Openapi => contract::openapi(),
        Document::Asyncapi => contract::asyncapi(),
    };
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

/// Sends `GET /readyz` to the server and prints the answer, for images without an HTTP client.
fn health(bind: SocketAddr) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let ip = match bind.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, bind.port());
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("nothing listens on {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    println!("{}", body.trim());
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{address} is not ready");
    Ok(())
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    // Dropped last, to send the spans that end while the server stops.
    let _exporters = telemetry::init(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = tokio::select! {
            app = App::build(settings) => app?,
            interrupted = app::interrupted() => return Ok(interrupted?),
        };
        println!("listening on http://{}", app.address);
        std::io::stdout().flush()?;
        eprintln!("{} · stop with Ctrl-C", app.summary);
        app.run().await
    })?;
    // Does not wait longer for blocking work, such as an engine's last step.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}
