//! The part of the response object that its header determines: the fields of the request, and the values that the server chose.

use crate::{
    store::Header,
    wire::response::{ConversationId, Response, Status, TruncationDetails},
};

/// Makes the response object without output.
pub fn snapshot(header: &Header, status: Status) -> Response {
    let create = &header.create;
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
        top_p: create.top_p.unwrap_or(1.0),
        temperature: create.temperature.unwrap_or(1.0),
        presence_penalty: create.presence_penalty,
        frequency_penalty: create.frequency_penalty,
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
