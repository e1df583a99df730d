//! Builds the engine's request from a response's header alone, so that every replica builds the same.

use tokio_util::sync::CancellationToken;

use super::grammar::grammar;
use crate::{
    engine::{GenerateRequest, Sampling, StopStrings, kv::Reuse},
    store::{GenerationSpec, Header},
    wire::error::WireError,
};

/// Builds the engine's request. `output`: the tokens that the log has already.
///
/// # Errors
/// The schemas or the format cannot constrain an output. None for a header that `create` made: `create` has checked the same
/// grammar.
pub fn request(header: &Header, output: Vec<u32>, cancel: CancellationToken) -> Result<GenerateRequest, WireError> {
    let spec = &header.spec;
    Ok(GenerateRequest {
        prompt: header.prompt.clone(),
        tenant: header.tenant.as_str().into(),
        reuse: reuse(spec),
        output,
        sampling: Sampling { logit_bias: spec.logit_bias.clone(), seed: header.seed, ..spec.sampling.into() },
        stop: StopStrings::new(spec.stop.clone(), header.dialect.clone(), spec.callable().next().is_some()),
        grammar: grammar(header)?,
        logprobs: spec.logprobs.then_some(spec.top_logprobs),
        max_output_tokens: header.max_output_tokens,
        cancel,
    })
}

/// Returns whether a later prompt will begin with this one: another turn follows a turn, and a stored prompt is used again.
fn reuse(spec: &GenerationSpec) -> Reuse {
    let is_turn = spec.conversation.is_some() || spec.previous_response_id.is_some();
    if is_turn || spec.prompt.is_some() { Reuse::Expected } else { Reuse::Unknown }
}
