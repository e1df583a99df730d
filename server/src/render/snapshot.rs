//! The part of the response object that its header determines: the fields of the request, and the values that the server chose.

use crate::{
    engine::Sampling,
    store::Header,
    wire::response::{ConversationId, Response, Status, TruncationDetails},
};

/// Makes the response object without output.
pub fn snapshot(header: &Header, status: Status) -> Response {
    let spec = &header.spec;
    let sampling = Sampling::from(spec.sampling);
    Response {
        id: header.id.clone(),
        object: "response",
        created_at: header.created_at,
        completed_at: None,
        status,
        incomplete_details: None,
        model: header.model.clone(),
        previous_response_id: spec.previous_response_id.clone(),
        conversation: spec.conversation.clone().map(|id| ConversationId { id }),
        prompt: spec.prompt.clone(),
        instructions: spec.instructions.clone(),
        output: vec![],
        error: None,
        tools: spec.tools.clone(),
        tool_choice: spec.tool_choice.clone(),
        truncation: spec.truncation,
        truncation_details: Some(header.left_out.turns)
            .filter(|turns| *turns > 0)
            .map(|dropped_turns| TruncationDetails { dropped_turns }),
        parallel_tool_calls: spec.parallel_tool_calls,
        text: spec.text.clone(),
        top_p: sampling.top_p,
        temperature: sampling.temperature,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        top_logprobs: spec.top_logprobs,
        reasoning: spec.reasoning,
        usage: None,
        max_output_tokens: spec.max_output_tokens,
        max_tool_calls: spec.max_tool_calls,
        store: spec.store,
        background: spec.background,
        service_tier: spec.service_tier,
        metadata: spec.metadata.clone(),
        safety_identifier: spec.safety_identifier.clone(),
        prompt_cache_key: spec.prompt_cache_key.clone(),
        user: spec.user.clone(),
    }
}
