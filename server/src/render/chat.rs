//! Chat completions rendered from a response's events.

use crate::wire::{
    chat::{
        ChatUsage, Choice, ChoiceLogprobs, Chunk, ChunkChoice, Completion, Delta, FunctionDelta, Message, ToolCall,
        ToolCallDelta,
    },
    event::Event,
    output::OutputItem,
    response::Response,
};

/// Renders one response's events in order as the chunks of one choice.
pub struct ChatRenderer {
    /// The response of the first choice, as it was created.
    response: Response,
    /// The number of the choice.
    index: u32,
    include_usage: bool,
    /// Whether the first chunk, which has the role, was made.
    begun: bool,
    calls: usize,
    /// The usage of the response; set when it has ended.
    pub usage: Option<ChatUsage>,
}

impl ChatRenderer {
    /// `first` is the response of the first choice, whose id all chunks have.
    pub fn new(first: Response, index: u32, include_usage: bool) -> Self {
        Self { response: first, index, include_usage, begun: false, calls: 0, usage: None }
    }

    /// Makes the chunks of the next event.
    pub fn event(&mut self, event: Event) -> Vec<Chunk> {
        match event {
            Event::ItemAdded { item, .. } => {
                let mut delta = Delta::default();
                if !std::mem::replace(&mut self.begun, true) {
                    delta.role = Some("assistant");
                    delta.content = matches!(item, OutputItem::Message(_)).then(String::new);
                }
                if let OutputItem::FunctionCall(call) = item {
                    self.calls += 1;
                    let function = FunctionDelta { name: Some(call.name), arguments: String::new() };
                    delta.tool_calls = self.call_delta(Some(call.call_id), function);
                }
                let is_empty = delta.role.is_none() && delta.tool_calls.is_empty();
                if is_empty { vec![] } else { vec![self.chunk(delta, None, None)] }
            }
            Event::TextDelta { delta, logprobs, .. } => {
                let delta = Delta { content: Some(delta), ..Delta::default() };
                vec![self.chunk(delta, None, ChoiceLogprobs::of(logprobs))]
            }
            Event::SummaryDelta { delta, .. } => {
                vec![self.chunk(Delta { reasoning_content: Some(delta), ..Delta::default() }, None, None)]
            }
            Event::ArgumentsDelta { delta, .. } => {
                let tool_calls = self.call_delta(None, FunctionDelta { name: None, arguments: delta });
                vec![self.chunk(Delta { tool_calls, ..Delta::default() }, None, None)]
            }
            Event::Completed { response } | Event::Incomplete { response } => {
                self.usage = response.usage.map(ChatUsage::from);
                vec![self.chunk(Delta::default(), Some(finish_reason(&response)), None)]
            }
            _ => vec![],
        }
    }

    /// Makes the chunk after the last chunk of all choices, with the usage of all choices.
    pub fn usage_chunk(&self, usage: ChatUsage) -> Chunk {
        Chunk { usage: Some(Some(usage)), ..self.empty() }
    }

    fn call_delta(&self, id: Option<String>, function: FunctionDelta) -> Vec<ToolCallDelta> {
        let kind = id.is_some().then_some("function");
        vec![ToolCallDelta { index: self.calls.saturating_sub(1), id, kind, function }]
    }

    fn chunk(&self, delta: Delta, finish_reason: Option<&'static str>, logprobs: Option<ChoiceLogprobs>) -> Chunk {
        Chunk { choices: vec![ChunkChoice { index: self.index, delta, finish_reason, logprobs }], ..self.empty() }
    }

    fn empty(&self) -> Chunk {
        Chunk {
            id: id(&self.response),
            object: "chat.completion.chunk",
            created: self.response.created_at,
            model: self.response.model.clone(),
            choices: vec![],
            service_tier: self.response.service_tier,
            usage: self.include_usage.then_some(None),
        }
    }
}

/// Renders ended responses as the choices of one completion with the id of the first response. `None` without responses.
pub fn completion(responses: &[Response]) -> Option<Completion> {
    let first = responses.first()?;
    let usage = responses.iter().filter_map(|response| response.usage.map(ChatUsage::from));
    Some(Completion {
        id: id(first),
        object: "chat.completion",
        created: first.created_at,
        model: first.model.clone(),
        choices: (0..).zip(responses).map(|(index, response)| choice(index, response)).collect(),
        usage: usage.reduce(ChatUsage::together),
        service_tier: first.service_tier,
    })
}

fn choice(index: u32, response: &Response) -> Choice {
    let mut message = Message { role: "assistant", ..Message::default() };
    let mut logprobs = Vec::new();
    for item in &response.output {
        match item {
            OutputItem::Message(item) => {
                let content = message.content.get_or_insert_default();
                for part in &item.content {
                    content.push_str(&part.text);
                    logprobs.extend_from_slice(&part.logprobs);
                }
            }
            OutputItem::FunctionCall(call) => {
                let call = ToolCall::new(call.call_id.clone(), call.name.clone(), call.arguments.clone());
                message.tool_calls.push(call);
            }
            OutputItem::Reasoning(thought) => {
                let content = message.reasoning_content.get_or_insert_default();
                thought.summary.iter().for_each(|part| content.push_str(&part.text));
            }
        }
    }
    if message.tool_calls.is_empty() {
        // `content` is null only beside calls. An output that ended in its thoughts has an empty text, so that clients can send it back.
        message.content.get_or_insert_default();
    }
    Choice { index, message, finish_reason: finish_reason(response), logprobs: ChoiceLogprobs::of(logprobs) }
}

fn id(response: &Response) -> String {
    format!("chatcmpl-{}", response.id.strip_prefix("resp_").unwrap_or(&response.id))
}

/// The reason why a choice ended. This API has no reason for a cancelled output, so its reason is `stop`.
fn finish_reason(response: &Response) -> &'static str {
    match &response.incomplete_details {
        Some(details) if details.reason == "max_output_tokens" => "length",
        None if response.output.iter().any(|item| matches!(item, OutputItem::FunctionCall(_))) => "tool_calls",
        _ => "stop",
    }
}
