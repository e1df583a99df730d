//! `/v1/prompts`: stored prompts.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use crate::{
    edge::{
        body::{JsonBody, parsed},
        error::Answer,
        extract::Tenant,
        paging::{list, page},
        query::Query,
        state::Edge,
    },
    generation::refusal::{Named, store_error},
    store::prompts::StoredPrompt,
    wire::{
        error::WireError,
        input::InputMessage,
        object::{Deleted, PromptMessage, PromptObject},
        prompt::{PutPrompt, parse_version},
    },
};

fn object(prompt: StoredPrompt) -> Value {
    let StoredPrompt { id, version, created_at, template, .. } = prompt;
    let message = |message: InputMessage| PromptMessage { role: message.role, content: message.text };
    json!(PromptObject {
        id,
        object: "prompt",
        version: version.to_string(),
        created_at,
        name: template.name,
        instructions: template.instructions,
        messages: template.messages.into_iter().map(message).collect(),
        variables: template.variables.into_iter().collect(),
    })
}

pub async fn put(edge: web::Data<Edge>, Tenant(tenant): Tenant, JsonBody(body): JsonBody) -> Answer {
    let stored = edge.generations.put_prompt(&tenant, parsed(body, PutPrompt::from_value).await?).await?;
    Ok(HttpResponse::Ok().json(object(stored)))
}

pub async fn list_all(edge: web::Data<Edge>, Tenant(tenant): Tenant, query: Query) -> Answer {
    let page = page(query)?;
    let listed = edge.generations.prompts.list(&tenant, &page).await.map_err(|e| store_error(e, Named::Prompt("")))?;
    Ok(HttpResponse::Ok().json(list(listed, object)))
}

pub async fn retrieve(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    id: web::Path<String>,
    mut query: Query,
) -> Answer {
    let version = query.text("version")?;
    query.end()?;
    let version = match version {
        Some(version) => Some(
            parse_version(&Value::String(version))
                .ok_or_else(|| WireError::invalid("version", "'version' must be a number, such as 1."))?,
        ),
        None => None,
    };
    let found =
        edge.generations.prompts.get(&tenant, &id, version).await.map_err(|e| store_error(e, Named::Prompt(&id)))?;
    Ok(HttpResponse::Ok().json(object(found)))
}

pub async fn delete(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    edge.generations.prompts.delete(&tenant, &id).await.map_err(|e| store_error(e, Named::Prompt(&id)))?;
    Ok(HttpResponse::Ok().json(Deleted { id: &id, object: "prompt.deleted", deleted: true }))
}
