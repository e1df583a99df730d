//! The HTTP side of the Responses API.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde_json::Value;

use crate::{
    access::Identity,
    edge::{
        body::{JsonBody, parsed},
        error::{Answer, ApiError},
        extract::{Identified, Tenant},
        grants, headers, paging,
        query::Query,
        sse,
        state::Edge,
        traced::Traced,
    },
    generation::{Caller, Follow},
    render,
    store::OnDisconnect,
    wire::{error::WireError, object::Deleted, request::Create, response::Response},
};

pub async fn create(
    edge: web::Data<Edge>,
    traced: Traced,
    Identified(identity): Identified,
    JsonBody(body): JsonBody,
) -> Answer {
    let answer = try_create(&edge, &identity, body, traced).await;
    headers::rates(&edge, &identity, answer).await
}

async fn try_create(edge: &web::Data<Edge>, identity: &Arc<Identity>, body: Value, traced: Traced) -> Answer {
    let tenant = identity.tenant.as_str();
    let stream = match body.get("stream") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(stream)) => *stream,
        Some(_) => return Err(WireError::invalid("stream", "'stream' must be true or false.").into()),
    };
    let mut create = parsed(body, Create::from_value).await?;
    grants::hold(edge, identity, &mut create)?;
    let (background, ignored) = (create.background, create.ignored.clone());
    let caller = Caller::without_resume(traced.origin()).with_key(grants::limited_key(identity));
    let created = edge.generations.create(tenant, create, caller).await;
    let created = created.inspect_err(|error| traced.span.fail(error.code().0))?;
    // The `client_request_id` may belong to a response of another conversation.
    grants::check_response(edge, identity, &created.id).await?;
    let answer = if background && !stream {
        HttpResponse::Ok().json(edge.generations.retrieve(tenant, &created.id).await?)
    } else {
        let follow = edge.generations.follow(tenant, &created.id, None, OnDisconnect::Cancel).await?;
        if stream {
            sse::responses(edge, identity, follow, Some(traced))
        } else {
            HttpResponse::Ok().json(ended(follow).await?)
        }
    };
    Ok(headers::ignored(answer, &ignored))
}

/// Follows a response to its end. Returns the response of the last event.
///
/// # Errors
/// Those of the store, and `response_not_found` if the response is deleted meanwhile.
pub async fn ended(mut follow: Follow) -> Result<Response, WireError> {
    let mut last = None;
    while let Some(event) = follow.next().await {
        last = event?.1.into_response().or(last);
    }
    last.ok_or_else(|| WireError::ResponseNotFound(follow.id.clone()))
}

pub async fn retrieve(
    edge: web::Data<Edge>,
    Identified(identity): Identified,
    id: web::Path<String>,
    mut query: Query,
) -> Answer {
    let tenant = &identity.tenant;
    let (stream, after) = (query.flag("stream")?, query.number("starting_after")?);
    query.flag("include_obfuscation")?;
    query.includes()?;
    query.end()?;
    if stream {
        let follow = edge.generations.follow(tenant, &id, after, OnDisconnect::Cancel).await?;
        return Ok(sse::responses(&edge, &identity, follow, None));
    }
    Ok(HttpResponse::Ok().json(edge.generations.retrieve(tenant, &id).await?))
}

pub async fn cancel(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    let follow = edge.generations.follow(&tenant, &id, None, OnDisconnect::Cancel).await?;
    edge.generations.cancel(&tenant, &id).await?;
    Ok(HttpResponse::Ok().json(ended(follow).await?))
}

pub async fn delete(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    edge.generations.delete(&tenant, &id).await?;
    Ok(HttpResponse::Ok().json(Deleted { id: &id, object: "response", deleted: true }))
}

pub async fn input_items(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>, query: Query) -> Answer {
    let page = paging::page(query)?;
    let header = edge.generations.header(&tenant, &id).await?;
    let listed = paging::cut(render::input_items(&header), &page).map_err(ApiError)?;
    Ok(HttpResponse::Ok().json(paging::list(listed, |item| item)))
}
