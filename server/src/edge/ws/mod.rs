//! WebSockets: `connection` is the life of one, `lanes` its requests in order, `outbox` what waits to be sent, `writer`
//! the only code that touches the socket.

mod connection;
mod lanes;
mod outbox;
mod writer;

use actix_web::{HttpRequest, HttpResponse, rt, web};

use super::{Edge, auth::Tenant, http::ApiError};
use crate::wire::{SUBPROTOCOL, error::WireError};

/// `GET /v1/responses` with an upgrade.
pub async fn upgrade(
    edge: web::Data<Edge>,
    Tenant(tenant): Tenant,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let (response, session, messages) = actix_ws::handle_with_protocols(&request, body, &[SUBPROTOCOL])
        .map_err(|error| WireError::invalid("upgrade", format!("This address speaks WebSocket: {error}.")))?;
    let extensions = response.headers().contains_key("sec-websocket-protocol");
    let limit = edge.settings.server.max_message_bytes;
    let messages = messages.max_frame_size(limit).aggregate_continuations().max_continuation_size(limit);
    rt::spawn(connection::run(edge, tenant, extensions, session, messages));
    Ok(response)
}
