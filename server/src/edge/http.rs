//! The HTTP side of the Responses API.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    api::{Answer, ApiError, JsonBody},
    auth::Tenant,
    models, sse,
};
use crate::{
    render,
    wire::{error::WireError, request::Create},
};

pub fn routes(config: &mut web::ServiceConfig) {
    let query = web::QueryConfig::default()
        .error_handler(|error, _| ApiError(WireError::invalid("query", error.to_string())).into());
    config
        .app_data(query)
        .default_service(web::to(unknown))
        .route("/models", web::get().to(models::list))
        .route("/models/{id:.+}", web::get().to(models::one))
        .route("/responses", web::post().to(create))
        .route("/responses/{id}", web::get().to(retrieve))
        .route("/responses/{id}", web::delete().to(delete))
        .route("/responses/{id}/cancel", web::post().to(cancel))
        .route("/responses/{id}/input_items", web::get().to(input_items));
}

pub async fn unknown(request: HttpRequest) -> Answer {
    let (method, path) = (request.method(), request.path());
    Ok(HttpResponse::NotFound().json(json!({"error": {"type": "invalid_request_error", "code": "not_found",
        "message": format!("There is no {method} {path} here."), "param": null}})))
}

async fn create(edge: web::Data<Edge>, Tenant(tenant): Tenant, JsonBody(body): JsonBody) -> Answer {
    let stream = match body.get("stream") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(stream)) => *stream,
        Some(_) => return Err(WireError::invalid("stream", "'stream' must be true or false.").into()),
    };
    let created = edge.generations.create(&tenant, Create::from_value(body)?, None).await?;
    let mut follow = edge.generations.follow(&tenant, &created.id, None).await?;
    if stream {
        return Ok(sse::responses(follow));
    }
    while let Some(event) = follow.next().await {
        event?;
    }
    Ok(HttpResponse::Ok().json(edge.generations.retrieve(&tenant, &created.id).await?))
}

#[derive(Deserialize)]
struct Retrieve {
    stream: Option<bool>,
    starting_after: Option<u64>,
}

async fn retrieve(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    id: web::Path<String>,
    query: web::Query<Retrieve>,
) -> Answer {
    if query.stream == Some(true) {
        return Ok(sse::responses(edge.generations.follow(&tenant, &id, query.starting_after).await?));
    }
    Ok(HttpResponse::Ok().json(edge.generations.retrieve(&tenant, &id).await?))
}

async fn cancel(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    let mut follow = edge.generations.follow(&tenant, &id, None).await?;
    edge.generations.cancel(&tenant, &id).await?;
    while let Some(event) = follow.next().await {
        event?;
    }
    Ok(HttpResponse::Ok().json(edge.generations.retrieve(&tenant, &id).await?))
}

async fn delete(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    edge.generations.delete(&tenant, &id).await?;
    Ok(HttpResponse::Ok().json(json!({"id": *id, "object": "response", "deleted": true})))
}

async fn input_items(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    let header = edge.generations.input(&tenant, &id).await?;
    let data = render::input_items(&header);
    let (first, last) = (data.first().map(|i| i["id"].clone()), data.last().map(|i| i["id"].clone()));
    Ok(HttpResponse::Ok()
        .json(json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false})))
}
