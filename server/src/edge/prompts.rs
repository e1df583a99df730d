//! `/v1/prompts`: stored prompts.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    api::{Answer, JsonBody},
    auth::Tenant,
    paging::{PageQuery, list},
};
use crate::{
    generation::prompts::prompt_error,
    store::prompts::StoredPrompt,
    wire::{
        error::WireError,
        prompt::{PutPrompt, parse_version},
    },
};

pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/prompts", web::post().to(put))
        .route("/prompts", web::get().to(list_all))
        .route("/prompts/{id}", web::get().to(retrieve))
        .route("/prompts/{id}", web::delete().to(delete));
}

fn object(prompt: StoredPrompt) -> Value {
    let StoredPrompt { id, version, created_at, template, .. } = prompt;
    let messages: Vec<Value> =
        template.messages.iter().map(|message| json!({"role": message.role, "content": message.text})).collect();
    json!({"id": id, "object": "prompt", "version": version.to_string(), "created_at": created_at, "name": template.name,
           "instructions": template.instructions, "messages": messages, "variables": template.variables})
}

async fn put(edge: web::Data<Edge>, Tenant(tenant): Tenant, JsonBody(body): JsonBody) -> Answer {
    let stored = edge.generations.put_prompt(&tenant, PutPrompt::from_value(body)?).await?;
    Ok(HttpResponse::Ok().json(object(stored)))
}

async fn list_all(edge: web::Data<Edge>, Tenant(tenant): Tenant, query: web::Query<PageQuery>) -> Answer {
    let page = query.into_inner().page()?;
    let listed = edge.generations.prompts.list(&tenant, &page).await.map_err(|e| prompt_error(e, ""))?;
    Ok(HttpResponse::Ok().json(list(listed, object)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retrieve {
    version: Option<String>,
}

async fn retrieve(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    id: web::Path<String>,
    query: web::Query<Retrieve>,
) -> Answer {
    let version = match query.into_inner().version {
        Some(version) => Some(
            parse_version(&Value::String(version))
                .ok_or_else(|| WireError::invalid("version", "'version' must be such as 1."))?,
        ),
        None => None,
    };
    let found = edge.generations.prompts.get(&tenant, &id, version).await.map_err(|e| prompt_error(e, &id))?;
    Ok(HttpResponse::Ok().json(object(found)))
}

async fn delete(edge: web::Data<Edge>, Tenant(tenant): Tenant, id: web::Path<String>) -> Answer {
    edge.generations.prompts.delete(&tenant, &id).await.map_err(|e| prompt_error(e, &id))?;
    Ok(HttpResponse::Ok().json(json!({"id": *id, "object": "prompt.deleted", "deleted": true})))
}
