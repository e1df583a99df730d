//! Measures the longest gap of four streams while a prompt of a thousand tokens is computed beside them, and without the prompt.

use std::time::Duration;

use caudal_server::engine::{Message, Role, mistral::MistralEngine};
use futures::future::{join, join_all};

use crate::{Figure, Stream, direct};

const STREAMS: usize = 4;
/// This many words make a prompt of about a thousand tokens.
const WORDS: usize = 205;

/// Runs the streams. With enough `tokens` they last longer than the prompt's computation.
async fn streams(engine: &MistralEngine, name: &str, tokens: u32) -> anyhow::Result<Vec<Stream>> {
    let chats = (0..STREAMS).map(|n| direct::chat(engine, format!("{name} {n}. Tell me a very long story."), tokens));
    join_all(chats).await.into_iter().collect()
}

fn longest(streams: &[Stream]) -> Duration {
    streams.iter().map(Stream::longest_gap).max().unwrap_or_default()
}

pub async fn rows() -> anyhow::Result<Vec<Figure>> {
    let engine = crate::engine().await?;
    let quiet = longest(&streams(&engine, "Quiet", 96).await?);
    let long: String = (0..WORDS).map(|n| format!("{n} rivers ")).collect();
    let prompt = async {
        // The streams have begun by then.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        direct::say(&*engine, vec![Message::text(Role::User, long)], 2).await
    };
    let (beside, reply) = join(streams(&engine, "Beside", 400), prompt).await;
    let (beside, reply) = (longest(&beside?), reply?);
    let (all, cached) = (reply.prompt_tokens, reply.cached_tokens);
    println!("a prompt of {all} tokens, {cached} of them cached, beside {STREAMS} streams");
    Ok(vec![
        Figure::new("longest gap of 4 streams, s", quiet.as_secs_f64(), ""),
        Figure::new("longest gap beside the prompt, s", beside.as_secs_f64(), ""),
        Figure::new("first token of the prompt, s", reply.first.as_secs_f64(), ""),
    ])
}
