//! The errors that clients see, and the code, HTTP status and type of each.

use schemars::JsonSchema;
use serde::Serialize;

use super::shorten;

/// An error on the wire. Its `Display` is the message for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("The message is not valid JSON: {0}")]
    InvalidJson(String),
    #[error("The message is larger than {limit} bytes (server.max_message_bytes).")]
    MessageTooLarge { limit: usize },
    #[error("The rest of the body did not arrive in time (server.body_timeout_ms).")]
    BodyTimeout,
    #[error("The content type must be application/json.")]
    UnsupportedMediaType,
    #[error("The content encoding must be gzip, zstd or none.")]
    UnsupportedEncoding,
    /// The fault of the handshake.
    #[error("This address speaks WebSocket, version 13: {0}.")]
    UpgradeRequired(String),
    /// `param` names the field.
    #[error("{message}")]
    InvalidRequest { param: Option<String>, message: String },
    #[error("Previous response with id '{}' not found.", shorten(.0))]
    PreviousResponseNotFound(String),
    #[error("'stream_id' must be 1 to 256 characters of A-Z a-z 0-9 _ . -")]
    InvalidStreamId,
    #[error("{0}")]
    StreamLimit(String),
    #[error("This connection has reached its maximum age. Open a new one and resume.")]
    ConnectionLimit,
    #[error(
        "This model's maximum context length is {context} tokens, prompt and output together, and the prompt is too long: it has {prompt} tokens. Shorten the input."
    )]
    ContextLengthExceeded { prompt: usize, context: u32, field: &'static str },
    #[error("The model '{}' does not exist. GET /v1/models lists those that do.", shorten(.0))]
    ModelNotFound(String),
    #[error("The file of the model '{}' was replaced and has another SHA-256. A HEAD request without 'sha256' returns the new one as ETag.", shorten(.0))]
    FileReplaced(String),
    #[error("Response with id '{}' not found.", shorten(.0))]
    ResponseNotFound(String),
    #[error("Conversation with id '{}' not found.", shorten(.0))]
    ConversationNotFound(String),
    #[error("Item with id '{}' not found in this conversation.", shorten(.0))]
    ItemNotFound(String),
    /// `param` names the reference.
    #[error("Item with id '{}' not found.", shorten(.id))]
    ReferenceNotFound { id: String, param: String },
    #[error("Conversation '{}' has a turn in progress. Wait until it has ended, or cancel it.", shorten(.0))]
    ConversationBusy(String),
    #[error("Nothing runs in conversation '{}', and it has no response that can be resumed.", shorten(.0))]
    NothingToResume(String),
    #[error("Prompt with id '{}' not found, or it does not have that version.", shorten(.0))]
    PromptNotFound(String),
    #[error("The resume window of response '{}' has ended.", shorten(.0))]
    ResumeWindowExpired(String),
    #[error(
        "No valid API key was given. Send 'Authorization: Bearer KEY', or from a browser the subprotocol 'openai-insecure-api-key.SECRET' with a client secret."
    )]
    InvalidApiKey,
    #[error(
        "No valid key for /admin was given. Send 'Authorization: Bearer KEY' with auth.admin_key, or with a key that has the scope admin."
    )]
    InvalidAdminKey,
    #[error("{0}")]
    InsufficientPermissions(String),
    #[error(
        "This server does not answer to this host name. Without keys it accepts loopback names only; add others to server.hosts."
    )]
    Misdirected,
    #[error("The server has no room for this request now. Try again later.")]
    ServerOverloaded { retry_after_ms: u64 },
    #[error("The models are loading ({loaded} of {all} are there). Try again.")]
    Loading { loaded: usize, all: usize, retry_after_ms: u64 },
    #[error("{waiting} of your requests are waiting already. Try again later.")]
    RateLimitExceeded { waiting: usize, retry_after_ms: u64 },
    #[error(
        "Your requests that are not answered yet would have more than {most} bytes together. Wait until some are answered."
    )]
    TooMuchHeld { most: usize, retry_after_ms: u64 },
    #[error("You follow {most} streams already. End some, or wait until some have ended.")]
    TooManyFollows { most: usize, retry_after_ms: u64 },
    #[error("{who} may send {per_minute} requests a minute. Try again later.")]
    RequestRateExceeded { who: Limited, per_minute: u32, retry_after_ms: u64 },
    #[error("{who} may use {per_minute} tokens a minute, and has used more. Try again later.")]
    TokenRateExceeded { who: Limited, per_minute: u32, retry_after_ms: u64 },
    #[error("Your {of} has {most} open sockets already, which is the limit ({setting}). Close some.")]
    TooManySockets { of: &'static str, setting: &'static str, most: usize, retry_after_ms: u64 },
    #[error("A message did not arrive whole in time (server.body_timeout_ms).")]
    MessageTimeout,
    #[error("The key has expired or was revoked. Running responses continue; resume them with another key.")]
    KeyEnded,
    #[error("The server is shutting down. Reconnect.")]
    Draining { retry_after_ms: u64 },
    #[error("The engine failed while generating.")]
    EngineFailed,
    #[error(
        "This replica cannot read the response: a newer version of the server created it, or it is damaged. Try again later."
    )]
    LogVersion { retry_after_ms: u64 },
    /// `most` is the limit, with its unit.
    #[error(
        "{who} may store {most}, and this would be more. Delete some, or wait until the retention of some has ended."
    )]
    StorageQuotaExceeded { who: Limited, most: String },
    #[error("The store is full. Stored responses can still be read, cancelled and deleted. Try again later.")]
    StoreFull { retry_after_ms: u64 },
    #[error("The store cannot be reached. Try again later.")]
    StoreUnavailable { retry_after_ms: u64 },
}

