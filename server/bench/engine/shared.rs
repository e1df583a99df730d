//! Measures chats that begin with the same long instructions, which are computed only once.

use caudal_server::engine::{Message, Role};
use futures::future::try_join_all;

use crate::{Figure, direct, median};

/// Sentences of the instructions.
const SENTENCES: usize = 40;
const CHATS: usize = 16;

pub async fn rows() -> anyhow::Result<Vec<Figure>> {
    let engine = crate::engine().await?;
    let rule = |n| format!("Rule {n}: answer briefly and politely, and never speak of the weather on day {n}.");
    let instructions: String = (1..=SENTENCES).map(|n| rule(n) + " ").collect();
    let say = |question: String| {
        let messages = vec![Message::text(Role::System, instructions.clone()), Message::text(Role::User, question)];
        direct::say(&*engine, messages, 4)
    };
    let first = say("What do you do?".into()).await?;
    let mut later = Vec::new();
    for chat in 0..CHATS {
        later.push(say(format!("{chat} is my number. What is yours?")).await?.first.as_secs_f64());
    }
    // Computes the prompts of a first crowd, then measures a second one.
    try_join_all((0..CHATS).map(|n| say(format!("First {n}. Who are you?")))).await?;
    let crowd = try_join_all((0..CHATS).map(|n| say(format!("Then {n}. Who are you?")))).await?;
    let crowd = crowd.into_iter().map(|reply| reply.first.as_secs_f64()).collect();
    println!("instructions of {} tokens", first.prompt_tokens);
    Ok(vec![
        Figure::new("first token of the first chat, s", first.first.as_secs_f64(), ""),
        Figure::new("of the chats after it, s", median(later), ""),
        Figure::new("of 16 at once, s", median(crowd), ""),
    ])
}
