//! What a key or a client secret is held to: its models, its conversation, its length of outputs. A route that is not named here
//! is closed to client secrets of one conversation.

use actix_web::{HttpRequest, http::Method};

use super::{refusal::refuse, state::Edge};
use crate::{
    access::Identity,
    engine::ModelInfo,
    generation::LimitedKey,
    settings::Scope,
    wire::{error::WireError, request::Create},
};

/// Where a request names what a pin is compared with.
const CONVERSATION_ROUTES: [&str; 3] =
    ["/v1/conversations/{id}", "/v1/conversations/{id}/items", "/v1/conversations/{id}/items/{item}"];
const RESPONSE_ROUTES: [&str; 3] =
    ["/v1/responses/{id}", "/v1/responses/{id}/cancel", "/v1/responses/{id}/input_items"];
/// Routes on which a handler compares.
const HELD: [&str; 1] = ["/v1/responses"];
const PUBLIC: [&str; 3] = ["/v1/models", "/v1/models/{id:.+}", "/v1/models/{id:.+}/file"];
/// Routes that run a model without [`hold`].
const UNHELD: [&str; 1] = ["/v1/responses/compact"];

/// The key of a request, where that key has limits of its own.
pub fn limited_key(identity: &Identity) -> Option<LimitedKey> {
    let id = identity.key.clone().filter(|_| !identity.limits.is_none())?;
    Some(LimitedKey { id, limits: identity.limits })
}

/// Checks a route against the pins.
///
/// # Errors
/// What is another conversation's does not exist; a route that cannot be pinned is closed.
pub async fn check_route(edge: &Edge, identity: &Identity, request: &HttpRequest) -> Result<(), WireError> {
    let route = request.match_pattern().unwrap_or_default();
    let route = route.as_str();
    let closed = |message: &str| {
        let error = WireError::InsufficientPermissions(message.to_owned());
        Err(refuse(request, "scope", Some(identity.tenant.clone()), error))
    };
    if UNHELD.contains(&route) && !(identity.models.is_empty() && identity.pins == Default::default()) {
        return closed("This key is held to models, and this route is not.");
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
    closed("This client secret is for one conversation, and this route is not.")
}

/// Whether a response may be seen: with a client secret of one conversation, only that conversation's.
///
/// # Errors
/// `response_not_found` for others, as for one that does not exist.
pub async fn check_response(edge: &Edge, identity: &Identity, id: &str) -> Result<(), WireError> {
    let Some(pinned) = &identity.pins.conversation else { return Ok(()) };
    let header = edge.generations.header(&identity.tenant, id).await?;
    if header.spec.conversation.as_ref() == Some(pinned) {
        return Ok(());
    }
    Err(WireError::ResponseNotFound(id.to_owned()))
}

/// # Errors
/// `conversation_not_found` for another than the pinned one.
pub fn check_conversation(identity: &Identity, id: &str) -> Result<(), WireError> {
    match &identity.pins.conversation {
        Some(pinned) if pinned != id => Err(WireError::ConversationNotFound(id.to_owned())),
        _ => Ok(()),
    }
}

/// Whether what was asked for over a socket may be done at all.
///
/// # Errors
/// `insufficient_permissions` without the scope.
pub fn check_scope(identity: &Identity, scope: Scope) -> Result<(), WireError> {
    if identity.scopes.contains(&scope) {
        return Ok(());
    }
    Err(WireError::InsufficientPermissions(format!("This key has not the scope '{}'.", scope.name())))
}

/// Holds a request to what its key and client secret are for: what it leaves open is set, what it asks beyond is refused.
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
            // A model that does not exist is refused as such.
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

/// Whether a model is open to a key or client secret.
pub fn may_use(identity: &Identity, model: &ModelInfo) -> bool {
    let by_key = identity.models.is_empty() || identity.models.iter().any(|name| model.is_called(name));
    by_key && identity.pins.model.as_ref().is_none_or(|name| model.is_called(name))
}

/// # Errors
/// `insufficient_permissions` for a model that the key or client secret may not use. Names those that it may.
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

/// None of the models that a key is for is served.
fn no_model(identity: &Identity) -> WireError {
    let names: Vec<&str> = identity.models.iter().chain(&identity.pins.model).map(String::as_str).collect();
    WireError::InsufficientPermissions(format!("This key is for {}, and no such model is here.", quoted(&names)))
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
