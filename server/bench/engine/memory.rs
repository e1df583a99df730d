//! Measures the memory of the whole server after many short chats and after many conversations, against the memory after the first tenth
//! of them.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use caudal_server::engine::Engine;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value, json};

use crate::{Args, Figure, served};

const TOKENS: u32 = 4;
const TURNS: usize = 10;
const AT_ONCE: usize = 8;

/// Resident memory of this process in MB.
fn resident() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("memory is read from /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}

async fn conversation(address: SocketAddr, number: usize, turns: usize) -> anyhow::Result<()> {
    let mut connection = served::Connection::open(address).await?;
    for turn in 0..turns {
        let text = format!("{number}, {turn}: what is {} plus {turn}?", number * 7);
        connection.turn(&text, TOKENS, turn > 0).await?;
    }
    Ok(())
}

/// Runs conversations and returns the megabytes after each tenth of them.
async fn tenths(address: SocketAddr, count: usize, turns: usize) -> anyhow::Result<Vec<f64>> {
    let mut resident_after = Vec::new();
    for tenth in 0..10 {
        let numbers = count * tenth / 10..count * (tenth + 1) / 10;
        stream::iter(numbers)
            .map(|number| conversation(address, number, turns))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        resident_after.push(resident()?);
    }
    Ok(resident_after)
}

pub async fn rows(args: &Args, report: &mut Map<String, Value>) -> anyhow::Result<Vec<Figure>> {
    let address = served::start(crate::engine().await? as Arc<dyn Engine>).await?;
    let before = resident()?;
    let chats = tenths(address, args.chats, 1).await?;
    let conversations = tenths(address, args.conversations, TURNS).await?;
    println!("{:<28} MB after each tenth, {before:.0} before", "memory");
    for (what, megabytes) in [("short chats", &chats), ("conversations of ten turns", &conversations)] {
        let shown: Vec<String> = megabytes.iter().map(|all| format!("{all:.0}")).collect();
        println!("  {what:<26} {}", shown.join(" "));
    }
    report.insert("memory_mb".into(), json!({"before": before, "chats": chats, "conversations": conversations}));
    Ok(vec![
        Figure::new("memory after all chats / after a tenth", chats[9] / chats[0], "≤ 1.15"),
        Figure::new("after all conversations / after a tenth", conversations[9] / conversations[0], "≤ 1.15"),
    ])
}
