//! The Conversations API on the wire: bodies and objects.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::WireError,
    input::{InputItem, ItemBody, parse_input},
    metadata::{check_metadata, metadata_value},
    read::read,
};

/// Most items in one request; OpenAI's limit.
const MAX_ITEMS: usize = 20;

/// A conversation as clients see it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Conversation")]
pub struct ConversationObject {
    pub id: String,
    /// `conversation`
    #[schemars(extend("const" = "conversation"))]
    pub object: &'static str,
    pub created_at: u64,
    pub metadata: BTreeMap<String, String>,
}

/// A validated `POST /v1/conversations`.
#[derive(Debug, Default, PartialEq)]
pub struct NewConversation {
    pub items: Vec<InputItem>,
    pub metadata: BTreeMap<String, String>,
}

/// The body of `POST /v1/conversations`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConversationCreateParams")]
pub struct CreateBody {
    /// The first items of the conversation.
    #[schemars(with = "Option<Vec<ItemBody>>", length(max = 20))]
    items: Option<Vec<Value>>,
    /// Up to 16 pairs, keys of 64 characters, values of 512.
    #[schemars(extend("maxProperties" = 16, "propertyNames" = {"maxLength": 64}, "additionalProperties" = metadata_value()))]
    metadata: Option<BTreeMap<String, String>>,
}

/// The body of `POST /v1/conversations/{id}`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConversationUpdateParams")]
pub struct UpdateBody {
    /// The new metadata, which replaces the old.
    #[schemars(extend("maxProperties" = 16, "propertyNames" = {"maxLength": 64}, "additionalProperties" = metadata_value()))]
    metadata: Option<BTreeMap<String, String>>,
}

/// A validated `POST /v1/conversations/{id}/fork`.
#[derive(Debug, Default, PartialEq)]
pub struct Fork {
    /// The id of the item before which the copy ends. `None` copies all items.
    pub before: Option<String>,
    /// Metadata of the copy. `None` copies the metadata of the original.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// The body of `POST /v1/conversations/{id}/fork`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConversationForkParams")]
pub struct ForkBody {
    /// The id of the item before which the copy ends. Default: all items are copied.
    before: Option<String>,
    /// Metadata of the copy. Default: the metadata of the original.
    metadata: Option<BTreeMap<String, String>>,
}

/// The body of `POST /v1/conversations/{id}/items`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConversationItemsParams")]
pub struct AppendBody {
    #[schemars(with = "Vec<ItemBody>", length(min = 1, max = 20))]
    items: Vec<Value>,
}

impl NewConversation {
    pub fn from_value(value: Value) -> Result<Self, WireError> {
        if value.is_null() {
            return Ok(Self::default());
        }
        let body: CreateBody = read(value)?;
        let items = match body.items {
            Some(items) if !items.is_empty() => parse_items(items)?,
            _ => vec![],
        };
        Ok(Self { items, metadata: check_metadata(body.metadata.unwrap_or_default())? })
    }
}

/// Parses the body of `POST /v1/conversations/{id}`. `None` leaves the metadata unchanged.
pub fn parse_metadata(value: Value) -> Result<Option<BTreeMap<String, String>>, WireError> {
    let body: UpdateBody = read(value)?;
    body.metadata.map(check_metadata).transpose()
}

impl Fork {
    pub fn from_value(value: Value) -> Result<Self, WireError> {
        if value.is_null() {
            return Ok(Self::default());
        }
        let ForkBody { before, metadata } = read(value)?;
        Ok(Self { before, metadata: metadata.map(check_metadata).transpose()? })
    }
}

/// Parses the body of `POST /v1/conversations/{id}/items`.
pub fn parse_new_items(value: Value) -> Result<Vec<InputItem>, WireError> {
    let body: AppendBody = read(value)?;
    parse_items(body.items)
}

fn parse_items(items: Vec<Value>) -> Result<Vec<InputItem>, WireError> {
    if items.is_empty() {
        return Err(WireError::invalid("items", "'items' has no items."));
    }
    if items.len() > MAX_ITEMS {
        return Err(WireError::invalid("items", format!("A request may have at most {MAX_ITEMS} items.")));
    }
    parse_input(Value::Array(items)).map_err(|error| error.renamed("input", "items"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_name_the_field() {
        for (body, expected) in [
            (json!({"items": [{"role": "cook", "content": "x"}]}), "items[0].role"),
            (json!({"items": vec![json!({"role": "user", "content": "x"}); 21]}), "items"),
            (json!({"items": 5}), "items"),
            (json!({"metadata": {"a": 1}}), "metadata.a"),
            (json!({"colour": 1}), "colour"),
        ] {
            match NewConversation::from_value(body.clone()) {
                Err(WireError::InvalidRequest { param: Some(param), .. }) => assert_eq!(param, expected, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        assert_eq!(NewConversation::from_value(json!(null)).unwrap(), NewConversation::default());
    }
}