/// The owner of a limit. Its `Display` begins a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    Tenant,
    Key,
}

impl std::fmt::Display for Limited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tenant => "You",
            Self::Key => "This key",
        })
    }
}

impl WireError {
    /// Makes an `invalid_request` that names the field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidRequest { param: Some(param.into()), message: message.into() }
    }

    /// Returns the error with the field's name changed from `from` to `to`, in `param` and in the message.
    pub fn renamed(self, from: &str, to: &str) -> Self {
        match self {
            Self::InvalidRequest { param: Some(param), message } => {
                let renamed = param.replacen(from, to, 1);
                Self::InvalidRequest { message: message.replace(&param, &renamed), param: Some(renamed) }
            }
            Self::ReferenceNotFound { id, param } => Self::ReferenceNotFound { id, param: param.replacen(from, to, 1) },
            other => other,
        }
    }

    /// Returns `error.code` and the HTTP status.
    pub fn code(&self) -> (&'static str, u16) {
        match self {
            Self::InvalidJson(_) => ("invalid_json", 400),
            Self::MessageTooLarge { .. } => ("message_too_large", 413),
            Self::BodyTimeout | Self::MessageTimeout => ("request_timeout", 408),
            Self::UnsupportedMediaType | Self::UnsupportedEncoding => ("unsupported_media_type", 415),
            Self::UpgradeRequired(_) => ("upgrade_required", 426),
            Self::InvalidRequest { .. } => ("invalid_request", 400),
            Self::PreviousResponseNotFound(_) => ("previous_response_not_found", 400),
            Self::InvalidStreamId => ("invalid_stream_id", 400),
            Self::StreamLimit(_) => ("websocket_stream_limit_reached", 400),
            Self::ConnectionLimit => ("websocket_connection_limit_reached", 400),
            Self::ContextLengthExceeded { .. } => ("context_length_exceeded", 400),
            Self::ModelNotFound(_) => ("model_not_found", 404),
            Self::FileReplaced(_) => ("file_not_found", 404),
            Self::ResponseNotFound(_) => ("response_not_found", 404),
            Self::NothingToResume(_) => ("response_not_found", 404),
            Self::ConversationNotFound(_) => ("conversation_not_found", 404),
            Self::ItemNotFound(_) | Self::ReferenceNotFound { .. } => ("item_not_found", 404),
            Self::ConversationBusy(_) => ("conversation_busy", 409),
            Self::PromptNotFound(_) => ("prompt_not_found", 404),
            Self::ResumeWindowExpired(_) => ("resume_window_expired", 410),
            Self::InvalidApiKey | Self::InvalidAdminKey | Self::KeyEnded => ("invalid_api_key", 401),
            Self::InsufficientPermissions(_) => ("insufficient_permissions", 403),
            Self::Misdirected => ("misdirected_request", 421),
            Self::ServerOverloaded { .. } | Self::Loading { .. } | Self::Draining { .. } => ("server_overloaded", 503),
            Self::RateLimitExceeded { .. }
            | Self::RequestRateExceeded { .. }
            | Self::TokenRateExceeded { .. }
            | Self::TooMuchHeld { .. }
            | Self::TooManySockets { .. }
            | Self::TooManyFollows { .. } => ("rate_limit_exceeded", 429),
            Self::EngineFailed => ("engine_failed", 500),
            Self::LogVersion { .. } => ("log_version_unsupported", 503),
            Self::StorageQuotaExceeded { .. } => ("storage_quota_exceeded", 429),
            Self::StoreFull { .. } => ("store_full", 503),
            Self::StoreUnavailable { .. } => ("store_unavailable", 503),
        }
    }

    /// Milliseconds after which the client may retry; `None` if a retry cannot help.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::ServerOverloaded { retry_after_ms }
            | Self::Loading { retry_after_ms, .. }
            | Self::RateLimitExceeded { retry_after_ms, .. }
            | Self::RequestRateExceeded { retry_after_ms, .. }
            | Self::TokenRateExceeded { retry_after_ms, .. }
            | Self::TooMuchHeld { retry_after_ms, .. }
            | Self::TooManyFollows { retry_after_ms, .. }
            | Self::TooManySockets { retry_after_ms, .. }
            | Self::Draining { retry_after_ms }
            | Self::LogVersion { retry_after_ms }
            | Self::StoreFull { retry_after_ms }
            | Self::StoreUnavailable { retry_after_ms } => Some(*retry_after_ms),
            _ => None,
        }
    }

    /// Returns the limit that was reached, as a label of the metrics; `None` if the error is not about a limit.
    pub fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::MessageTooLarge { .. } => "message_bytes",
            Self::StreamLimit(_) => "connection",
            Self::ContextLengthExceeded { .. } => "context_length",
            Self::ServerOverloaded { .. } => "queue",
            Self::RateLimitExceeded { .. } => "tenant_queue",
            Self::TooMuchHeld { .. } => "tenant_bytes_in_flight",
            Self::TooManyFollows { .. } => "tenant_streams",
            Self::TooManySockets { of, .. } if *of == "address" => "address_sockets",
            Self::TooManySockets { .. } => "tenant_sockets",
            Self::RequestRateExceeded { who: Limited::Tenant, .. } => "tenant_requests",
            Self::RequestRateExceeded { who: Limited::Key, .. } => "key_requests",
            Self::TokenRateExceeded { who: Limited::Tenant, .. } => "tenant_tokens",
            Self::TokenRateExceeded { who: Limited::Key, .. } => "key_tokens",
            Self::StorageQuotaExceeded { who: Limited::Tenant, .. } => "tenant_storage",
            Self::StorageQuotaExceeded { who: Limited::Key, .. } => "key_storage",
            Self::StoreFull { .. } => "store",
            _ => return None,
        })
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::InvalidRequest { param, .. } => param.as_deref(),
            Self::PreviousResponseNotFound(_) => Some("previous_response_id"),
            Self::ReferenceNotFound { param, .. } => Some(param),
            Self::UnsupportedMediaType => Some("content-type"),
            Self::UnsupportedEncoding => Some("content-encoding"),
            Self::UpgradeRequired(_) => Some("upgrade"),
            Self::InvalidStreamId => Some("stream_id"),
            Self::FileReplaced(_) => Some("sha256"),
            Self::ModelNotFound(_) => Some("model"),
            Self::ConversationNotFound(_) | Self::ConversationBusy(_) | Self::NothingToResume(_) => {
                Some("conversation")
            }
            Self::PromptNotFound(_) => Some("prompt"),
            Self::ContextLengthExceeded { field, .. } => Some(field),
            _ => None,
        }
    }

    /// Returns the `error` object of HTTP bodies and of the WebSocket event.
    pub fn body(&self) -> ErrorBody<'_> {
        let (code, status) = self.code();
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        ErrorBody { kind, code, message: self.to_string(), param: self.param() }
    }
}

/// `{type, code, message, param}`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ApiError")]
pub struct ErrorBody<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub code: &'static str,
    pub message: String,
    pub param: Option<&'a str>,
}

/// The `error` event of a WebSocket.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorEvent<'a> {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "error"))]
    kind: &'static str,
    status: u16,
    error: ErrorBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
}

impl<'a> ErrorEvent<'a> {
    pub fn new(error: &'a WireError, stream_id: Option<&'a str>) -> Self {
        Self {
            kind: "error",
            status: error.code().1,
            error: error.body(),
            retry_after_ms: error.retry_after_ms(),
            stream_id,
        }
    }
}
