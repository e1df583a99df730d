//! Conversations that come back to the KV of their earlier turns: of one tenant, of four that share the slots, and more than
//! the slots may keep.

use std::time::Instant;

use caudal_server::engine::{
    GenerateRequest, Message, Role,
    mistral::{MistralConfig, MistralEngine, Progress},
};
use futures::future::try_join_all;

use crate::{Args, Figure, median, pool};

/// Conversations at once, and the turns of each.
const CROWD: (usize, usize) = (12, 4);
const TENANTS: usize = 4;
/// Conversations of which the slots can keep half, and visits to one of them after another, at random.
const MANY: (usize, usize) = (16, 64);
/// The slots, and megabytes of each for them.
const LITTLE: (usize, u64) = (2, 48);
const REPLY: u32 = 16;

struct Conversation {
    scope: String,
    messages: Vec<Message>,
    /// Tokens that were read or said up to now.
    said: usize,
}

/// A turn: seconds to its first token, the tokens that could be reused, and those that were.
struct Turn {
    first: f64,
    earlier: usize,
    cached: usize,
}

impl Conversation {
    fn new(name: &str, scope: String) -> Self {
        let text = format!("My name is {name}. I have come to ask you about rivers, lakes and the sea, so be brief.");
        let messages = vec![Message::text(Role::User, text), Message::text(Role::Assistant, "I am listening.")];
        Self { scope, messages, said: 0 }
    }

    async fn turn(&mut self, engine: &MistralEngine, question: String) -> anyhow::Result<Turn> {
        self.messages.push(Message::text(Role::User, question));
        let request = pool::ask(engine, self.messages.clone(), REPLY)?;
        let reply = pool::run(engine, GenerateRequest { scope: self.scope.as_str().into(), ..request }).await?;
        self.messages.push(Message::text(Role::Assistant, reply.text));
        let cached = reply.cached_tokens as usize;
        let turn = Turn { first: reply.first.as_secs_f64(), earlier: self.said, cached: cached.min(self.said) };
        self.said = reply.prompt_tokens + reply.stream.times.len();
        Ok(turn)
    }
}

/// Conversations at once.
#[derive(Default)]
struct Crowd {
    /// Seconds that all took together.
    took: f64,
    /// But for the first of each.
    turns: Vec<Turn>,
}

impl Crowd {
    async fn talk(&mut self, engine: &MistralEngine, tenants: usize, round: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        let turns = try_join_all((0..CROWD.0).map(|number| conversation(engine, number, tenants, round))).await?;
        self.took += begun.elapsed().as_secs_f64();
        self.turns.extend(turns.into_iter().flatten());
        Ok(())
    }
}

async fn conversation(
    engine: &MistralEngine,
    number: usize,
    tenants: usize,
    round: usize,
) -> anyhow::Result<Vec<Turn>> {
    let name = format!("Number {number}, {round} of {tenants}");
    let mut conversation = Conversation::new(&name, format!("tenant {} of {tenants}", number % tenants));
    let mut turns = Vec::new();
    for turn in 1..=CROWD.1 {
        turns.push(conversation.turn(engine, format!("Question {turn}: what is river {turn} like?")).await?);
    }
    turns.remove(0);
    Ok(turns)
}

/// The turns of conversations that come back at random, with too little memory for all.
async fn many() -> anyhow::Result<Vec<Turn>> {
    let (slots, prefix_cache_mb) = LITTLE;
    let config = MistralConfig { slots, prefix_cache_mb, ..MistralConfig::default() };
    let engine = MistralEngine::load(config, Progress::default()).await?;
    engine.loaded().await;
    let new = |number| Conversation::new(&format!("Visitor {number}"), "one".into());
    let mut conversations: Vec<_> = (0..MANY.0).map(new).collect();
    let mut turns = Vec::new();
    let mut random = 1u64;
    for visit in 0..MANY.0 + MANY.1 {
        // The constants of Knuth's MMIX.
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let which = if visit < MANY.0 { visit } else { (random >> 33) as usize % MANY.0 };
        let question = format!("Visit {visit}: what is river {visit} like?");
        turns.push(conversations[which].turn(&engine, question).await?);
    }
    Ok(turns.split_off(MANY.0))
}

fn reused(turns: &[Turn]) -> f64 {
    let sum = |of: fn(&Turn) -> usize| turns.iter().map(of).sum::<usize>() as f64;
    sum(|turn| turn.cached) / sum(|turn| turn.earlier)
}

fn first(turns: &[Turn]) -> f64 {
    median(turns.iter().map(|turn| turn.first).collect())
}

pub async fn rows(args: &Args) -> anyhow::Result<Vec<Figure>> {
    let engine = crate::engine(args.slots).await?;
    // The first crowd also pays for memory that all use.
    Crowd::default().talk(&engine, CROWD.0, 0).await?;
    let (mut one, mut four) = (Crowd::default(), Crowd::default());
    for round in 1..=args.rounds {
        one.talk(&engine, 1, round).await?;
        four.talk(&engine, TENANTS, round).await?;
    }
    drop(engine);
    let many = many().await?;
    println!("{} conversations of {} turns at once; then {} with room for half", CROWD.0, CROWD.1, MANY.0);
    Ok(vec![
        Figure::new("four tenants / one, time for all", four.took / one.took, ""),
        Figure::new("four tenants / one, first token of a turn", first(&four.turns) / first(&one.turns), ""),
        Figure::new("of one tenant, s", first(&one.turns), ""),
        Figure::new("of four, s", first(&four.turns), ""),
        Figure::new("reused of what was said before, one tenant", reused(&one.turns), ""),
        Figure::new("four tenants", reused(&four.turns), ""),
        Figure::new("with room for half", reused(&many), ""),
        Figure::new("first token of a turn there, s", first(&many), ""),
    ])
}
