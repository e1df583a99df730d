//! Drives the engine directly, without the server.

use std::time::{Duration, Instant};

use anyhow::bail;
use caudal_server::engine::{Engine, Finish, GenerateRequest, Message, Prompt, Role, Sampling};
use tokio_util::sync::CancellationToken;

use crate::Stream;

/// A reply, and the time to its first token.
pub struct Reply {
    pub text: String,
    pub first: Duration,
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were not computed.
    pub cached_tokens: u32,
    pub stream: Stream,
}

pub async fn chat(engine: &dyn Engine, text: String, tokens: u32) -> anyhow::Result<Stream> {
    Ok(say(engine, vec![Message::text(Role::User, text)], tokens).await?.stream)
}

pub async fn say(engine: &dyn Engine, messages: Vec<Message>, tokens: u32) -> anyhow::Result<Reply> {
    run(engine, ask(engine, messages, tokens)?).await
}

/// Makes a request to the first model for the likeliest reply to messages.
pub fn ask(engine: &dyn Engine, messages: Vec<Message>, tokens: u32) -> anyhow::Result<GenerateRequest> {
    Ok(GenerateRequest {
        prompt: engine.tokenize(&engine.models()[0].id, &Prompt::of(messages))?,
        tenant: "default".into(),
        reuse: Default::default(),
        output: Vec::new(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Default::default(),
        grammar: None,
        logprobs: None,
        max_output_tokens: tokens,
        cancel: CancellationToken::new(),
    })
}

pub async fn run(engine: &dyn Engine, request: GenerateRequest) -> anyhow::Result<Reply> {
    let model = engine.models()[0].id.clone();
    let prompt_tokens = request.prompt.len();
    let begun = Instant::now();
    let mut deltas = engine.generate(&model, request)?;
    let (mut stream, mut text, mut cached_tokens, mut finish) = (Stream::default(), String::new(), 0, None);
    while let Some(delta) = deltas.recv().await {
        text.push_str(&delta.text);
        cached_tokens = delta.cached_tokens.unwrap_or(cached_tokens);
        finish = delta.finish.or(finish);
        if !delta.tokens.is_empty() {
            stream.times.push(Instant::now());
        }
    }
    match finish {
        Some(Finish::Failed(reason)) => bail!("a reply failed: {reason}"),
        None => bail!("a reply broke off"),
        Some(_) => {}
    }
    // A reply may be empty.
    let first = stream.times.first().copied().unwrap_or_else(Instant::now) - begun;
    Ok(Reply { text, first, prompt_tokens, cached_tokens, stream })
}
