//! Measures the time to first token over ten turns of a conversation, alone and while other chats keep the engine busy. The
//! conversation's keys and values are cached; every turn adds a question.

use std::{sync::Arc, time::Duration};

use caudal_server::engine::{Message, Role, mistral::MistralEngine};
use futures::future::try_join_all;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::{Args, Figure, direct, median};

const TURNS: usize = 10;
/// Tokens of a reply.
const REPLY: u32 = 24;
/// Other users, each with one chat after another.
const BESIDE: usize = 3;

/// Runs a conversation. Returns the seconds to the first token of each turn, and the tokens of its prompt.
async fn conversation(engine: &MistralEngine, name: String) -> anyhow::Result<Vec<(f64, usize)>> {
    let mut messages = Vec::new();
    let mut firsts = Vec::new();
    for turn in 1..=TURNS {
        let question = format!("{name}, question {turn}: what should I know about river number {turn} of my country?");
        messages.push(Message::text(Role::User, question));
        let reply = direct::say(engine, messages.clone(), REPLY).await?;
        firsts.push((reply.first.as_secs_f64(), reply.prompt_tokens));
        messages.push(Message::text(Role::Assistant, reply.text));
        // The time in which a user reads.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(firsts)
}

/// Runs chats of another user until `until` is cancelled.
async fn others(engine: Arc<MistralEngine>, number: usize, until: CancellationToken) -> anyhow::Result<()> {
    for chat in 0.. {
        let text = format!("Person {number}, chat {chat}: tell me something about the sea.");
        direct::chat(&*engine, text, 48).await?;
        if until.is_cancelled() {
            break;
        }
    }
    Ok(())
}

pub async fn rows(args: &Args, report: &mut Map<String, Value>) -> anyhow::Result<Vec<Figure>> {
    let engine = crate::engine().await?;
    // Uses the memory of the cache once, as on a server that has run for a while.
    let most = 8;
    let earlier = (0..most).map(|number| conversation(&engine, format!("Otto {number}")));
    try_join_all(earlier).await?;
    let mut runs = Vec::new();
    let mut prompts = Vec::new();
    for busy in [false, true] {
        let until = CancellationToken::new();
        let beside = if busy { BESIDE } else { 0 };
        let others: Vec<_> =
            (0..beside).map(|number| tokio::spawn(others(engine.clone(), number, until.clone()))).collect();
        let mut turns = vec![Vec::new(); TURNS];
        for round in 0..args.rounds.max(3) {
            // Each conversation has texts of its own, so that it is not cached.
            let firsts = conversation(&engine, format!("{} {round}", if busy { "Berta" } else { "Anna" })).await?;
            turns.iter_mut().zip(&firsts).for_each(|(turn, (first, _))| turn.push(*first));
            prompts = firsts.into_iter().map(|(_, tokens)| tokens).collect();
        }
        until.cancel();
        for other in others {
            other.await??;
        }
        runs.push(turns.into_iter().map(median).collect::<Vec<f64>>());
    }
    println!("{:<28} seconds to first token, turn 1 to {TURNS}", "a conversation");
    for (what, run) in ["alone", "beside three other chats"].into_iter().zip(&runs) {
        let shown: Vec<String> = run.iter().map(|first| format!("{first:.2}")).collect();
        println!("  {what:<26} {}", shown.join(" "));
    }
    println!("  {:<26} {}", "tokens of the prompt", prompts.iter().map(usize::to_string).collect::<Vec<_>>().join(" "));
    report.insert("turns".into(), json!({"alone": runs[0], "beside": runs[1], "prompt_tokens": prompts}));
    Ok(vec![
        Figure::new("first token of turn 10 / of turn 2, alone", runs[0][9] / runs[0][1], "≤ 1.5"),
        Figure::new("first token of turn 10 / of turn 2, beside", runs[1][9] / runs[1][1], "≤ 1.5"),
    ])
}
