//! `POST /v1/responses/compact`: a conversation becomes a summary, which a later request can begin with.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{error::WireError, request::Create, response::Usage};

/// What the content of a compaction item begins with.
const PREFIX: &str = "caudal.1.";

/// A conversation as the one item that it was summed up to.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Compaction")]
pub struct Compacted {
    pub id: String,
    /// `response.compaction`
    #[schemars(extend("const" = "response.compaction"))]
    pub object: &'static str,
    /// Unix seconds.
    pub created_at: u64,
    pub output: [CompactionItem; 1],
    pub usage: Option<Usage>,
}

/// The item that stands in place of all that was said.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CompactionItem {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "compaction"))]
    kind: &'static str,
    pub id: String,
    /// The summary, opaque to clients.
    encrypted_content: String,
}

impl CompactionItem {
    pub fn new(id: String, summary: &str) -> Self {
        Self { kind: "compaction", id, encrypted_content: format!("{PREFIX}{}", hex::encode(summary)) }
    }
}

/// What a compaction item says to the model; `None` for content that this server did not make.
pub fn summary(content: &str) -> Option<String> {
    String::from_utf8(hex::decode(content.strip_prefix(PREFIX)?).ok()?).ok()
}

/// Reads the body: that of a response, of which only what determines the prompt has a meaning here.
///
/// # Errors
/// `invalid_request`, as for a response.
pub fn parse_compact(body: Value) -> Result<Create, WireError> {
    let create = Create::from_value(body)?;
    if create.conversation.is_some() {
        return Err(WireError::invalid(
            "conversation",
            "A conversation cannot be compacted; send its items as 'input'.",
        ));
    }
    Ok(create)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_back_and_other_content_is_refused() {
        let item = CompactionItem::new("cmp_1".into(), "they met in Porto, é");
        assert_eq!(summary(&item.encrypted_content).as_deref(), Some("they met in Porto, é"));
        for other in ["", "caudal.1.zz", "gAAAAABk"] {
            assert_eq!(summary(other), None);
        }
    }
}
