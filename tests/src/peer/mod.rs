//! The benchmark against other servers. One client measures every OpenAI-compatible server by its URL. Each row of a round is
//! measured on one server after the other, and the order of the servers changes from round to round, so that all servers run
//! under the same conditions. Prompts begin with random words, so that no prefix cache has them.

mod busy;
mod client;
mod crowd;
mod memory;
mod prompts;
mod report;
mod rows;
mod server;

use clap::{Args, ValueEnum};
use serde::Serialize;

pub use busy::SPIN;
pub use report::{Figure, Report, Spread};

use busy::Busy;
use prompts::Prompts;
use rows::Bench;
use server::Server;

/// The servers to measure, and the rows.
#[derive(Debug, Clone, Args, Serialize)]
pub struct Options {
    /// The first server: a URL, or NAME=URL; figures of the other servers are divided into its figures
    #[arg(long)]
    pub ours: String,
    /// Another server: a URL, or NAME=URL; may be repeated
    #[arg(long)]
    pub peer: Vec<String>,
    /// The model's name on every server; default: the first of GET /v1/models
    #[arg(long)]
    pub model: Option<String>,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Row::ALL)]
    pub rows: Vec<Row>,
    /// How often to measure each row on each server
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// The process id of the first server, for its resident memory
    #[arg(long)]
    pub ours_pid: Option<u32>,
    /// The process id of each other server, in the order of --peer
    #[arg(long)]
    pub peer_pid: Vec<u32>,
    /// The sampling temperature; every request has a seed
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Token ids that servers must not sample, as 0,2: the ids that end a reply, so that all replies have full length
    #[arg(long, value_delimiter = ',')]
    pub ban: Vec<u32>,
    /// A server that is silent for this many seconds fails the measurement
    #[arg(long, default_value_t = 120)]
    pub patience_s: u64,
}

/// A group of figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Row {
    /// One chat of 128 tokens: first token, decode rate
    One,
    /// Prompts of about 440, 890 and 1,720 tokens: first token, prompt rate, decode rate of 64 tokens after it
    Prompts,
    /// 8 chats at once, prompts of 30 to 400 tokens, 96 tokens each
    Chats8,
    /// 32 chats at once, in the same way
    Chats32,
    /// The longest gap of a running chat while two prompts of 1,700 tokens arrive, and how long those take
    Pause,
    /// The first token of the tenth turn of a chat
    Turns,
    /// Resident memory with 8 chats; needs --ours-pid and --peer-pid
    Rss,
    /// All rows except `rss` again, with one busy process beside the servers
    Busy,
}

impl Row {
    pub const ALL: [Row; 8] =
        [Row::One, Row::Prompts, Row::Chats8, Row::Chats32, Row::Pause, Row::Turns, Row::Rss, Row::Busy];
}

impl Options {
    /// Returns options with the command line's defaults for the servers of these URLs.
    pub fn new(ours: impl Into<String>, peer: Vec<String>, rows: Vec<Row>) -> Self {
        Self {
            ours: ours.into(),
            peer,
            model: None,
            rows,
            rounds: 3,
            ours_pid: None,
            peer_pid: vec![],
            temperature: 0.0,
            ban: vec![],
            patience_s: 120,
        }
    }
}

/// Measures every row on every server.
///
/// # Errors
/// If the options contradict each other, a server cannot be reached, or the busy process does not start. A measurement that
/// fails later is an entry of [`Report::failures`].
pub async fn run(options: &Options) -> Result<Report, String> {
    let servers = connect(options).await?;
    let mut report = Report::new(options, &servers);
    let (mut plain, mut busy) = (vec![], false);
    for row in &options.rows {
        match row {
            Row::Busy => busy = true,
            Row::Rss if servers.iter().any(|server| server.pid.is_none()) => {
                report.notes.push("rss: left out; it needs --ours-pid and a --peer-pid for each --peer".into());
            }
            row => plain.push(*row),
        }
    }
    measure(options, &servers, &plain, "", &mut report).await;
    if busy {
        let beside = Busy::start()?;
        plain.retain(|row| *row != Row::Rss);
        measure(options, &servers, &plain, "busy: ", &mut report).await;
        beside.end()?;
    }
    Ok(report)
}

/// Measures all rounds of these rows.
async fn measure(options: &Options, servers: &[Server], rows: &[Row], prefix: &str, report: &mut Report) {
    let mut bench = Bench { options, prompts: Prompts::new() };
    for round in 0..options.rounds {
        for row in rows {
            for turn in 0..servers.len() {
                let at = (round + turn) % servers.len();
                let Some(server) = servers.get(at) else { continue };
                let label = row.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
                eprintln!("{prefix}round {} of {}: {label}: {}", round + 1, options.rounds, server.name);
                match bench.measure(*row, server).await {
                    Ok(samples) => report.add(at, prefix, samples),
                    Err(error) => report.failures.push(format!("{prefix}{label} of {}: {error}", server.name)),
                }
            }
        }
    }
}

/// Reaches every server, asks for its model and warms it up with one short chat.
async fn connect(options: &Options) -> Result<Vec<Server>, String> {
    if options.peer_pid.len() > options.peer.len() {
        return Err("there are more --peer-pid than --peer".into());
    }
    let peers = options.peer.iter().enumerate().map(|(at, url)| {
        let name = if options.peer.len() == 1 { "peer".into() } else { format!("peer {}", at + 1) };
        (name, url, options.peer_pid.get(at).copied())
    });
    let mut servers = vec![];
    for (name, url, pid) in [("ours".to_owned(), &options.ours, options.ours_pid)].into_iter().chain(peers) {
        let server = Server::connect(&name, url, pid, options).await?;
        let warm_up = Prompts::new().chat(60, 16);
        client::chat(&server, options, &warm_up).await.map_err(|e| format!("{} ({}): {e}", server.name, server.url))?;
        servers.push(server);
    }
    Ok(servers)
}
