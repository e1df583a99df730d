//! `/admin`: operations on a running server. They need `auth.admin_key` or a key with the scope `admin`.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{HttpResponse, http::StatusCode, web};
use futures::future::try_join_all;
use serde_json::json;

use crate::{
    edge::{error::Answer, extract::Admin, state::Edge},
    engine::{ModelInfo, ReloadError},
    generation::Counted,
    metrics::CONTENT_TYPE,
    wire::{
        error::WireError,
        object::{ModelOutline, PromptCacheReport, ReloadReport, TenantCache},
    },
};

/// Reloads a model's files and switches to the new model. The reload continues if the client disconnects.
pub async fn reload(edge: web::Data<Edge>, _: Admin, id: web::Path<String>) -> Answer {
    match edge.generations.engine().reload(&id).await {
        Ok(reloaded) => Ok(HttpResponse::Ok().json(ReloadReport {
            id: reloaded.new.id.clone(),
            object: "model.reloaded",
            old: outline(&reloaded.old),
            new: outline(&reloaded.new),
            took_ms: u64::try_from(reloaded.took.as_millis()).unwrap_or(u64::MAX),
        })),
        Err(error) => {
            let (status, kind, code) = match error {
                ReloadError::UnknownModel(_) => (StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found"),
                ReloadError::InProgress(_) => (StatusCode::CONFLICT, "invalid_request_error", "reload_in_progress"),
                ReloadError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "reload_failed"),
            };
            if matches!(error, ReloadError::Failed(_)) {
                tracing::error!(model = *id, %error, "a reload failed");
            }
            let body = json!({"type": kind, "code": code, "message": error.to_string(), "param": null});
            Ok(HttpResponse::build(status).json(json!({ "error": body })))
        }
    }
}

/// Returns the metrics of this replica, for Prometheus.
pub async fn metrics(edge: web::Data<Edge>, _: Admin) -> HttpResponse {
    let text = edge.generations.metrics_text(&edge.auth.access.tenants()).await;
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(text)
}

/// Returns the counts of the prompt cache on this replica since its start, and the size of each tenant's cache on all replicas.
pub async fn cache(edge: web::Data<Edge>, _: Admin) -> Answer {
    let generations = &edge.generations;
    let sizes = edge.auth.access.tenants().into_iter().map(async |tenant| {
        let size = generations.cache_size(&tenant).await?;
        Ok::<_, WireError>((tenant, TenantCache { bytes: size.bytes, evicted: size.evicted }))
    });
    let tenants: BTreeMap<_, _> = try_join_all(sizes).await?.into_iter().collect();
    let Counted { hits, joined, misses, in_flight } = generations.cache_counts();
    Ok(HttpResponse::Ok().json(PromptCacheReport { object: "prompt_cache", hits, joined, misses, in_flight, tenants }))
}

fn outline(model: &Arc<ModelInfo>) -> ModelOutline {
    let (created, quantisation) = (model.created, model.quantisation.clone());
    ModelOutline { created, quantisation, context_length: model.context_length }
}
