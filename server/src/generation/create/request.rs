//! What the engine is asked for, by a response's header alone: any replica asks for the same.

use tokio_util::sync::CancellationToken;

use super::grammar::grammar;
use crate::{
    engine::{GenerateRequest, Sampling, StopStrings, kv::Reuse},
    store::Header,
    wire::{error::WireError, request::Create},
};

/// The engine's request. `output`: the tokens that the log has already.
///
/// # Errors
/// None for a header that `create` made, which found the same grammar.
pub fn request(header: &Header, output: Vec<u32>, cancel: CancellationToken) -> Result<GenerateRequest, WireError> {
    let create = &header.create;
    Ok(GenerateRequest {
        prompt: header.prompt.clone(),
        tenant: header.tenant.as_str().into(),
        reuse: reuse(create),
        output,
        sampling: Sampling { logit_bias: create.logit_bias.clone(), seed: header.seed, ..create.sampling.into() },
        stop: StopStrings::new(create.stop.clone(), header.dialect.clone(), create.callable().next().is_some()),
        grammar: grammar(header)?,
        logprobs: create.logprobs.then_some(create.top_logprobs),
        max_output_tokens: header.max_output_tokens,
        cancel,
    })
}

/// A turn of a conversation is followed by another, and a stored prompt is used again.
fn reuse(create: &Create) -> Reuse {
    let is_turn = create.conversation.is_some() || create.previous_response_id.is_some();
    if is_turn || create.prompt.is_some() { Reuse::Expected } else { Reuse::Unknown }
}
