//! `POST /v1/responses/compact`.

use actix_web::{HttpResponse, web};

use crate::{
    edge::{
        body::{JsonBody, parsed},
        error::Answer,
        extract::Identified,
        grants::limited_key,
        headers,
        state::Edge,
        traced::Traced,
    },
    generation::Caller,
    wire::request::Create,
};

pub async fn create(
    edge: web::Data<Edge>,
    traced: Traced,
    Identified(identity): Identified,
    JsonBody(body): JsonBody,
) -> Answer {
    let create = parsed(body, Create::to_compact).await?;
    let caller = Caller::without_resume(traced.origin()).with_key(limited_key(&identity));
    let compacted = edge.generations.compact(&identity.tenant, create, caller).await;
    let answer = compacted.map(|compacted| HttpResponse::Ok().json(compacted)).map_err(Into::into);
    headers::rates(&edge, &identity, answer).await
}
