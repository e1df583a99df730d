//! `POST /v1/responses/input_tokens`: counts the tokens of a request's prompt.

use actix_web::{HttpResponse, web};

use crate::{
    edge::{
        body::{JsonBody, parsed},
        error::Answer,
        extract::Identified,
        grants, headers,
        state::Edge,
    },
    generation::Caller,
    store::Origin,
    wire::{object::InputTokens, request::Create},
};

pub async fn count(edge: web::Data<Edge>, Identified(identity): Identified, JsonBody(mut body): JsonBody) -> Answer {
    if let Some(fields) = body.as_object_mut() {
        // OpenAI's style of the answer, which has no effect on the prompt.
        fields.remove("personality");
    }
    let mut create = parsed(body, Create::from_value).await?;
    grants::hold(&edge, &identity, &mut create)?;
    let ignored = create.ignored.clone();
    let input_tokens = edge
        .generations
        .count_input_tokens(&identity.tenant, create, Caller::without_resume(Origin::default()))
        .await?;
    let answer = HttpResponse::Ok().json(InputTokens { object: "response.input_tokens", input_tokens });
    Ok(headers::ignored(answer, &ignored))
}
