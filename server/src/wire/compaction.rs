//! The compaction item: a summary of a conversation, with which a later request can begin.

use schemars::JsonSchema;
use serde::Serialize;

/// The prefix of `encrypted_content`, with the version of the encoding.
const PREFIX: &str = "caudal.1.";

/// A summary that replaces the items of a conversation.
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

/// Decodes the summary from `encrypted_content`. Returns `None` if this server did not make the content.
pub fn summary(content: &str) -> Option<String> {
    String::from_utf8(hex::decode(content.strip_prefix(PREFIX)?).ok()?).ok()
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
