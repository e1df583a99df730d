//! The limits of a key or a client secret: its models, its conversation, its output length. A client secret that is pinned to a
//! conversation may use only the routes that are named here.

use actix_web::{HttpRequest, http::Method};

use super::{refusal::refuse, state::Edge};
use crate::{
    access::Identity,
    engine::ModelInfo,
    generation::LimitedKey,
    settings::Scope,
    wire::{error::WireError, request::Create},
};

/// Routes whose `{id}` is compared with the pinned conversation.
const CONVERSATION_ROUTES: [&str; 3] =
    ["/v1/conversations/{id}", "/v1/conversations/{id}/items", "/v1/conversations/{id}/items/{item}"];
const RESPONSE_ROUTES: [&str; 3] =
    ["/v1/responses/{id}", "/v1/responses/{id}/cancel", "/v1/responses/{id}/input_items"];
/// Routes whose handler calls [`hold`].
const HELD: [&str; 1] = ["/v1/responses"];
const PUBLIC: [&str; 3] = ["/v1/models", "/v1/models/{id:.+}", "/v1/models/{id:.+}/file"];
/// Routes that run a model and do not call [`hold`].
const UNHELD: [&str; 1] = ["/v1/responses/compact"];

/// Returns the key of a request if the key has its own limits.
pub fn limited_key(identity: &Identity) -> Option<LimitedKey> {
    let id = identity.key.clone().filter(|_| !identity.limits.is_none())?;
    Some(LimitedKey { id, limits: identity.limits })
}

/// Checks that the pins of a client secret allow the route.
///
/// # Errors
/// `conversation_not_found` or `response_not_found` for another conversation; `insufficient_permissions` for a route that
/// pins do not allow.
pub async fn check_route(edge: &Edge, identity: &Identity, request: &HttpRequest) -> Result<(), WireError> {
    let route = request.match_pattern().unwrap_or_default();
    let route = route.as_str();
    let closed = |message: &str| {
        let error = WireError::InsufficientPermissions(message.to_owned());
        Err(refuse(request, "scope", Some(identity.tenant.clone()), error))
    };
    if UNHELD.contains(&route) && !(identity.models.is_empty() && identity.pins == Default::default()) {
        return closed(
            "This key is limited to some models, a conversation or an output length, and may not use this route.",
        );
    }
    let Some(pinned) = &identity.pins.conversation else { return Ok(()) };
    let id = request.match_info().get("id").unwrap_or_default();
    let reads = request.method() == Method::GET;
    if HELD.contains(&route) || PUBLIC.contains(&route) {
        return Ok(());
    }
    if CONVERSATION_ROUTES.contains(&route) && reads {
        return if id == pinned { Ok(()) } else { Err(WireError::ConversationNotFound(id.to_owned())) };
    }
    if RESPONSE_ROUTES.contains(&route) && request.method() != Method::DELETE {
        return check_response(edge, identity, id).await;
    }
    closed("This client secret is for one conversation, and may not use this route.")
}

/// Checks that the client may see a response. A client secret with a conversation may see only the responses of that
/// conversation.
///
/// # Errors
/// `response_not_found` for any other response, whether it exists or not.
pub async fn check_response(edge: &Edge, identity: &Identity, id: &str) -> Result<(), WireError> {
    let Some(pinned) = &identity.pins.conversation else { return Ok(()) };
    let header = edge.generations.header(&identity.tenant, id).await?;
    if header.spec.conversation.as_ref() == Some(pinned) {
        return Ok(());
    }
    Err(WireError::ResponseNotFound(id.to_owned()))
}

/// # Errors
/// `conversation_not_found` for any conversation except the pinned one.
pub fn check_conversation(identity: &Identity, id: &str) -> Result<(), WireError> {
    match &identity.pins.conversation {
        Some(pinned) if pinned != id => Err(WireError::ConversationNotFound(id.to_owned())),
        _ => Ok(()),
    }
}

/// Checks that the key of a socket has the scope for an event.
///
/// # Errors
/// `insufficient_permissions` if the key does not have the scope.
pub fn check_scope(identity: &Identity, scope: Scope) -> Result<(), WireError> {
    if identity.scopes.contains(&scope) {
        return Ok(());
    }
    Err(WireError::InsufficientPermissions(format!("This key does not have the scope '{}'.", scope.name())))
}

/// Applies the limits of the key and the client secret to a request: sets the fields that the request leaves open, and refuses
/// values beyond the limits.
///
/// # Errors
/// `insufficient_permissions`, and `conversation_not_found` for another conversation.
pub fn hold(edge: &Edge, identity: &Identity, create: &mut Create) -> Result<(), WireError> {
    hold_to_model(edge, identity, create)?;
    let pins = &identity.pins;
    if let Some(pinned) = &pins.conversation {
        if create.previous_response_id.is_some() {
            let message = "This client secret is for one conversation; leave out previous_response_id.";
            return Err(WireError::InsufficientPermissions(message.into()));
        }
        match &create.conversation {
            Some(id) => check_conversation(identity, id)?,
            None => create.conversation = Some(pinned.clone()),
        }
    }
    if let Some(most) = pins.max_output_tokens {
        if create.max_output_tokens.is_some_and(|asked| asked > most) {
            let message = format!("With this client secret 'max_output_tokens' is at most {most}.");
            return Err(WireError::InsufficientPermissions(message));
        }
        create.max_output_tokens.get_or_insert(most);
    }
    Ok(())
}

fn hold_to_model(edge: &Edge, identity: &Identity, create: &mut Create) -> Result<(), WireError> {
    let models = edge.generations.engine().models();
    match &create.model {
        Some(name) => match models.iter().find(|model| model.is_called(name)) {
            Some(model) => check_model(edge, identity, model),
            // Another check refuses a model that does not exist.
            None => Ok(()),
        },
        None if identity.models.is_empty() && identity.pins.model.is_none() => Ok(()),
        None => {
            let model = models.iter().find(|model| may_use(identity, model)).ok_or_else(|| no_model(identity))?;
            create.model = Some(model.id.clone());
            Ok(())
        }
    }
}

/// Returns whether a key or client secret may use a model.
pub fn may_use(identity: &Identity, model: &ModelInfo) -> bool {
    let by_key = identity.models.is_empty() || identity.models.iter().any(|name| model.is_called(name));
    by_key && identity.pins.model.as_ref().is_none_or(|name| model.is_called(name))
}

/// # Errors
/// `insufficient_permissions` for a model that the key or client secret may not use. The message names the permitted models.
pub fn check_model(edge: &Edge, identity: &Identity, model: &ModelInfo) -> Result<(), WireError> {
    if may_use(identity, model) {
        return Ok(());
    }
    let models = edge.generations.engine().models();
    let open: Vec<&str> =
        models.iter().filter(|model| may_use(identity, model)).map(|model| model.id.as_str()).collect();
    if open.is_empty() {
        return Err(no_model(identity));
    }
    let message = format!("This key may not use the model '{}', only {}.", model.id, quoted(&open));
    Err(WireError::InsufficientPermissions(message))
}

/// Returns the error of a key none of whose models is served.
fn no_model(identity: &Identity) -> WireError {
    let names: Vec<&str> = identity.models.iter().chain(&identity.pins.model).map(String::as_str).collect();
    WireError::InsufficientPermissions(format!("This key is for {}, and no such model is here.", quoted(&names)))
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
