//! `/v1/conversations`: OpenAI's Conversations API, and a list of a tenant's.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    Edge,
    api::{Answer, JsonBody},
    auth::Tenant,
    paging::{PageQuery, list},
};
use crate::{
    generation::{conversations::conversation_error, items::new_items},
    store::{
        conversations::{Conversation, ConversationError},
        page::Listed,
    },
    wire::{
        conversation::{ConversationObject, NewConversation, parse_metadata, parse_new_items},
        error::WireError,
    },
};

pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/conversations", web::post().to(create))
        .route("/conversations", web::get().to(list_all))
        .route("/conversations/{id}", web::get().to(retrieve))
        .route("/conversations/{id}", web::post().to(update))
        .route("/conversations/{id}", web::delete().to(delete))
        .route("/conversations/{id}/items", web::post().to(append))
        .route("/conversations/{id}/items", web::get().to(items))
        .route("/conversations/{id}/items/{item}", web::get().to(item))
        .route("/conversations/{id}/items/{item}", web::delete().to(remove_item));
}

fn object(conversation: Conversation) -> Value {
    let Conversation { id, created_at, metadata, .. } = conversation;
    json!(ConversationObject { id, object: "conversation", created_at, metadata })
}

fn item_error(error: ConversationError, id: &str, item: &str) -> WireError {
    match error {
        ConversationError::ItemNotFound => WireError::ItemNotFound(item.into()),
        other => conversation_error(other, id),
    }
}

async fn create(edge: web::Data<Edge>, Tenant(tenant): Tenant, body: Option<JsonBody>) -> Answer {
    let new = NewConversation::from_value(body.map_or(Value::Null, |JsonBody(body)| body))?;
    let created = edge.generations.create_conversation(&tenant, new).await?;
    Ok(HttpResponse::Ok().json(object(created)))
}

async fn list_all(edge: web::Data<Edge>, Tenant(tenant): Tenant, query: web::Query<PageQuery>) -> Answer {
    let page = query.into_inner().page()?;
    let listed = edge.generations.conversations.list(&tenant, &page).await;
    Ok(HttpResponse::Ok().json(list(listed.map_err(|e| conversation_error(e, ""))?, object)))
}

async fn retrieve(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    let found = edge.generations.conversations.get(&tenant, &id).await;
    Ok(HttpResponse::Ok().json(object(found.map_err(|e| conversation_error(e, &id))?)))
}

async fn update(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    id: web::Path<String>,
    JsonBody(body): JsonBody,
) -> Answer {
    let updated = edge.generations.conversations.set_metadata(&tenant, &id, parse_metadata(body)?).await;
    Ok(HttpResponse::Ok().json(object(updated.map_err(|e| conversation_error(e, &id))?)))
}

async fn delete(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    edge.generations.delete_conversation(&tenant, &id).await?;
    Ok(HttpResponse::Ok().json(json!({"id": *id, "object": "conversation.deleted", "deleted": true})))
}

async fn append(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    id: web::Path<String>,
    JsonBody(body): JsonBody,
) -> Answer {
    let data = new_items(&parse_new_items(body)?);
    let appended = edge.generations.conversations.append(&tenant, &id, data.clone()).await;
    appended.map_err(|e| conversation_error(e, &id))?;
    Ok(HttpResponse::Ok().json(list(Listed { data, has_more: false }, |item| item.body)))
}

async fn items(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    id: web::Path<String>,
    query: web::Query<PageQuery>,
) -> Answer {
    let page = query.into_inner().page()?;
    let listed = edge.generations.conversations.items(&tenant, &id, &page).await;
    Ok(HttpResponse::Ok().json(list(listed.map_err(|e| conversation_error(e, &id))?, |item| item.body)))
}

async fn item(edge: web::Data<Edge>, Tenant(tenant): Tenant, path: web::Path<(String, String)>) -> Answer {
    let (id, item) = &*path;
    let found = edge.generations.conversations.item(&tenant, id, item).await;
    Ok(HttpResponse::Ok().json(found.map_err(|e| item_error(e, id, item))?.body))
}

async fn remove_item(edge: web::Data<Edge>, Tenant(tenant): Tenant, path: web::Path<(String, String)>) -> Answer {
    let (id, item) = &*path;
    let left = edge.generations.conversations.remove_item(&tenant, id, item).await;
    Ok(HttpResponse::Ok().json(object(left.map_err(|e| item_error(e, id, item))?)))
}
