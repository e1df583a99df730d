//! WebSockets: `guard` bounds what arrives, `connection` is the life of one, `lanes` its requests in order, `outbox` what
//! waits to be sent, `writer` the only code that touches the socket.

mod connection;
mod guard;
mod lanes;
mod outbox;
mod turns;
mod writer;

use actix_web::{FromRequest, HttpRequest, HttpResponse, dev::Payload, rt, web};

use connection::Incoming;
use futures::StreamExt;
use guard::FrameGuard;

use super::{Edge, api::ApiError, auth::Tenant};
use crate::wire::{SUBPROTOCOL, error::WireError};

/// `GET /v1/responses` with an upgrade.
pub async fn upgrade(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let limit = edge.settings.server.max_message_bytes;
    let (guard, violation) = FrameGuard::new(body.into_inner(), limit);
    let body = web::Payload::from_request(&request, &mut Payload::from(guard.boxed_local())).await.map_err(refused)?;
    let (response, session, messages) =
        actix_ws::handle_with_protocols(&request, body, &[SUBPROTOCOL]).map_err(refused)?;
    let extensions = response.headers().contains_key("sec-websocket-protocol");
    let messages = messages.max_frame_size(limit).aggregate_continuations().max_continuation_size(limit);
    let incoming = Incoming { messages, violation };
    rt::spawn(connection::run(edge, tenant, extensions, session, incoming));
    Ok(response)
}

fn refused(error: impl std::fmt::Display) -> WireError {
    WireError::invalid("upgrade", format!("This address speaks WebSocket: {error}."))
}
