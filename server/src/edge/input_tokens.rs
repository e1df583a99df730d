//! `POST /v1/responses/input_tokens`: how many tokens a request's prompt has.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    Edge,
    api::{Answer, JsonBody, parsed},
    auth::Tenant,
    headers,
};
use crate::{generation::Caller, wire::request::Create};

pub async fn count(edge: web::Data<Edge>, Tenant(tenant): Tenant, JsonBody(mut body): JsonBody) -> Answer {
    if let Some(fields) = body.as_object_mut() {
        // A style of the answer, which changes no prompt here.
        fields.remove("personality");
    }
    let create = parsed(body, Create::from_value).await?;
    let ignored = create.ignored.clone();
    let input_tokens = edge.generations.count_input_tokens(&tenant, create, Caller::without_resume()).await?;
    let answer = HttpResponse::Ok().json(json!({"object": "response.input_tokens", "input_tokens": input_tokens}));
    Ok(headers::ignored(answer, &ignored))
}
