//! `POST /v1/chat/completions`.

use actix_web::{HttpResponse, web};

use super::{
    Edge,
    api::{Answer, JsonBody},
    auth::Tenant,
    sse,
};
use crate::{
    render::chat,
    wire::{
        chat::{ChatRequest, renamed},
        error::WireError,
        response::Status,
    },
};

pub async fn create(edge: web::Data<Edge>, Tenant(tenant): Tenant, JsonBody(body): JsonBody) -> Answer {
    let chat = ChatRequest::from_value(body)?;
    let created = edge.generations.create(&tenant, chat.create, None).await.map_err(renamed)?;
    let mut follow = edge.generations.follow(&tenant, &created.id, None).await?;
    if chat.stream {
        let response = edge.generations.retrieve(&tenant, &created.id).await?;
        return Ok(sse::chunks(follow, response, chat.include_usage));
    }
    while let Some(event) = follow.next().await {
        event?;
    }
    let response = edge.generations.retrieve(&tenant, &created.id).await?;
    if response.status == Status::Failed {
        return Err(WireError::EngineFailed.into());
    }
    Ok(HttpResponse::Ok().json(chat::completion(&response)))
}
