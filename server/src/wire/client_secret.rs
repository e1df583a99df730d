//! `POST /v1/client_secrets`: the body and the answer, in OpenAI's shape.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::WireError,
    read::{check_id, read},
};

const SECONDS: std::ops::RangeInclusive<u64> = 10..=7200;
const DEFAULT_SECONDS: u64 = 600;

/// A validated request for a client secret.
#[derive(Debug, PartialEq)]
pub struct NewSecret {
    /// Seconds until the secret expires.
    pub seconds: u64,
    pub model: Option<String>,
    pub conversation: Option<String>,
    pub max_output_tokens: Option<u32>,
}

/// The body of `POST /v1/client_secrets`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ClientSecretCreateParams")]
pub struct SecretBody {
    expires_after: Option<ExpiresAfter>,
    session: Option<SessionBody>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExpiresAfter {
    #[serde(rename = "anchor")]
    _anchor: Option<Anchor>,
    /// Seconds until the secret expires. Default 600.
    #[schemars(range(min = 10, max = 7200))]
    seconds: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Anchor {
    CreatedAt,
}

/// Limits of the requests that use the secret.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ClientSecretSessionParams")]
struct SessionBody {
    /// Ignored. Other servers require the kind of the session.
    #[serde(rename = "type")]
    _kind: Option<Value>,
    #[schemars(length(min = 1, max = 256))]
    model: Option<String>,
    #[schemars(length(min = 1, max = 256))]
    conversation: Option<String>,
    #[schemars(range(min = 1))]
    max_output_tokens: Option<u32>,
}

/// A new client secret. Its value is in this answer only.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClientSecret {
    pub value: String,
    /// Unix seconds.
    pub expires_at: u64,
    pub session: SecretSession,
}

/// Limits of the requests that use the secret.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ClientSecretSession")]
pub struct SecretSession {
    #[schemars(extend("const" = "session"))]
    pub object: &'static str,
    #[serde(rename = "type")]
    #[schemars(extend("const" = "response"))]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
}

impl NewSecret {
    /// Parses the body. Without a body every field has its default.
    pub fn from_value(body: Option<Value>) -> Result<Self, WireError> {
        let body: SecretBody = body.filter(|body| !body.is_null()).map(read).transpose()?.unwrap_or_default();
        let seconds = body.expires_after.and_then(|after| after.seconds).unwrap_or(DEFAULT_SECONDS);
        if !SECONDS.contains(&seconds) {
            let message = "'expires_after.seconds' must be from 10 to 7200.";
            return Err(WireError::invalid("expires_after.seconds", message));
        }
        let SessionBody { model, conversation, max_output_tokens, .. } = body.session.unwrap_or_default();
        for (param, id) in [("session.model", &model), ("session.conversation", &conversation)] {
            id.as_deref().map(|id| check_id(param, id)).transpose()?;
        }
        if max_output_tokens == Some(0) {
            let message = "'session.max_output_tokens' must be at least 1.";
            return Err(WireError::invalid("session.max_output_tokens", message));
        }
        Ok(Self { seconds, model, conversation, max_output_tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_and_null_are_the_default() {
        let nulls = json!({"expires_after": {"anchor": null, "seconds": null}, "session": null, "odd": null});
        for body in [None, Some(json!(null)), Some(json!({})), Some(nulls)] {
            let secret = NewSecret::from_value(body).unwrap();
            assert_eq!((secret.seconds, secret.model), (600, None));
        }
    }

    #[test]
    fn errors_name_the_field() {
        for (body, expected) in [
            (json!({"expires_after": {"seconds": 9}}), "expires_after.seconds"),
            (json!({"expires_after": {"seconds": "10"}}), "expires_after.seconds"),
            (json!({"expires_after": {"anchor": "now"}}), "expires_after.anchor"),
            (json!({"expires_after": []}), "expires_after"),
            (json!({"session": {"model": ""}}), "session.model"),
            (json!({"session": {"max_output_tokens": 0}}), "session.max_output_tokens"),
            (json!({"session": {"colour": 1}}), "session.colour"),
            (json!({"colour": 1}), "colour"),
        ] {
            match NewSecret::from_value(Some(body.clone())) {
                Err(WireError::InvalidRequest { param: Some(param), .. }) => assert_eq!(param, expected, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
    }
}
