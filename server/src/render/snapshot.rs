//! The part of the response object that its header determines: the fields of the request, and the values that the server chose.

use crate::{
    engine::Sampling,
    store::Header,
    wire::response::{ConversationId, Response, Status, TruncationDetails},
};

/// Makes the response object without output.
pub fn snapshot(header: &Header, status: Status) -> Response {
    let create = &header.create;
    let sampling = Sampling::from(create.sampling);
    Response {
        id: header.id.clone(),
        object: "response",
        created_at: header.created_at,
        completed_at: None,
        status,
        incomplete_details: None,
        model: header.model.clone(),
        previous_response_id: create.previous_response_id.clone(),
        conversation: create.conversation.clone().map(|id| ConversationId { id }),
        prompt: create.prompt.clone(),
        instructions: create.instructions.clone(),
        output: vec![],
        error: None,
        tools: create.tools.clone(),
        tool_choice: create.tool_choice.clone(),
        truncation: create.truncation,
        truncation_details: Some(header.left_out.turns)
            .filter(|turns| *turns > 0)
            .map(|dropped_turns| TruncationDetails { dropped_turns }),
        parallel_tool_calls: create.parallel_tool_calls,
        text: create.text.clone(),
        top_p: sampling.top_p,
        temperature: sampling.temperature,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        top_logprobs: create.top_logprobs,
        reasoning: create.reasoning,
        usage: None,
        max_output_tokens: create.max_output_tokens,
        max_tool_calls: create.max_tool_calls,
        store: create.store,
        background: create.background,
        service_tier: create.service_tier,
        metadata: create.metadata.clone(),
        safety_identifier: create.safety_identifier.clone(),
        prompt_cache_key: create.prompt_cache_key.clone(),
        user: create.user.clone(),
    }
}
