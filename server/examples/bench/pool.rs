//! The pool of slots driven directly.

use std::time::Instant;

use caudal_server::engine::{Engine, GenerateRequest, Message, Prompt, Role, Sampling};
use tokio_util::sync::CancellationToken;

use crate::Stream;

pub async fn chat(engine: &dyn Engine, text: String, tokens: u32) -> anyhow::Result<Stream> {
    let model = engine.models()[0].id.clone();
    let prompt = engine.tokenize(&model, &Prompt::of(vec![Message::text(Role::User, text)]))?;
    let request = GenerateRequest {
        prompt,
        scope: "default".into(),
        output: Vec::new(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        grammar: None,
        logprobs: None,
        max_output_tokens: tokens,
        cancel: CancellationToken::new(),
    };
    let mut deltas = engine.generate(&model, request)?;
    let mut stream = Stream::default();
    while let Some(delta) = deltas.recv().await {
        if !delta.tokens.is_empty() {
            stream.times.push(Instant::now());
        }
    }
    Ok(stream)
}
