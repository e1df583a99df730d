//! WebSockets. `guard` limits incoming bytes, `connection` runs one connection, `arrival` queues its requests, `lanes` orders them,
//! `outbox` queues frames, and `writer` is the only code that writes to the socket.

mod arrival;
mod connection;
mod guard;
mod lanes;
mod outbox;
mod steering;
mod turns;
mod writer;

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    http::header::{self, HeaderValue},
    rt, web,
};

use connection::{Incoming, SocketClient};
use futures::StreamExt;
use guard::FrameGuard;

use super::{error::ApiError, extract::Identified, peer, state::Edge, traced};
use crate::{
    generation::budget::BudgetShare,
    limits::HELD_RETRY_MS,
    wire::{KEY_SUBPROTOCOL_PREFIX, SUBPROTOCOL, error::WireError},
};

/// Answers `GET /v1/responses` with an upgrade to a WebSocket.
pub async fn upgrade(
    edge: web::Data<Edge>,
    Identified(identity): Identified,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let limit = edge.settings.server.max_message_bytes;
    let held = hold(&edge, &identity.tenant, &request).inspect_err(|error| edge.generations.metrics.refused(error))?;
    let (guard, arriving) = FrameGuard::new(body.into_inner(), limit, edge.generations.budget(&identity.tenant));
    let body = web::Payload::from_request(&request, &mut Payload::from(guard.boxed_local())).await.map_err(refused)?;
    let (selected, handshake) = (selected(&request), traced::sent(&request));
    let extensions = selected.as_deref() == Some(SUBPROTOCOL);
    let (mut response, session, messages) = actix_ws::handle(&request, body).map_err(refused)?;
    if let Some(selected) = selected.and_then(|selected| HeaderValue::try_from(selected).ok()) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, selected);
    }
    let messages = messages.max_frame_size(limit).aggregate_continuations().max_continuation_size(limit);
    let incoming = Incoming { messages, arriving };
    rt::spawn(connection::run(edge, SocketClient { identity, extensions, handshake, _held: held }, session, incoming));
    Ok(response)
}

/// Counts the socket for its tenant and its address.
fn hold(edge: &Edge, tenant: &str, request: &HttpRequest) -> Result<(BudgetShare, Option<BudgetShare>), WireError> {
    let of_tenant = edge.generations.hold_socket(tenant)?;
    let Some(address) = peer::address(request.head(), &edge.settings.server.trusted_proxies) else {
        return Ok((of_tenant, None));
    };
    let budget = edge.sockets.of(&address.to_string());
    let held = budget.hold(1).ok_or_else(|| {
        let (of, setting) = ("address", "server.sockets_per_address");
        WireError::TooManySockets { of, setting, most: budget.most(), retry_after_ms: HELD_RETRY_MS }
    })?;
    Ok((of_tenant, Some(held)))
}

/// Returns the selected subprotocol: the server's if the client offers it, else the first offer without a key, else the first.
/// Browsers fail a connection if the server selects none of the offers.
fn selected(request: &HttpRequest) -> Option<String> {
    let offers = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> =
        offers.flat_map(|value| value.split(',')).map(str::trim).filter(|p| !p.is_empty()).collect();
    let ours = offered.iter().find(|protocol| **protocol == SUBPROTOCOL);
    let no_key = || offered.iter().find(|protocol| !protocol.starts_with(KEY_SUBPROTOCOL_PREFIX));
    ours.or_else(no_key).or(offered.first()).map(|protocol| (*protocol).to_owned())
}

fn refused(error: impl std::fmt::Display) -> WireError {
    WireError::UpgradeRequired(error.to_string())
}
