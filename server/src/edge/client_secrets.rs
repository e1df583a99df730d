//! `POST /v1/client_secrets`: a server with a key makes a short-lived secret for a browser, in the shape of OpenAI's.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Map, Value, json};

use super::{
    Edge,
    api::{Answer, JsonBody},
    auth::{Identified, refuse},
    grants,
};
use crate::{
    access::{client_secret::Pins, now},
    wire::error::WireError,
};

/// How long a secret may live, and how long it does where the request says nothing, in seconds.
const SECONDS: std::ops::RangeInclusive<u64> = 10..=7200;
const DEFAULT_SECONDS: u64 = 600;

pub async fn create(
    edge: web::Data<Edge>,
    Identified(identity): Identified,
    request: HttpRequest,
    JsonBody(body): JsonBody,
) -> Answer {
    let forbidden = |message: &str| {
        let error = WireError::InsufficientPermissions(message.to_owned());
        Err(refuse(&request, "scope", Some(identity.tenant.clone()), error).into())
    };
    if identity.is_client_secret {
        return forbidden("A client secret makes no client secrets. Use the server's key.");
    }
    if !edge.auth.access.has_keys() {
        return forbidden("Without keys there are no client secrets. Set auth.mode = \"keys\".");
    }
    let (seconds, pins) = parse(body)?;
    if let Some(model) = &pins.model {
        let models = edge.generations.engine().models();
        if !models.iter().any(|known| known.is_called(model)) {
            return Err(WireError::ModelNotFound(model.clone()).into());
        }
        let mut probe = probe(model)?;
        grants::hold(&edge, &identity, &mut probe)?;
    }
    if let Some(conversation) = &pins.conversation {
        let found = edge.generations.conversations.get(&identity.tenant, conversation).await;
        found.map_err(|error| crate::generation::conversations::conversation_error(error, conversation))?;
    }
    let expires_at = identity.expires_at.map_or(u64::MAX, |at| at).min(now() + seconds);
    let Some(value) = edge.auth.access.sign(&identity, pins.clone(), expires_at) else {
        return forbidden(
            "This key is too short to make client secrets. Set auth.token_secret, or use a key of `caudal key create`.",
        );
    };
    let mut session = json!({"object": "session", "type": "response"});
    if let (Some(session), Value::Object(pins)) = (session.as_object_mut(), json!(pins)) {
        session.extend(pins);
    }
    tracing::info!(tenant = identity.tenant, key = identity.key, expires_at, "a client secret was made");
    Ok(HttpResponse::Ok().json(json!({"value": value, "expires_at": expires_at, "session": session})))
}

/// A request for a model and nothing else, to be held to a key's models.
fn probe(model: &str) -> Result<crate::wire::request::Create, WireError> {
    crate::wire::request::Create::from_value(json!({"model": model, "input": "x"}))
}

/// Seconds and pins.
fn parse(body: Value) -> Result<(u64, Pins), WireError> {
    let Value::Object(mut body) = body else {
        return Err(WireError::InvalidRequest { param: None, message: "The body must be an object.".into() });
    };
    let mut seconds = DEFAULT_SECONDS;
    if let Some(mut after) = object(&mut body, "expires_after")? {
        if after.remove("anchor").is_some_and(|anchor| anchor != "created_at") {
            return Err(WireError::invalid("expires_after.anchor", "'expires_after.anchor' must be created_at."));
        }
        if let Some(given) = after.remove("seconds") {
            seconds = given.as_u64().filter(|seconds| SECONDS.contains(seconds)).ok_or_else(|| {
                WireError::invalid("expires_after.seconds", "'expires_after.seconds' must be from 10 to 7200.")
            })?;
        }
        nothing_else(&after, "expires_after.")?;
    }
    let mut pins = Pins::default();
    if let Some(mut session) = object(&mut body, "session")? {
        // The kind of a session, which other servers want.
        session.remove("type");
        pins.model = text(&mut session, "model")?;
        pins.conversation = text(&mut session, "conversation")?;
        pins.max_output_tokens = match session.remove("max_output_tokens") {
            None | Some(Value::Null) => None,
            Some(given) => {
                let most = given.as_u64().and_then(|most| u32::try_from(most).ok()).filter(|most| *most > 0);
                let message = "'session.max_output_tokens' must be a positive number.";
                Some(most.ok_or_else(|| WireError::invalid("session.max_output_tokens", message))?)
            }
        };
        nothing_else(&session, "session.")?;
    }
    nothing_else(&body, "")?;
    Ok((seconds, pins))
}

fn object(body: &mut Map<String, Value>, name: &str) -> Result<Option<Map<String, Value>>, WireError> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(WireError::invalid(name, format!("'{name}' must be an object."))),
    }
}

fn text(session: &mut Map<String, Value>, name: &str) -> Result<Option<String>, WireError> {
    match session.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if (1..=256).contains(&text.len()) => Ok(Some(text)),
        Some(_) => {
            let name = format!("session.{name}");
            let message = format!("'{name}' must be a string of 1 to 256 bytes.");
            Err(WireError::invalid(name, message))
        }
    }
}

fn nothing_else(object: &Map<String, Value>, prefix: &str) -> Result<(), WireError> {
    match object.keys().next() {
        None => Ok(()),
        Some(name) => {
            let name = format!("{prefix}{}", name.chars().take(100).collect::<String>());
            let message = format!("'{name}' is not known here.");
            Err(WireError::invalid(name, message))
        }
    }
}
