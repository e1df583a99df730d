//! Chat completions rendered from a response's events.

use crate::wire::{
    chat::{ChatUsage, Choice, Chunk, ChunkChoice, Completion, Delta, Message},
    event::Event,
    response::Response,
};

/// The chunks that an event of `response` becomes; the response is the one of the first event.
pub fn chunks(response: &Response, event: Event, include_usage: bool) -> Vec<Chunk> {
    let chunk = |choices, usage| Chunk {
        id: id(response),
        object: "chat.completion.chunk",
        created: response.created_at,
        model: response.model.clone(),
        choices,
        service_tier: response.service_tier,
        usage,
    };
    let choice = |delta, finish_reason| vec![ChunkChoice { index: 0, delta, finish_reason, logprobs: None }];
    match event {
        Event::ItemAdded { .. } => {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            vec![chunk(choice(delta, None), None)]
        }
        Event::TextDelta { delta, .. } => {
            vec![chunk(choice(Delta { role: None, content: Some(delta) }, None), None)]
        }
        Event::Completed { response } | Event::Incomplete { response } => {
            let last = chunk(choice(Delta::default(), Some(finish_reason(&response))), None);
            let usage = response.usage.filter(|_| include_usage).map(|usage| chunk(vec![], Some(usage.into())));
            std::iter::once(last).chain(usage).collect()
        }
        _ => vec![],
    }
}

/// An ended response as one completion.
pub fn completion(response: &Response) -> Completion {
    let content = response.output.iter().flat_map(|item| &item.content).map(|part| part.text.as_str()).collect();
    Completion {
        id: id(response),
        object: "chat.completion",
        created: response.created_at,
        model: response.model.clone(),
        choices: [Choice {
            index: 0,
            message: Message { role: "assistant", content, refusal: None },
            finish_reason: finish_reason(response),
            logprobs: None,
        }],
        usage: response.usage.map(ChatUsage::from),
        service_tier: response.service_tier,
    }
}

fn id(response: &Response) -> String {
    format!("chatcmpl-{}", response.id.strip_prefix("resp_").unwrap_or(&response.id))
}

/// This API knows no cancelled reply; to its clients one has stopped.
fn finish_reason(response: &Response) -> &'static str {
    match &response.incomplete_details {
        Some(details) if details.reason == "max_output_tokens" => "length",
        _ => "stop",
    }
}
