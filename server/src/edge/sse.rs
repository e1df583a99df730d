//! Followed responses as server-sent events. Pull-driven: an event is rendered when the socket has accepted the previous one.
//! During a pause the server sends comment lines, so that no proxy or client takes the stream for dead. When the key of the
//! request expires or is revoked, the stream ends with an error and the generation continues. The last data line is `[DONE]`,
//! also after an error.

use std::{convert::Infallible, sync::Arc, time::Duration};

use actix_web::{
    HttpResponse,
    http::header,
    web::{self, Bytes},
};
use futures::{FutureExt, Stream, StreamExt, future::LocalBoxFuture, stream};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::{state::Edge, traced::Traced};
use crate::{
    access::{Denied, Identity},
    generation::Follow,
    render::chat::ChatRenderer,
    wire::{
        chat::ChatUsage,
        error::{ErrorEvent, WireError},
        event::{Event, Numbered},
        response::Response,
    },
};

const DONE: &str = "data: [DONE]\n\n";
/// A comment line, which clients ignore.
const COMMENT: &str = ": keep-alive\n\n";

/// Streams a response. `event:` equals the event's `type`; there is no `id:`.
pub fn responses(
    edge: &web::Data<Edge>,
    identity: &Arc<Identity>,
    follow: Follow,
    traced: Option<Traced>,
) -> HttpResponse {
    let runs = vec![follow.run.clone()];
    let frames = events(follow).map(|next| match next {
        Ok((sequence_number, event)) => {
            let body = Numbered::of_response(&event, sequence_number);
            named(event.name(), &body)
        }
        Err(error) => named("error", &ErrorEvent::new(&error, None)),
    });
    let revoked = named("error", &ErrorEvent::new(&WireError::KeyEnded, None));
    answer(edge, Ending::new(edge, identity, runs, revoked), frames, traced)
}

/// The choices of a chat completion, and the values that their streams share.
pub struct ChatStream {
    pub follows: Vec<Follow>,
    /// The response of the first choice. All chunks have its id.
    pub first: Response,
    pub include_usage: bool,
    pub traced: Traced,
}

/// Streams a chat completion, in data lines only. The chunks of all choices are sent in the order of their generation.
pub fn chunks(edge: &web::Data<Edge>, identity: &Arc<Identity>, chat: ChatStream) -> HttpResponse {
    let ChatStream { follows, first, include_usage, traced } = chat;
    let runs = follows.iter().map(|follow| follow.run.clone()).collect();
    let choices = (0..).zip(follows).map(|(index, follow)| {
        let mut renderer = ChatRenderer::new(first.clone(), index, include_usage);
        let events = events(follow).map(Some).chain(stream::iter([None]));
        events.map(move |next| match next {
            Some(Ok((_, Event::Failed { .. }))) => {
                Piece::Frame(data(&json!({"error": WireError::EngineFailed.body()})))
            }
            Some(Ok((_, event))) => Piece::Frame(renderer.event(event).iter().map(data).collect()),
            Some(Err(error)) => Piece::Frame(data(&json!({"error": error.body()}))),
            None => Piece::Used(renderer.usage.take()),
        })
    });
    let pieces = stream::select_all(choices.map(StreamExt::boxed_local).collect::<Vec<_>>());
    let renderer = ChatRenderer::new(first, 0, include_usage);
    let last = move |used: Option<ChatUsage>| match used.filter(|_| include_usage) {
        Some(usage) => data(&renderer.usage_chunk(usage)),
        None => String::new(),
    };
    let begin = (pieces.boxed_local(), None::<ChatUsage>, Some(last));
    let frames = stream::unfold(begin, |(mut pieces, used, last)| async move {
        match pieces.next().await {
            Some(Piece::Frame(frame)) => Some((frame, (pieces, used, last))),
            Some(Piece::Used(more)) => {
                let used = match (used, more) {
                    (Some(used), Some(more)) => Some(used.together(more)),
                    (used, more) => used.or(more),
                };
                Some((String::new(), (pieces, used, last)))
            }
            None => Some((last?(used), (pieces, None, None))),
        }
    });
    let revoked = data(&json!({"error": WireError::KeyEnded.body()}));
    answer(edge, Ending::new(edge, identity, runs, revoked), frames, Some(traced))
}

/// A piece of a choice.
enum Piece {
    Frame(String),
    /// The usage of the choice. This is its last piece.
    Used(Option<ChatUsage>),
}

/// Returns the events of a response up to the last one.
fn events(follow: Follow) -> impl Stream<Item = Result<(u64, Event), WireError>> {
    stream::unfold(follow, |mut follow| async { follow.next().await.map(|next| (next, follow)) })
}

/// Ends a stream early when the key that opened the stream expires or is revoked.
struct Ending {
    denied: LocalBoxFuture<'static, Denied>,
    edge: web::Data<Edge>,
    /// The followed generations.
    runs: Vec<String>,
    /// The last frame.
    frame: String,
}

impl Ending {
    fn new(edge: &web::Data<Edge>, identity: &Arc<Identity>, runs: Vec<String>, frame: String) -> Self {
        let (access, identity) = (edge.auth.access.clone(), identity.clone());
        let denied = async move { access.ended(&identity).await }.boxed_local();
        Self { denied, edge: edge.clone(), runs, frame }
    }

    /// Returns the last bytes of the stream. Lets the generations continue without this follower.
    fn end(self, denied: Denied) -> String {
        self.edge.generations.metrics.denied(denied.reason());
        self.runs.iter().for_each(|run| self.edge.generations.spare(run));
        self.frame + DONE
    }
}

/// Builds the streaming answer. The span of `traced` ends with the stream.
fn answer(
    edge: &Edge,
    ending: Ending,
    frames: impl Stream<Item = String> + 'static,
    traced: Option<Traced>,
) -> HttpResponse {
    let pause = Duration::from_millis(edge.settings.server.sse_comment_ms);
    // Some events have no frame, and an empty piece would end the body.
    let frames = frames.filter(|frame| std::future::ready(!frame.is_empty())).boxed_local();
    let body = stream::unfold(Some((frames, ending, traced)), move |state| async move {
        let (mut frames, mut ending, traced) = state?;
        let next = tokio::select! {
            biased;
            denied = &mut ending.denied => return Some((Ok(Bytes::from(ending.end(denied))), None)),
            next = timeout(pause, frames.next()) => next,
        };
        match next {
            Ok(Some(frame)) => Some((Ok::<_, Infallible>(Bytes::from(frame)), Some((frames, ending, traced)))),
            Ok(None) => Some((Ok(Bytes::from_static(DONE.as_bytes())), None)),
            Err(_) => Some((Ok(Bytes::from_static(COMMENT.as_bytes())), Some((frames, ending, traced)))),
        }
    });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(body)
}

fn named(name: &str, body: &impl Serialize) -> String {
    format!("event: {name}\n{}", data(body))
}

fn data(body: &impl Serialize) -> String {
    format!("data: {}\n\n", serde_json::to_string(body).unwrap_or_default())
}
