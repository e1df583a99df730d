//! `POST /v1/chat/completions`.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use futures::future::try_join_all;
use serde_json::Value;

use super::responses;
use crate::{
    access::Identity,
    edge::{
        body::{JsonBody, parsed},
        error::Answer,
        extract::Identified,
        grants, headers,
        sse::{self, ChatStream},
        state::Edge,
        traced::Traced,
    },
    generation::{Caller, Follow},
    render::chat,
    store::OnDisconnect,
    wire::{chat::ChatRequest, error::WireError, request::Create, response::Status},
};

pub async fn create(
    edge: web::Data<Edge>,
    traced: Traced,
    Identified(identity): Identified,
    JsonBody(body): JsonBody,
) -> Answer {
    let answer = try_create(&edge, &identity, body, traced).await;
    headers::rates(&edge, &identity, answer).await
}

async fn try_create(edge: &web::Data<Edge>, identity: &Arc<Identity>, body: Value, traced: Traced) -> Answer {
    let tenant = identity.tenant.as_str();
    let mut chat = parsed(body, ChatRequest::from_value).await?;
    grants::hold(edge, identity, &mut chat.create)?;
    let (stream, include_usage, ignored) = (chat.stream, chat.include_usage, chat.create.ignored.clone());
    let follows = follows(edge, identity, chat, &traced).await?;
    let answer = if stream {
        let first = follows.first().map(|follow| follow.id.clone()).unwrap_or_default();
        let first = edge.generations.retrieve(tenant, &first).await?;
        sse::chunks(edge, identity, ChatStream { follows, first, include_usage, traced })
    } else {
        let responses = try_join_all(follows.into_iter().map(responses::ended)).await?;
        if responses.iter().any(|response| response.status == Status::Failed) {
            return Err(WireError::EngineFailed.into());
        }
        HttpResponse::Ok().json(chat::completion(&responses))
    };
    Ok(headers::ignored(answer, &ignored))
}

/// Creates and follows a response for each choice. If one cannot be created, the earlier ones lose their followers and end.
async fn follows(
    edge: &Edge,
    identity: &Identity,
    chat: ChatRequest,
    traced: &Traced,
) -> Result<Vec<Follow>, WireError> {
    let tenant = identity.tenant.as_str();
    let mut follows = Vec::new();
    for choice in 0..chat.choices {
        let create = Create {
            // The choices of a seeded request differ, and the same seed repeats each of them.
            seed: chat.create.seed.map(|seed| seed.wrapping_add(u64::from(choice))),
            ..chat.create.clone()
        };
        let caller = Caller::without_resume(traced.origin()).with_key(grants::limited_key(identity));
        let created = edge.generations.create(tenant, create, caller).await;
        let created =
            created.inspect_err(|error| traced.span.fail(error.code().0)).map_err(|error| chat.rename(error))?;
        follows.push(edge.generations.follow(tenant, &created.id, None, OnDisconnect::Cancel).await?);
    }
    Ok(follows)
}
