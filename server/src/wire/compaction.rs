//! The item that a conversation is summed up to, which a later request can begin with.

use schemars::JsonSchema;
use serde::Serialize;

/// What the content of a compaction item begins with.
const PREFIX: &str = "caudal.1.";

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
