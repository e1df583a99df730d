//! A followed response as server-sent events. Pull-driven: the next event is rendered when the socket has taken the last.

use actix_web::{HttpResponse, http::header, web::Bytes};
use futures::stream;
use serde::Serialize;
use serde_json::json;

use crate::{
    generation::Follow,
    render::chat::ChatRenderer,
    wire::{
        error::{ErrorEvent, WireError},
        event::{Event, Numbered},
        response::Response,
    },
};

const DONE: &str = "data: [DONE]\n\n";

/// Responses: `event:` equals the body's type, no `id:`, `[DONE]` at the end.
pub fn responses(follow: Follow) -> HttpResponse {
    render(follow, |next| match next {
        Ok((sequence_number, event)) => {
            let body = Numbered { event: &event, sequence_number, response_id: None, stream_id: None };
            named(event.name(), &body)
        }
        Err(error) => named("error", &ErrorEvent::new(&error, None)),
    })
}

/// Chat completions: data only, `[DONE]` at the end.
pub fn chunks(follow: Follow, response: Response, include_usage: bool) -> HttpResponse {
    let mut renderer = ChatRenderer::new(response, include_usage);
    render(follow, move |next| match next {
        Ok((_, Event::Failed { .. })) => data(&json!({"error": WireError::EngineFailed.body()})),
        Ok((_, event)) => renderer.event(event).iter().map(data).collect(),
        Err(error) => data(&json!({"error": error.body()})),
    })
}

fn render(follow: Follow, frame: impl FnMut(Result<(u64, Event), WireError>) -> String + 'static) -> HttpResponse {
    let events = stream::unfold(Some((follow, frame)), |state| async {
        let (mut follow, mut frame) = state?;
        // An event may have no frame of its own here, and an empty piece would end the body.
        while let Some(next) = follow.next().await {
            let failed = next.is_err();
            let text = frame(next);
            if !text.is_empty() {
                return Some((
                    Ok::<_, std::convert::Infallible>(Bytes::from(text)),
                    (!failed).then_some((follow, frame)),
                ));
            }
        }
        Some((Ok(Bytes::from_static(DONE.as_bytes())), None))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(events)
}

fn named(name: &str, body: &impl Serialize) -> String {
    format!("event: {name}\n{}", data(body))
}

fn data(body: &impl Serialize) -> String {
    format!("data: {}\n\n", serde_json::to_string(body).unwrap_or_default())
}
