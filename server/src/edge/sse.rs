//! A followed response as server-sent events: `event:` equals the body's type, no `id:`, `[DONE]` at the end.

use actix_web::{HttpResponse, http::header, web::Bytes};
use futures::stream;

use crate::{generation::Follow, wire::error::ErrorEvent, wire::event::Numbered};

/// Pull-driven: the next event is rendered when the socket has taken the last one.
pub fn stream(follow: Follow) -> HttpResponse {
    let events = stream::unfold(Some(follow), |follow| async {
        let mut follow = follow?;
        let (text, rest) = match follow.next().await {
            Some(Ok((sequence_number, event))) => {
                let body = Numbered { event: &event, sequence_number, response_id: None, stream_id: None };
                (frame(event.name(), &body), Some(follow))
            }
            Some(Err(error)) => (frame("error", &ErrorEvent::new(&error, None)), None),
            None => ("data: [DONE]\n\n".to_owned(), None),
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), rest))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(events)
}

fn frame(name: &str, body: &impl serde::Serialize) -> String {
    let body = serde_json::to_string(body).unwrap_or_default();
    format!("event: {name}\ndata: {body}\n\n")
}
