//! `POST /v1/client_secrets`: makes a short-lived secret for a browser, in OpenAI's shape.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::{
    access::client_secret::Pins,
    clock::unix_seconds,
    edge::{body::OptionalJson, error::Answer, extract::Identified, grants, refusal::refuse, state::Edge},
    generation::refusal::{Named, store_error},
    wire::{
        client_secret::{ClientSecret, NewSecret, SecretSession},
        error::WireError,
    },
};

pub async fn create(
    edge: web::Data<Edge>,
    Identified(identity): Identified,
    request: HttpRequest,
    OptionalJson(body): OptionalJson,
) -> Answer {
    let forbidden = |message: &str| {
        let error = WireError::InsufficientPermissions(message.to_owned());
        Err(refuse(&request, "scope", Some(identity.tenant.clone()), error).into())
    };
    if identity.is_client_secret {
        return forbidden("A client secret cannot make client secrets. Use an API key.");
    }
    if !edge.auth.access.has_keys() {
        return forbidden("Client secrets need keys. Set auth.mode = \"keys\".");
    }
    let NewSecret { seconds, model, conversation, max_output_tokens } = NewSecret::from_value(body)?;
    let pins = Pins { model, conversation, max_output_tokens };
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
        found.map_err(|error| store_error(error, Named::Conversation(conversation)))?;
    }
    let expires_at = identity.expires_at.map_or(u64::MAX, |at| at).min(unix_seconds() + seconds);
    let Some(value) = edge.auth.access.sign(&identity, pins.clone(), expires_at) else {
        return forbidden(
            "This key is too short to make client secrets. Set auth.token_secret, or use a key of `caudal key create`.",
        );
    };
    let Pins { model, conversation, max_output_tokens } = pins;
    let session = SecretSession { object: "session", kind: "response", model, conversation, max_output_tokens };
    tracing::info!(tenant = identity.tenant, key = identity.key, expires_at, "a client secret was made");
    Ok(HttpResponse::Ok().json(ClientSecret { value, expires_at, session }))
}

/// Makes a minimal request for a model, to check that the key may use the model.
fn probe(model: &str) -> Result<crate::wire::request::Create, WireError> {
    crate::wire::request::Create::from_value(json!({"model": model, "input": "x"}))
}
