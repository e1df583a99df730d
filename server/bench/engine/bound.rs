//! Measures the rate of seven plain chats beside a chat with a JSON schema.

use std::time::Instant;

use anyhow::Context;
use caudal_server::engine::{GenerateRequest, Grammar, Message, Role, Rules, mistral::MistralEngine};
use futures::future::try_join_all;

use crate::{Args, Figure, Stream, direct, median};

const SCHEMA: &str = r#"{"type": "object", "properties": {
    "name": {"type": "string", "minLength": 40}, "kind": {"enum": ["river", "sea", "lake"]},
    "lengths": {"type": "array", "items": {"type": "number"}, "minItems": 12},
    "people": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"},
        "born": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}}, "required": ["name", "born"]}, "minItems": 6}},
    "required": ["name", "kind", "lengths", "people"], "additionalProperties": false}"#;
const PLAIN: usize = 7;
const ROUNDS: usize = 8;

pub async fn rows(args: &Args) -> anyhow::Result<Vec<Figure>> {
    let engine = crate::engine().await?;
    let (mut without, mut beside) = (Vec::new(), Vec::new());
    // Compiles the grammar before the measurement.
    round(&engine, args, true, 0).await?;
    for number in 1..=ROUNDS {
        without.push(round(&engine, args, false, 2 * number).await?);
        beside.push(round(&engine, args, true, 2 * number + 1).await?);
    }
    let (without, beside) = (median(without), median(beside));
    Ok(vec![
        Figure::new("seven plain chats beside another plain one, tok/s", without, ""),
        Figure::new("beside one that is held to a schema, tok/s", beside, ""),
        Figure::new("ratio", beside / without, "≥ 0.90"),
    ])
}

/// The rate of seven plain chats beside another chat, in tokens a second, from when all chats decode until the first one ends.
async fn round(engine: &MistralEngine, args: &Args, is_bound: bool, number: usize) -> anyhow::Result<f64> {
    let ask = |n: usize| {
        let text = format!("{number}.{n} Tell me a long story about a river and the people who live beside it.");
        direct::ask(engine, vec![Message::text(Role::User, text)], args.tokens)
    };
    let mut requests = (0..PLAIN).map(ask).collect::<anyhow::Result<Vec<_>>>()?;
    let other = ask(PLAIN)?;
    let rules = Rules::JsonSchema(serde_json::from_str(SCHEMA)?);
    let grammar = is_bound.then(|| Grammar { tenant: "default".into(), rules });
    // The other chat must last as long as the plain ones.
    requests.push(GenerateRequest { grammar, max_output_tokens: 2 * args.tokens, ..other });
    let replies = try_join_all(requests.into_iter().map(|request| direct::run(engine, request))).await?;
    let plain: Vec<&Stream> = replies.iter().take(PLAIN).map(|reply| &reply.stream).collect();
    let begun = replies.iter().filter_map(|reply| reply.stream.times.first()).max().context("no token")?;
    let ended = plain.iter().filter_map(|stream| stream.times.last()).min().context("no token")?;
    let counted = |at: &&Instant| *at > begun && *at <= ended;
    let tokens: usize = plain.iter().map(|stream| stream.times.iter().filter(counted).count()).sum();
    Ok(tokens as f64 / (*ended - *begun).as_secs_f64())
}
