//! `POST /v1/responses/compact`.

use actix_web::{HttpResponse, web};

use super::{
    Edge,
    api::{Answer, JsonBody, parsed},
    auth::Tenant,
    headers,
    traced::Traced,
};
use crate::{generation::Caller, wire::compaction::parse_compact};

pub async fn create(edge: web::Data<Edge>, traced: Traced, Tenant(tenant): Tenant, JsonBody(body): JsonBody) -> Answer {
    let create = parsed(body, parse_compact).await?;
    let compacted = edge.generations.compact(&tenant, create, Caller::without_resume(traced.origin())).await;
    let answer = compacted.map(|compacted| HttpResponse::Ok().json(compacted)).map_err(Into::into);
    headers::rates(&edge, &tenant, answer).await
}
