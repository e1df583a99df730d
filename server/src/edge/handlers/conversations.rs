//! `/v1/conversations`: OpenAI's Conversations API, with a list of the tenant's conversations and a fork.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use crate::{
    edge::{
        body::{JsonBody, OptionalJson, parsed},
        error::Answer,
        extract::Tenant,
        paging::{list, page},
        query::Query,
        state::Edge,
    },
    generation::refusal::{Named, store_error},
    store::{conversations::Conversation, page::Listed},
    wire::{
        conversation::{ConversationObject, Fork, NewConversation, parse_metadata, parse_new_items},
        object::Deleted,
    },
};

fn object(conversation: Conversation) -> Value {
    let Conversation { id, created_at, metadata, .. } = conversation;
    json!(ConversationObject { id, object: "conversation", created_at, metadata })
}

pub async fn create(edge: web::Data<Edge>, Tenant(tenant): Tenant, OptionalJson(body): OptionalJson) -> Answer {
    let new = parsed(body.unwrap_or_default(), NewConversation::from_value).await?;
    let created = edge.generations.create_conversation(&tenant, new).await?;
    Ok(HttpResponse::Ok().json(object(created)))
}

pub async fn list_all(edge: web::Data<Edge>, Tenant(tenant): Tenant, query: Query) -> Answer {
    let page = page(query)?;
    let listed = edge.generations.conversations.list(&tenant, &page).await;
    Ok(HttpResponse::Ok().json(list(listed.map_err(|e| store_error(e, Named::Conversation("")))?, object)))
}

pub async fn retrieve(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    let found = edge.generations.conversations.get(&tenant, &id).await;
    Ok(HttpResponse::Ok().json(object(found.map_err(|e| store_error(e, Named::Conversation(&id)))?)))
}

pub async fn update(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    id: web::Path<String>,
    JsonBody(body): JsonBody,
) -> Answer {
    let updated = match parse_metadata(body)? {
        Some(metadata) => edge.generations.conversations.set_metadata(&tenant, &id, metadata).await,
        None => edge.generations.conversations.get(&tenant, &id).await,
    };
    Ok(HttpResponse::Ok().json(object(updated.map_err(|e| store_error(e, Named::Conversation(&id)))?)))
}

pub async fn delete(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    edge.generations.delete_conversation(&tenant, &id).await?;
    Ok(HttpResponse::Ok().json(Deleted { id: &id, object: "conversation.deleted", deleted: true }))
}

pub async fn fork(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    id: web::Path<String>,
    OptionalJson(body): OptionalJson,
) -> Answer {
    let fork = parsed(body.unwrap_or_default(), Fork::from_value).await?;
    let copy = edge.generations.fork_conversation(&tenant, &id, fork).await?;
    Ok(HttpResponse::Ok().json(object(copy)))
}

pub async fn append(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    id: web::Path<String>,
    JsonBody(body): JsonBody,
) -> Answer {
    let data = edge.generations.append_items(&tenant, &id, parsed(body, parse_new_items).await?).await?;
    Ok(HttpResponse::Ok().json(list(Listed { data, has_more: false }, |item| item.body)))
}

pub async fn items(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>, query: Query) -> Answer {
    let page = page(query)?;
    let listed = edge.generations.conversations.items(&tenant, &id, &page).await;
    Ok(HttpResponse::Ok().json(list(listed.map_err(|e| store_error(e, Named::Conversation(&id)))?, |item| item.body)))
}

pub async fn item(edge: web::Data<Edge>, Tenant(tenant): Tenant, path: web::Path<(String, String)>) -> Answer {
    let (id, item) = &*path;
    let found = edge.generations.conversations.item(&tenant, id, item).await;
    Ok(HttpResponse::Ok().json(found.map_err(|e| store_error(e, Named::Item { conversation: id, id: item }))?.body))
}

pub async fn remove_item(edge: web::Data<Edge>, Tenant(tenant): Tenant, path: web::Path<(String, String)>) -> Answer {
    let (id, item) = &*path;
    let left = edge.generations.conversations.remove_item(&tenant, id, item).await;
    Ok(HttpResponse::Ok().json(object(left.map_err(|e| store_error(e, Named::Item { conversation: id, id: item }))?)))
}
