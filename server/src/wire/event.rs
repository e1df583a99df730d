//! Server events. The events of a response are numbered from 0 without gaps; the events of a connection have their own counter.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    logprobs::Logprob,
    output::{OutputItem, OutputText, SummaryText},
    response::{Response, Status},
};

/// An event of a response, with its number and the fields that a connection adds.
#[derive(Debug, Clone, Serialize)]
pub struct Numbered<'a> {
    #[serde(flatten)]
    pub event: &'a Event,
    pub sequence_number: u64,
    /// Sent only if the client uses the extensions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<&'a str>,
    /// The ignored parts of the request. Sent only with `response.created` and only if the client uses the extensions.
    #[serde(rename = "caudal:warnings", skip_serializing_if = "<[_]>::is_empty")]
    pub warnings: &'a [String],
}

impl<'a> Numbered<'a> {
    /// Numbers an event, without the fields of the extensions.
    pub fn of_response(event: &'a Event, sequence_number: u64) -> Self {
        Self { event, sequence_number, response_id: None, stream_id: None, warnings: &[] }
    }
}

/// An event of a response, in the order of `PROTOCOL.md`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "type")]
pub enum Event {
    #[serde(rename = "response.created")]
    Created { response: Box<Response> },
    #[serde(rename = "response.queued")]
    Queued { response: Box<Response> },
    #[serde(rename = "response.in_progress")]
    InProgress { response: Box<Response> },
    #[serde(rename = "response.output_item.added")]
    ItemAdded { output_index: u32, item: OutputItem },
    #[serde(rename = "response.content_part.added")]
    PartAdded { item_id: String, output_index: u32, content_index: u32, part: OutputText },
    #[serde(rename = "response.output_text.delta")]
    TextDelta { item_id: String, output_index: u32, content_index: u32, delta: String, logprobs: Vec<Logprob> },
    #[serde(rename = "response.output_text.done")]
    TextDone { item_id: String, output_index: u32, content_index: u32, text: String, logprobs: Vec<Logprob> },
    #[serde(rename = "response.content_part.done")]
    PartDone { item_id: String, output_index: u32, content_index: u32, part: OutputText },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { item_id: String, output_index: u32, delta: String },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone { item_id: String, output_index: u32, arguments: String },
    #[serde(rename = "response.reasoning_summary_part.added")]
    SummaryPartAdded { item_id: String, output_index: u32, summary_index: u32, part: SummaryText },
    #[serde(rename = "response.reasoning_summary_text.delta")]
    SummaryDelta { item_id: String, output_index: u32, summary_index: u32, delta: String },
    #[serde(rename = "response.reasoning_summary_text.done")]
    SummaryDone { item_id: String, output_index: u32, summary_index: u32, text: String },
    #[serde(rename = "response.reasoning_summary_part.done")]
    SummaryPartDone { item_id: String, output_index: u32, summary_index: u32, part: SummaryText },
    #[serde(rename = "response.output_item.done")]
    ItemDone { output_index: u32, item: OutputItem },
    #[serde(rename = "response.completed")]
    Completed { response: Box<Response> },
    #[serde(rename = "response.incomplete")]
    Incomplete { response: Box<Response> },
    #[serde(rename = "response.failed")]
    Failed { response: Box<Response> },
}

impl Event {
    /// Returns the response object if the event carries one.
    pub fn into_response(self) -> Option<Response> {
        match self {
            Self::Created { response }
            | Self::Queued { response }
            | Self::InProgress { response }
            | Self::Completed { response }
            | Self::Incomplete { response }
            | Self::Failed { response } => Some(*response),
            _ => None,
        }
    }

    /// Returns the event's `type`, which is also the SSE event name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::Queued { .. } => "response.queued",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::PartDone { .. } => "response.content_part.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Self::SummaryPartAdded { .. } => "response.reasoning_summary_part.added",
            Self::SummaryDelta { .. } => "response.reasoning_summary_text.delta",
            Self::SummaryDone { .. } => "response.reasoning_summary_text.done",
            Self::SummaryPartDone { .. } => "response.reasoning_summary_part.done",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
        }
    }
}

/// Extension events, sent only under the subprotocol `caudal.responses.v1`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "type")]
pub enum Extension<'a> {
    #[serde(rename = "caudal:session.created")]
    SessionCreated { connection_id: &'a str, limits: Limits, resume_window_ms: u64, heartbeat_ms: u64 },
    #[serde(rename = "caudal:response.resumed")]
    Resumed {
        response_id: &'a str,
        starting_after: Option<u64>,
        /// The number of the newest event of the response.
        last_sequence_number: u64,
        status: Status,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream_id: Option<&'a str>,
    },
    #[serde(rename = "caudal:response.queued")]
    Queued {
        response_id: &'a str,
        /// Position in the queue; the request at 1 starts next.
        position: usize,
        estimated_wait_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream_id: Option<&'a str>,
    },
    #[serde(rename = "caudal:conversation.turn")]
    ConversationTurn { conversation: &'a str, response_id: &'a str },
    #[serde(rename = "caudal:server.draining")]
    Draining { reconnect_after_ms: u64 },
    #[serde(rename = "caudal:pong")]
    Pong {},
}

/// The limits of one connection.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "ConnectionLimits")]
pub struct Limits {
    pub max_message_bytes: usize,
    /// Most lanes that may have work at the same time.
    pub max_in_flight: usize,
}

/// An event that is numbered by the connection's own counter.
#[derive(Debug, Serialize)]
pub struct ConnectionEvent<'a, E: Serialize> {
    #[serde(flatten)]
    pub event: E,
    pub sequence_number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<&'a str>,
}
