//! Measures a repeated prompt, as when a user asks for another answer: another seed, with the first answer's keys and values cached.

use caudal_server::engine::{GenerateRequest, Message, Role, Sampling};

use crate::{Figure, direct, median};

/// This many words make a prompt of about 800 tokens.
const WORDS: usize = 172;
const REPLY: u32 = 48;
const TIMES: u64 = 20;

pub async fn rows() -> anyhow::Result<Vec<Figure>> {
    let engine = crate::engine().await?;
    let long: String = (0..WORDS).map(|n| format!("{n} rivers ")).collect();
    let long = long + "Invent a name for one of these rivers, and say where it flows.";
    let say = async |seed| {
        let sampling = Sampling { temperature: 0.7, top_p: 0.95, seed, ..Sampling::default() };
        let request = direct::ask(&*engine, vec![Message::text(Role::User, long.clone())], REPLY)?;
        direct::run(&*engine, GenerateRequest { sampling, ..request }).await
    };
    let first = say(0).await?;
    let mut again = Vec::new();
    for seed in 1..=TIMES {
        again.push(say(seed).await?);
    }
    let reused = again.iter().filter(|reply| reply.cached_tokens as usize == reply.prompt_tokens).count();
    let firsts = again.iter().map(|reply| reply.first.as_secs_f64() * 1000.0).collect();
    let gaps = again.iter().map(|reply| reply.stream.longest_gap().as_secs_f64()).collect();
    println!("a prompt of {} tokens, asked {TIMES} times more: {reused} times reused", first.prompt_tokens);
    Ok(vec![
        Figure::new("first token of the first answer, s", first.first.as_secs_f64(), ""),
        Figure::new("of another one, ms", median(firsts), ""),
        Figure::new("longest gap in it, s", median(gaps), ""),
        Figure::new("share of answers that reused the prompt", reused as f64 / TIMES as f64, ""),
    ])
}
